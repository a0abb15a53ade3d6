"""Small systems, as many at a time as a vector has lanes, each solved in a lane of its own.

One such system alone leaves the processor waiting for one number after the other. What happens in a lane does
not depend on the others, so a row's solution is the same in whatever company it is solved.
"""

from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from mfpipe.kernels import part
from mfpipe.kernels.registers import FUSED, Matrix, lanes
from mfpipe.kernels.tiles import transposed


@part
def solve_batch(systems, moments, size, slack, lanewise, solutions, solved):
    """Solve as many systems as a vector has lanes, each as `factorise` and `substitute` do one, by LDLᵀ.

    Parameters
    ----------
    systems : floating, shape (LANES, LANES, LANES)
        Their upper triangles, as for `factorise`.
    moments : floating, shape (LANES, any, LANES)
        The first of each is its right-hand side.
    size, slack
        As for `factorise`.
    lanewise : work, floating, shape (LANES + 1, LANES, LANES)
        The systems and, as one row more, the right-hand sides, with the dimension of the systems last.
    solutions : out, floating, shape (LANES, LANES)
    solved : out, bool, shape (LANES,)
        False where the system is singular to working precision.
    """
    right = lanewise[lanes(systems)]
    for i in range(lanes(systems)):
        copy_lanes(lanewise[i], systems, i * lanes(systems))
    copy_lanes(right, moments, 0)
    floor = systems.dtype.type(slack * size * np.finfo(systems.dtype).eps)
    eliminate_lanes(lanewise, right, size, floor, solutions)
    for b in range(lanes(systems)):
        solved[b] = solutions[0, b] > 0
    substitute_lanes(lanewise, right, size)
    for b in range(lanes(systems)):
        for k in range(size):
            solutions[b, k] = right[k, b]


@intrinsic
def copy_lanes(typingctx, lanewise, systems, offset):
    """lanewise[m, b] = systems[b].flat[offset + m] for the numbers m and systems b < LANES."""
    signature = types.void(lanewise, systems, types.intp)

    def build(context, builder, signature, args):
        target, source = (Matrix(context, builder, signature.args[k], args[k]) for k in (0, 1))
        _, _, offset = args
        starts = [source.at(source.constant(b), offset) for b in range(source.lanes)]
        for m, vector in enumerate(transposed(builder, [source.load(start) for start in starts])):
            target.store(vector, target.at(target.constant(m), target.constant(0)))
        return context.get_dummy_value()

    return signature, build


@intrinsic
def eliminate_lanes(typingctx, lanewise, right, size, floor, good):
    """Eliminate below the diagonals, which then hold reciprocals, or zero where a pivot was too small.

    Too small is `floor` times the largest on the diagonal; the first row of `good` becomes 1 in the lanes
    where no pivot was, 0 in the others.
    """
    signature = types.void(lanewise, right, types.intp, lanewise.dtype, good)

    def build(context, builder, signature, args):
        matrix, right, good = (Matrix(context, builder, signature.args[k], args[k]) for k in (0, 1, 4))
        size, one = args[2], matrix.constant(1)
        zeros, ones = (ir.Constant(matrix.vector, [number] * matrix.lanes) for number in (0.0, 1.0))
        largest, whole = matrix.registers([zeros, ones])
        with cgutils.for_range(builder, size, intp=size.type) as step:
            diagonal, most = matrix.load(_element(matrix, step.index, step.index)), builder.load(largest)
            more = builder.fcmp_ordered(">", diagonal, most)
            builder.store(builder.select(more, diagonal, most), largest)
        floor = builder.fmul(builder.load(largest), matrix.splat(args[3]))
        with cgutils.for_range(builder, size, intp=size.type) as step:
            k = step.index
            pivot = matrix.load(_element(matrix, k, k))
            enough = builder.fcmp_ordered(">", pivot, floor)
            inverse = builder.select(enough, builder.fdiv(ones, pivot), zeros)
            matrix.store(inverse, _element(matrix, k, k))
            builder.store(builder.select(enough, builder.load(whole), zeros), whole)

            def subtract(column: Callable, pivotal, end):
                scaled = builder.fmul(pivotal, inverse)
                with cgutils.for_range_slice(builder, builder.add(k, one), end, one, size.type) as (i, _):
                    product = builder.fmul(matrix.load(_element(matrix, k, i)), scaled, flags=FUSED)
                    matrix.store(builder.fsub(matrix.load(column(i)), product, flags=FUSED), column(i))

            with cgutils.for_range_slice(builder, builder.add(k, one), size, one, size.type) as (j, _):
                pivotal = matrix.load(_element(matrix, k, j))
                subtract(lambda i, j=j: _element(matrix, i, j), pivotal, builder.add(j, one))
            subtract(lambda i: _number(right, i), matrix.load(_number(right, k)), size)
        matrix.store(builder.load(whole), good.data)
        return context.get_dummy_value()

    return signature, build


@intrinsic
def substitute_lanes(typingctx, lanewise, right, size):
    """Solve the eliminated systems from their last unknown to the first, in place of `right`."""
    signature = types.void(lanewise, right, types.intp)

    def build(context, builder, signature, args):
        matrix, right = (Matrix(context, builder, signature.args[k], args[k]) for k in (0, 1))
        size, one = args[2], matrix.constant(1)
        with cgutils.for_range(builder, size, intp=size.type) as step:
            i = builder.sub(builder.sub(size, one), step.index)
            (value,) = matrix.registers([matrix.load(_number(right, i))])
            with cgutils.for_range_slice(builder, builder.add(i, one), size, one, size.type) as (j, _):
                known = matrix.load(_number(right, j))
                product = builder.fmul(matrix.load(_element(matrix, i, j)), known, flags=FUSED)
                builder.store(builder.fsub(builder.load(value), product, flags=FUSED), value)
            solved = builder.fmul(builder.load(value), matrix.load(_element(matrix, i, i)))
            matrix.store(solved, _number(right, i))
        return context.get_dummy_value()

    return signature, build


def _element(lanewise: Matrix, i, j):
    """The address of element (i, j) of all systems."""
    return lanewise.at(i, lanewise.builder.mul(j, lanewise.constant(lanewise.lanes)))


def _number(right: Matrix, i):
    """The address of number i of all right-hand sides."""
    return right.at(i, right.constant(0))
