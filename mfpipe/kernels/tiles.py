"""The two inner loops that all the arithmetic goes through, as register tiles.

A tile is ROWS rows of one vector of LANES numbers, held in eight vector registers while the loop runs;
numba's own code for the same sums reaches a third to a half of this rate (docs/measurements.md). LLVM
splits a vector that the processor does not have, so the code is right on every processor, and fast where
the constants below fit it.
"""

from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

FUSED = ("contract",)


def vector_bytes(features: str) -> int:
    """Bytes of a vector register, from LLVM's list of a processor's features."""
    has = features.split(",")
    return 64 if "+avx512f" in has else 32 if "+avx2" in has else 16


def tile_shape(itemsize: int, register: int) -> tuple[int, int]:
    """Rows and lanes of a tile that fills eight registers: one a row, or two where they are short."""
    lanes = register // itemsize
    return (8, lanes) if lanes >= 8 else (4, 2 * lanes)


REGISTER = vector_bytes(get_host_cpu_features() if config.CPU_FEATURES is None else config.CPU_FEATURES)
"""Of the processor that numba compiles for; part of what its cache is keyed by."""


def shape_of(dtype) -> tuple[int, int]:
    """Rows and lanes of the tiles of a type on this processor."""
    return tile_shape(np.dtype(dtype).itemsize, REGISTER)


@intrinsic
def lanes(typingctx, array):
    """Lanes of the tiles of an array's type: what the width of a padded array is a multiple of."""
    number = shape_of(str(array.dtype))[1]
    return types.intp(array), lambda context, *_: context.get_constant(types.intp, number)


@intrinsic
def tile_rows(typingctx, array):
    """Rows of the tiles of an array's type; divides `lanes`."""
    number = shape_of(str(array.dtype))[0]
    return types.intp(array), lambda context, *_: context.get_constant(types.intp, number)


class _Matrix:
    """A C-ordered array inside the code being built: addresses of its elements, loads and stores."""

    def __init__(self, context, builder, kind, value, square=False):
        array = context.make_array(kind)(context, builder, value)
        self.context, self.builder, self.data = context, builder, array.data
        self.align = kind.dtype.bitwidth // 8
        strides = cgutils.unpack_tuple(builder, array.strides)
        self.stride = builder.sdiv(strides[0], self.constant(self.align))
        self.element = context.get_data_type(kind.dtype)
        self.rows, self.lanes = shape_of(str(kind.dtype))
        if square:
            self.lanes = self.rows
        self.vector = ir.VectorType(self.element, self.lanes)

    def constant(self, number: int):
        return self.context.get_constant(types.intp, number)

    def at(self, row, column):
        return self.builder.gep(self.data, [self.builder.add(self.builder.mul(row, self.stride), column)])

    def below(self, address, rows):
        return self.builder.gep(address, [self.builder.mul(self.stride, rows)])

    def load(self, address, vector=None):
        pointer = self.builder.bitcast(address, (vector or self.vector).as_pointer())
        return self.builder.load(pointer, align=self.align)

    def store(self, value, address) -> None:
        pointer = self.builder.bitcast(address, value.type.as_pointer())
        self.builder.store(value, pointer, align=self.align)

    def splat(self, scalar):
        """A vector that holds the scalar in every lane."""
        empty = ir.Constant(self.vector, ir.Undefined)
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes)
        first = self.builder.insert_element(empty, scalar, ir.Constant(ir.IntType(32), 0))
        return self.builder.shuffle_vector(first, empty, zeros)

    def scalars(self, address):
        """The ROWS numbers from an address on, each as a vector."""
        for m in range(self.rows):
            yield self.splat(self.builder.load(self.builder.gep(address, [self.constant(m)])))

    def registers(self, values) -> list:
        """Variables that LLVM keeps in registers."""
        slots = []
        for value in values:
            slot = cgutils.alloca_once(self.builder, self.vector)
            self.builder.store(value, slot)
            slots.append(slot)
        return slots

    def accumulate(self, slots, left, right, combine: Callable) -> None:
        """slots[m] ± left[m] · right for every row of the tile."""
        for slot, scalar in zip(slots, self.scalars(left), strict=True):
            product = self.builder.fmul(scalar, right, flags=FUSED)
            self.builder.store(combine(self.builder.load(slot), product, flags=FUSED), slot)


@intrinsic
def copy_rows(typingctx, panel, other, first, columns, begin, size):
    """panel[r, :rank] = other[columns[begin + r], first:] for the rows r < size; the padding stays."""
    signature = types.void(panel, other, types.intp, columns, types.intp, types.intp)

    def build(context, builder, signature, args):
        target, source = (_Matrix(context, builder, signature.args[k], args[k]) for k in (0, 1))
        numbers = context.make_array(signature.args[3])(context, builder, args[3]).data
        _, _, first, _, begin, size = args
        rank, lanes = builder.sub(source.stride, first), target.constant(target.lanes)
        last = builder.sub(rank, lanes)
        whole = builder.icmp_signed(">=", last, target.constant(0))
        with cgutils.for_range(builder, size, intp=size.type) as loop:
            number = builder.load(builder.gep(numbers, [builder.add(begin, loop.index)]))
            start = source.at(builder.sext(number, size.type), first)
            to = target.at(loop.index, target.constant(0))
            with builder.if_else(whole, likely=True) as (vectors, numbers_one_by_one):
                with vectors, cgutils.for_range_slice(builder, target.constant(0), rank, lanes) as (k, _):
                    # The last vector overlaps the one before where the rank is not a multiple.
                    at = builder.select(builder.icmp_signed("<", k, last), k, last)
                    target.store(source.load(builder.gep(start, [at])), builder.gep(to, [at]))
                with numbers_one_by_one, cgutils.for_range(builder, rank, intp=rank.type) as inner:
                    value = builder.load(builder.gep(start, [inner.index]))
                    builder.store(value, builder.gep(to, [inner.index]))
        return context.get_dummy_value()

    return signature, build


@intrinsic
def copy_turned(typingctx, panel, j, other, first, rank, columns, begin):
    """panel[:rank, j:j+ROWS] = other[columns[begin:begin+ROWS], first:]ᵀ, a square of ROWS at a time."""
    signature = types.void(panel, types.intp, other, types.intp, types.intp, columns, types.intp)

    def build(context, builder, signature, args):
        target, source = (_Matrix(context, builder, signature.args[k], args[k]) for k in (0, 2))
        numbers = context.make_array(signature.args[5])(context, builder, args[5]).data
        _, j, _, first, rank, _, begin = args
        side = target.rows
        starts = []
        for m in range(side):
            number = builder.load(builder.gep(numbers, [builder.add(begin, source.constant(m))]))
            starts.append(source.at(builder.sext(number, j.type), first))
        square = ir.VectorType(target.element, side)
        whole = builder.mul(builder.sdiv(rank, source.constant(side)), source.constant(side))
        with cgutils.for_range_slice(builder, source.constant(0), whole, source.constant(side)) as (k, _):
            rows = [source.load(builder.gep(start, [k]), square) for start in starts]
            for m, row in enumerate(_transposed(builder, rows)):
                target.store(row, target.at(builder.add(k, target.constant(m)), j))
        with cgutils.for_range_slice(builder, whole, rank, source.constant(1)) as (k, _):
            for m, start in enumerate(starts):
                builder.store(
                    builder.load(builder.gep(start, [k])), target.at(k, builder.add(j, target.constant(m)))
                )
        return context.get_dummy_value()

    return signature, build


def _transposed(builder, rows: list) -> list:
    """The transpose of a square of vectors, by log₂ rounds of interleaving the first and second half."""
    side = len(rows)
    halves = [
        ir.Constant(
            ir.VectorType(ir.IntType(32), side),
            [side * (k % 2) + k // 2 + start for k in range(side)],
        )
        for start in (0, side // 2)
    ]
    for _ in range(side.bit_length() - 1):
        pairs = zip(rows[: side // 2], rows[side // 2 :], strict=True)
        rows = [builder.shuffle_vector(a, b, half) for a, b in pairs for half in halves]
    return rows


def _add_products(context, builder, gram, i, j, panel, size, moments=None, targets=None) -> None:
    corner = gram.at(i, j)
    addresses = [gram.below(corner, gram.constant(m)) for m in range(gram.rows)]
    if moments is not None:
        addresses += [moments.at(moments.constant(m), j) for m in range(2)]
    slots = gram.registers([gram.load(address) for address in addresses])
    left, right = panel.at(panel.constant(0), i), panel.at(panel.constant(0), j)
    with cgutils.for_range(builder, size, intp=size.type) as loop:
        vector = panel.load(panel.below(right, loop.index))
        gram.accumulate(slots[: gram.rows], panel.below(left, loop.index), vector, builder.fadd)
        if moments is not None:
            weighted, plain = slots[gram.rows :]
            weight = gram.splat(builder.load(builder.gep(targets.data, [loop.index])))
            product = builder.fmul(weight, vector, flags=FUSED)
            builder.store(builder.fadd(builder.load(weighted), product, flags=FUSED), weighted)
            builder.store(builder.fadd(builder.load(plain), vector, flags=FUSED), plain)
    for slot, address in zip(slots, addresses, strict=True):
        gram.store(builder.load(slot), address)


@intrinsic
def add_products(typingctx, gram, i, j, panel, size):
    """gram[i:i+ROWS, j:j+LANES] += Σ panel[r, i:i+ROWS]ᵀ panel[r, j:j+LANES] over the rows r < size."""
    signature = types.void(gram, types.intp, types.intp, panel, types.intp)

    def build(context, builder, signature, args):
        target = _Matrix(context, builder, signature.args[0], args[0])
        source = _Matrix(context, builder, signature.args[3], args[3])
        _add_products(context, builder, target, args[1], args[2], source, args[4])
        return context.get_dummy_value()

    return signature, build


@intrinsic
def add_square(typingctx, gram, i, panel, size):
    """`add_products` for gram[i:i+ROWS, i:i+ROWS] alone."""
    signature = types.void(gram, types.intp, panel, types.intp)

    def build(context, builder, signature, args):
        target, source = (_Matrix(context, builder, signature.args[k], args[k], square=True) for k in (0, 2))
        _add_products(context, builder, target, args[1], args[1], source, args[3])
        return context.get_dummy_value()

    return signature, build


@intrinsic
def add_products_and_moments(typingctx, gram, moments, i, j, panel, targets, size):
    """`add_products`, and moments[:, j:j+LANES] += Σ (targets[r], 1) panel[r, j:j+LANES]."""
    signature = types.void(gram, moments, types.intp, types.intp, panel, targets, types.intp)

    def build(context, builder, signature, args):
        gram, moments, panel, targets = (
            _Matrix(context, builder, signature.args[k], args[k]) for k in (0, 1, 4, 5)
        )
        _add_products(context, builder, gram, args[2], args[3], panel, args[6], moments, targets)
        return context.get_dummy_value()

    return signature, build


def _subtract_earlier(gram: _Matrix, i, j) -> list:
    """The tile at (i, j) less Σ gram[r, i:i+ROWS]ᵀ gram[r, j:j+LANES] over the rows r < i."""
    corner = gram.at(i, j)
    slots = gram.registers([gram.load(gram.below(corner, gram.constant(m))) for m in range(gram.rows)])
    left, right = gram.at(gram.constant(0), i), gram.at(gram.constant(0), j)
    with cgutils.for_range(gram.builder, i, intp=i.type) as loop:
        vector = gram.load(gram.below(right, loop.index))
        gram.accumulate(slots, gram.below(left, loop.index), vector, gram.builder.fsub)
    return slots


@intrinsic
def eliminate(typingctx, gram, i, j):
    """Subtract from the tile at (i, j) what the rows above it explain: the step before factorising it."""
    signature = types.void(gram, types.intp, types.intp)

    def build(context, builder, signature, args):
        matrix = _Matrix(context, builder, signature.args[0], args[0])
        _, i, j = args
        slots = _subtract_earlier(matrix, i, j)
        corner = matrix.at(i, j)
        for m, slot in enumerate(slots):
            matrix.store(builder.load(slot), matrix.below(corner, matrix.constant(m)))
        return context.get_dummy_value()

    return signature, build


@intrinsic
def eliminate_and_solve(typingctx, gram, i, j):
    """The rows i to i+ROWS of the Cholesky factor in the columns j to j+LANES, right of the diagonal tile.

    The diagonal tile at (i, i) is factorised, with reciprocals on its diagonal.
    """
    signature = types.void(gram, types.intp, types.intp)

    def build(context, builder, signature, args):
        matrix = _Matrix(context, builder, signature.args[0], args[0])
        _, i, j = args
        rows = [builder.load(slot) for slot in _subtract_earlier(matrix, i, j)]
        corner, diagonal = matrix.at(i, j), matrix.at(i, i)
        for k in range(matrix.rows):
            scalars = list(matrix.scalars(matrix.below(diagonal, matrix.constant(k))))
            rows[k] = builder.fmul(rows[k], scalars[k])
            for m in range(k + 1, matrix.rows):
                product = builder.fmul(scalars[m], rows[k], flags=FUSED)
                rows[m] = builder.fsub(rows[m], product, flags=FUSED)
        for m, row in enumerate(rows):
            matrix.store(row, matrix.below(corner, matrix.constant(m)))
        return context.get_dummy_value()

    return signature, build


@intrinsic
def factorise_tile(typingctx, gram, i, j, floor):
    """Cholesky factor of the diagonal tile at (i, i), carried through the columns j to j+LANES it lies in.

    The diagonal holds reciprocals afterwards. Returns the number of rows factorised: all of them, or
    those before the first whose pivot is not above `floor`.
    """
    signature = types.intp(gram, types.intp, types.intp, gram.dtype)

    def build(context, builder, signature, args):
        matrix = _Matrix(context, builder, signature.args[0], args[0])
        _, i, j, floor = args
        corner, diagonal = matrix.at(i, j), matrix.at(i, i)
        addresses = [matrix.below(corner, matrix.constant(m)) for m in range(matrix.rows)]
        slots = matrix.registers([matrix.load(address) for address in addresses])
        done = cgutils.alloca_once_value(builder, matrix.constant(matrix.rows))
        end = builder.append_basic_block("factorised")
        one = ir.Constant(matrix.element, 1.0)
        sqrt = builder.module.declare_intrinsic("llvm.sqrt", [matrix.element])
        for k in range(matrix.rows):
            row = matrix.below(diagonal, matrix.constant(k))
            here = builder.gep(row, [matrix.constant(k)])
            pivot = builder.load(here)
            good, bad = builder.append_basic_block("pivot"), builder.append_basic_block("singular")
            builder.cbranch(builder.fcmp_ordered(">", pivot, floor), good, bad)
            builder.position_at_end(bad)
            builder.store(matrix.constant(k), done)
            builder.branch(end)
            builder.position_at_end(good)
            # Rows are subtracted before they are scaled, which leaves the square root out of the chain
            # of operations that each pivot waits for.
            unscaled, inverse = builder.load(slots[k]), builder.fdiv(one, pivot)
            scalars = list(matrix.scalars(row))
            weighted = builder.fmul(unscaled, matrix.splat(inverse))
            for m in range(k + 1, matrix.rows):
                product = builder.fmul(scalars[m], weighted, flags=FUSED)
                less = builder.fsub(builder.load(slots[m]), product, flags=FUSED)
                builder.store(less, slots[m])
                if m == k + 1:
                    matrix.store(less, addresses[m])
            reciprocal = builder.call(sqrt, [inverse])
            matrix.store(builder.fmul(unscaled, matrix.splat(reciprocal)), addresses[k])
            builder.store(reciprocal, here)
        builder.branch(end)
        builder.position_at_end(end)
        return builder.load(done)

    return signature, build


@intrinsic
def subtract_rows(typingctx, vector, j, gram, i, weights):
    """vector[j:j+LANES] −= Σ weights[i+m] gram[i+m, j:j+LANES] over the rows m of a tile."""
    signature = types.void(vector, types.intp, gram, types.intp, weights)

    def build(context, builder, signature, args):
        vector, gram, weights = (_Matrix(context, builder, signature.args[k], args[k]) for k in (0, 2, 4))
        _, j, _, i, _ = args
        address, row = builder.gep(vector.data, [j]), gram.at(i, j)
        left = vector.load(address)
        for m, weight in enumerate(vector.scalars(builder.gep(weights.data, [i]))):
            product = builder.fmul(weight, gram.load(gram.below(row, gram.constant(m))), flags=FUSED)
            left = builder.fsub(left, product, flags=FUSED)
        vector.store(left, address)
        return context.get_dummy_value()

    return signature, build


@intrinsic
def dot_rows(typingctx, out, gram, i, j, vector, width):
    """out[m] = Σ gram[i+m, j:width] vector[j:width] for the rows m of a tile; whole vectors only."""
    signature = types.void(out, gram, types.intp, types.intp, vector, types.intp)

    def build(context, builder, signature, args):
        out, gram, vector = (_Matrix(context, builder, signature.args[k], args[k]) for k in (0, 1, 4))
        _, _, i, j, _, width = args
        zero = ir.Constant(gram.vector, [0.0] * gram.lanes)
        slots = gram.registers([zero] * gram.rows)
        row = gram.at(i, gram.constant(0))
        with cgutils.for_range_slice(builder, j, width, gram.constant(gram.lanes), width.type) as (k, _):
            right = vector.load(builder.gep(vector.data, [k]))
            for m, slot in enumerate(slots):
                left = gram.load(builder.gep(gram.below(row, gram.constant(m)), [k]))
                product = builder.fmul(left, right, flags=FUSED)
                builder.store(builder.fadd(builder.load(slot), product, flags=FUSED), slot)
        for m, slot in enumerate(slots):
            builder.store(_sum(builder, builder.load(slot)), builder.gep(out.data, [out.constant(m)]))
        return context.get_dummy_value()

    return signature, build


def _sum(builder, vector):
    """The sum of a vector's lanes, half added to half until one is left."""
    lanes = vector.type.count
    while lanes > 1:
        lanes //= 2
        halves = (
            ir.Constant(ir.VectorType(ir.IntType(32), lanes), list(range(start, start + lanes)))
            for start in (0, lanes)
        )
        low, high = (builder.shuffle_vector(vector, vector, half) for half in halves)
        vector = builder.fadd(low, high)
    return builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))
