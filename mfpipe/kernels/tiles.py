"""The inner loop that most of the arithmetic goes through: sums of products, as register tiles.

numba's own code for the same sums reaches a third to a half of this rate (docs/measurements.md).
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from mfpipe.kernels.registers import FUSED, Matrix


@intrinsic
def copy_rows(typingctx, panel, other, first, columns, begin, size):
    """panel[r, :rank] = other[columns[begin + r], first:] for the rows r < size; the padding stays."""
    signature = types.void(panel, other, types.intp, columns, types.intp, types.intp)

    def build(context, builder, signature, args):
        target, source = (Matrix(context, builder, signature.args[k], args[k]) for k in (0, 1))
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
        target, source = (Matrix(context, builder, signature.args[k], args[k]) for k in (0, 2))
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
        target = Matrix(context, builder, signature.args[0], args[0])
        source = Matrix(context, builder, signature.args[3], args[3])
        _add_products(context, builder, target, args[1], args[2], source, args[4])
        return context.get_dummy_value()

    return signature, build


@intrinsic
def add_square(typingctx, gram, i, panel, size):
    """`add_products` for gram[i:i+ROWS, i:i+ROWS] alone."""
    signature = types.void(gram, types.intp, panel, types.intp)

    def build(context, builder, signature, args):
        target, source = (Matrix(context, builder, signature.args[k], args[k], square=True) for k in (0, 2))
        _add_products(context, builder, target, args[1], args[1], source, args[3])
        return context.get_dummy_value()

    return signature, build


@intrinsic
def add_products_and_moments(typingctx, gram, moments, i, j, panel, targets, size):
    """`add_products`, and moments[:, j:j+LANES] += Σ (targets[r], 1) panel[r, j:j+LANES]."""
    signature = types.void(gram, moments, types.intp, types.intp, panel, targets, types.intp)

    def build(context, builder, signature, args):
        gram, moments, panel, targets = (
            Matrix(context, builder, signature.args[k], args[k]) for k in (0, 1, 4, 5)
        )
        _add_products(context, builder, gram, args[2], args[3], panel, args[6], moments, targets)
        return context.get_dummy_value()

    return signature, build
