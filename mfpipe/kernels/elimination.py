"""The inner loops of a Cholesky factorisation and of its solution, as register tiles."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from mfpipe.kernels.registers import FUSED, Matrix
from mfpipe.kernels.tiles import Tile, dots_of_rows, subtract_weighted


def _subtract_earlier(gram: Matrix, i, j) -> Tile:
    """The tile at (i, j) less Σ gram[r, i:i+ROWS]ᵀ gram[r, j:j+LANES] over the rows r < i."""
    tile = Tile(gram, i, j)
    left, right = gram.at(gram.constant(0), i), gram.at(gram.constant(0), j)
    with cgutils.for_range(gram.builder, i, intp=i.type) as loop:
        vector = gram.load(gram.below(right, loop.index))
        gram.accumulate(tile.slots, gram.below(left, loop.index), vector, gram.builder.fsub)
    return tile


@intrinsic
def eliminate(typingctx, gram, i, j):
    """Subtract from the tile at (i, j) what the rows above it explain: the step before factorising it."""
    signature = types.void(gram, types.intp, types.intp)

    def build(context, builder, signature, args):
        matrix = Matrix(context, builder, signature.args[0], args[0])
        _, i, j = args
        _subtract_earlier(matrix, i, j).store()
        return context.get_dummy_value()

    return signature, build


@intrinsic
def eliminate_and_solve(typingctx, gram, i, j):
    """The rows i to i+ROWS of the Cholesky factor in the columns j to j+LANES, right of the diagonal tile.

    The diagonal tile at (i, i) is factorised, with reciprocals on its diagonal.
    """
    signature = types.void(gram, types.intp, types.intp)

    def build(context, builder, signature, args):
        matrix = Matrix(context, builder, signature.args[0], args[0])
        _, i, j = args
        tile, diagonal = _subtract_earlier(matrix, i, j), matrix.at(i, i)
        rows = [builder.load(slot) for slot in tile.slots]
        for k in range(matrix.rows):
            scalars = list(matrix.scalars(matrix.below(diagonal, matrix.constant(k))))
            rows[k] = builder.fmul(rows[k], scalars[k])
            for m in range(k + 1, matrix.rows):
                product = builder.fmul(scalars[m], rows[k], flags=FUSED)
                rows[m] = builder.fsub(rows[m], product, flags=FUSED)
        for row, address in zip(rows, tile.addresses, strict=True):
            matrix.store(row, address)
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
        matrix = Matrix(context, builder, signature.args[0], args[0])
        _, i, j, floor = args
        tile, diagonal = Tile(matrix, i, j), matrix.at(i, i)
        addresses, slots = tile.addresses, tile.slots
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
        vector, gram, weights = (Matrix(context, builder, signature.args[k], args[k]) for k in (0, 2, 4))
        _, j, _, i, _ = args
        subtract_weighted(vector, j, gram, i, vector.scalars(builder.gep(weights.data, [i])))
        return context.get_dummy_value()

    return signature, build


@intrinsic
def dot_rows(typingctx, out, gram, i, j, vector, width):
    """out[m] = Σ gram[i+m, j:width] vector[j:width] for the rows m of a tile; whole vectors only."""
    signature = types.void(out, gram, types.intp, types.intp, vector, types.intp)

    def build(context, builder, signature, args):
        out, gram, vector = (Matrix(context, builder, signature.args[k], args[k]) for k in (0, 1, 4))
        _, _, i, j, _, width = args
        for m, dots in enumerate(dots_of_rows(gram, i, j, vector, width)):
            builder.store(_sum(builder, dots), builder.gep(out.data, [out.constant(m)]))
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
