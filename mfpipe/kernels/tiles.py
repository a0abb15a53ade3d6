"""The inner loop that most of the arithmetic goes through: sums of products, as register tiles.

numba's own code for the same sums reaches a third to a half of this rate (docs/measurements.md).
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from mfpipe.kernels.registers import FUSED, Matrix

LINE = 64  # bytes that memory sends at a time
AHEAD = 24  # ratings whose rows are on their way from memory while one is worked at


class Columns:
    """Inside the code being built: where the other side's rows of the ratings lie, from their factors on."""

    def __init__(self, context, builder, kind, value, other: Matrix, first):
        array = context.make_array(kind)(context, builder, value)
        self.builder, self.data, self.other, self.first = builder, array.data, other, first
        (count,) = cgutils.unpack_tuple(builder, array.shape, 1)
        self.last = builder.sub(count, other.constant(1))

    def row_of(self, rating):
        number = self.builder.load(self.builder.gep(self.data, [rating]))
        return self.other.at(self.builder.sext(number, rating.type), self.first)

    def prefetch(self, rating, rank) -> None:
        """Ask for the row that is `AHEAD` ratings ahead, or the last."""
        builder = self.builder
        ahead = builder.add(rating, self.other.constant(AHEAD))
        there = builder.icmp_signed("<", ahead, self.last)
        start = self.row_of(builder.select(there, ahead, self.last))
        _prefetch(builder, start, self.other.constant(0), rank, self.other.align)


@intrinsic(prefer_literal=True)
def prefetch(typingctx, array, begin, end, near):
    """Ask for array[begin:end], which need not be there, to be in the cache that is 3: nearest, 2, or 1."""
    signature = types.void(array, types.intp, types.intp, near)

    def build(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        _prefetch(builder, data, args[1], args[2], signature.args[0].dtype.bitwidth // 8, near.literal_value)
        return context.get_dummy_value()

    return signature, build


def _prefetch(builder, data, begin, end, itemsize: int, near: int = 3) -> None:
    address, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [address, number, number, number])
    ask = builder.module.declare_intrinsic("llvm.prefetch", [address], kind)

    def line_with(k) -> None:
        place = builder.bitcast(builder.gep(data, [k]), address)
        builder.call(ask, [place, *(number(each) for each in (0, near, 1))])  # to read, data

    with cgutils.for_range_slice(builder, begin, end, begin.type(LINE // itemsize), begin.type) as (k, _):
        line_with(k)
    line_with(builder.sub(end, end.type(1)))  # what is asked for may begin within a line


@intrinsic
def copy_rows(typingctx, panel, other, first, columns, begin, size):
    """panel[r, :rank] = other[columns[begin + r], first:] for the rows r < size; the padding stays."""
    signature = types.void(panel, other, types.intp, columns, types.intp, types.intp)

    def build(context, builder, signature, args):
        target, source = (Matrix(context, builder, signature.args[k], args[k]) for k in (0, 1))
        _, _, first, _, begin, size = args
        columns = Columns(context, builder, signature.args[3], args[3], source, first)
        rank, lanes = builder.sub(source.stride, first), target.constant(target.lanes)
        last = builder.sub(rank, lanes)
        whole = builder.icmp_signed(">=", last, target.constant(0))
        with cgutils.for_range(builder, size, intp=size.type) as loop:
            rating = builder.add(begin, loop.index)
            start = columns.row_of(rating)
            columns.prefetch(rating, rank)
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
        _, j, _, first, rank, _, begin = args
        side = target.rows
        columns = Columns(context, builder, signature.args[5], args[5], source, first)
        ratings = [builder.add(begin, source.constant(m)) for m in range(side)]
        starts = [columns.row_of(rating) for rating in ratings]
        for rating in ratings:
            columns.prefetch(rating, rank)
        square = ir.VectorType(target.element, side)
        whole = builder.mul(builder.sdiv(rank, source.constant(side)), source.constant(side))
        with cgutils.for_range_slice(builder, source.constant(0), whole, source.constant(side)) as (k, _):
            rows = [source.load(builder.gep(start, [k]), square) for start in starts]
            for m, row in enumerate(transposed(builder, rows)):
                target.store(row, target.at(builder.add(k, target.constant(m)), j))
        with cgutils.for_range_slice(builder, whole, rank, source.constant(1)) as (k, _):
            for m, start in enumerate(starts):
                builder.store(
                    builder.load(builder.gep(start, [k])), target.at(k, builder.add(j, target.constant(m)))
                )
        return context.get_dummy_value()

    return signature, build


def transposed(builder, rows: list) -> list:
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


class Tile:
    """The tile of a matrix at (i, j), in registers from now until it is stored."""

    def __init__(self, matrix: Matrix, i, j):
        self.matrix, corner = matrix, matrix.at(i, j)
        self.addresses = [matrix.below(corner, matrix.constant(m)) for m in range(matrix.rows)]
        self.slots = matrix.registers([matrix.load(address) for address in self.addresses])

    def add(self, left, right) -> None:
        """Add the product of the ROWS numbers at `left` and the LANES numbers at `right`."""
        matrix = self.matrix
        matrix.accumulate(self.slots, left, matrix.load(right), matrix.builder.fadd)

    def store(self) -> None:
        for slot, address in zip(self.slots, self.addresses, strict=True):
            self.matrix.store(self.matrix.builder.load(slot), address)


class Moments(Tile):
    """moments[:, j:j+LANES], in registers from now until they are stored."""

    def __init__(self, moments: Matrix, j):
        self.matrix = moments
        self.addresses = [moments.at(moments.constant(m), j) for m in range(2)]
        self.slots = moments.registers([moments.load(address) for address in self.addresses])

    def add(self, left, right) -> None:
        """Add (the number at `left`, 1) times the LANES numbers at `right`."""
        matrix, builder, (weighted, plain) = self.matrix, self.matrix.builder, self.slots
        vector = matrix.load(right)
        product = builder.fmul(matrix.splat(builder.load(left)), vector, flags=FUSED)
        builder.store(builder.fadd(builder.load(weighted), product, flags=FUSED), weighted)
        builder.store(builder.fadd(builder.load(plain), vector, flags=FUSED), plain)


def _add_products(builder, tile: Tile, i, j, panel: Matrix, size, sums: Moments | None = None, targets=None):
    with cgutils.for_range(builder, size, intp=size.type) as loop:
        left, right = panel.at(loop.index, i), panel.at(loop.index, j)
        tile.add(left, right)
        if sums:
            sums.add(builder.gep(targets.data, [loop.index]), right)
    for each in filter(None, (tile, sums)):
        each.store()


@intrinsic
def add_products(typingctx, gram, i, j, panel, size):
    """gram[i:i+ROWS, j:j+LANES] += Σ panel[r, i:i+ROWS]ᵀ panel[r, j:j+LANES] over the rows r < size."""
    signature = types.void(gram, types.intp, types.intp, panel, types.intp)

    def build(context, builder, signature, args):
        target = Matrix(context, builder, signature.args[0], args[0])
        source = Matrix(context, builder, signature.args[3], args[3])
        _add_products(builder, Tile(target, args[1], args[2]), args[1], args[2], source, args[4])
        return context.get_dummy_value()

    return signature, build


@intrinsic
def add_square(typingctx, gram, i, j, panel, size):
    """`add_products` for gram[i:i+ROWS, j:j+ROWS] alone."""
    signature = types.void(gram, types.intp, types.intp, panel, types.intp)

    def build(context, builder, signature, args):
        target, source = (Matrix(context, builder, signature.args[k], args[k], square=True) for k in (0, 3))
        _, i, j, _, size = args
        _add_products(builder, Tile(target, i, j), i, j, source, size)
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
        _, _, i, j, _, _, size = args
        _add_products(builder, Tile(gram, i, j), i, j, panel, size, Moments(moments, j), targets)
        return context.get_dummy_value()

    return signature, build


@intrinsic
def subtract_product(typingctx, gram, i, j, left, right):
    """gram[i:i+ROWS, j:j+LANES] −= left[i:i+ROWS]ᵀ right[j:j+LANES]."""
    signature = types.void(gram, types.intp, types.intp, left, right)

    def build(context, builder, signature, args):
        gram, left, right = (Matrix(context, builder, signature.args[k], args[k]) for k in (0, 3, 4))
        _, i, j, _, _ = args
        tile = Tile(gram, i, j)
        vector = gram.load(builder.gep(right.data, [j]))
        gram.accumulate(tile.slots, builder.gep(left.data, [i]), vector, builder.fsub)
        tile.store()
        return context.get_dummy_value()

    return signature, build


@intrinsic
def add_rows_and_moments(typingctx, gram, moments, other, first, columns, begin, size, targets):
    """`add_products_and_moments` and all other tiles at once, for a rank of one whole vector.

    Rows are used where they lie: copied, each number would be read from the copy only once.
    """
    signature = types.void(gram, moments, other, types.intp, columns, types.intp, types.intp, targets)

    def build(context, builder, signature, args):
        gram, moments, other, targets = (
            Matrix(context, builder, signature.args[k], args[k]) for k in (0, 1, 2, 7)
        )
        square = Matrix(context, builder, signature.args[0], args[0], square=True)
        _, _, _, first, _, begin, size, _ = args
        columns = Columns(context, builder, signature.args[4], args[4], other, first)
        starts = [gram.constant(i) for i in range(0, gram.lanes, gram.rows)]
        tiles = [Tile(gram, i, gram.constant(0)) for i in starts[:-1]]
        tiles.append(Tile(square, starts[-1], starts[-1]))
        sums = Moments(moments, gram.constant(0))
        with cgutils.for_range(builder, size, intp=size.type) as loop:
            rating = builder.add(begin, loop.index)
            row = columns.row_of(rating)
            columns.prefetch(rating, gram.constant(gram.lanes))
            for i, tile in zip(starts, tiles, strict=True):
                left = builder.gep(row, [i])
                tile.add(left, left if tile.matrix is square else row)
            sums.add(builder.gep(targets.data, [loop.index]), row)
        for each in (*tiles, sums):
            each.store()
        return context.get_dummy_value()

    return signature, build


@intrinsic
def subtract_explained(typingctx, out, weights, panel, i, vector, targets, width):
    """weights[i:i+ROWS] = X vector − targets[i:i+ROWS] and out −= Xᵀ weights, X = panel[i:i+ROWS, :width]."""
    signature = types.void(out, weights, panel, types.intp, vector, targets, types.intp)

    def build(context, builder, signature, args):
        out, weights, panel, vector, targets = (
            Matrix(context, builder, signature.args[k], args[k]) for k in (0, 1, 2, 4, 5)
        )
        _, _, _, i, _, _, width = args
        start, step = panel.constant(0), panel.constant(panel.lanes)
        sums = _sums(builder, dots_of_rows(panel, i, start, vector, width))
        sums = builder.fsub(sums, targets.load(builder.gep(targets.data, [i]), sums.type))
        weights.store(sums, builder.gep(weights.data, [i]))
        scalars = [
            panel.splat(builder.extract_element(sums, ir.Constant(ir.IntType(32), m)))
            for m in range(panel.rows)
        ]
        with cgutils.for_range_slice(builder, start, width, step, width.type) as (k, _):
            subtract_weighted(out, k, panel, i, scalars)
        return context.get_dummy_value()

    return signature, build


def dots_of_rows(matrix: Matrix, i, begin, vector: Matrix, end) -> list:
    """For each row of the tile at row i, a vector whose lanes sum to row[begin:end] · vector[begin:end]."""
    builder = matrix.builder
    slots = matrix.registers([ir.Constant(matrix.vector, [0.0] * matrix.lanes)] * matrix.rows)
    row = matrix.at(i, matrix.constant(0))
    with cgutils.for_range_slice(builder, begin, end, matrix.constant(matrix.lanes), end.type) as (k, _):
        right = vector.load(builder.gep(vector.data, [k]))
        for m, slot in enumerate(slots):
            left = matrix.load(builder.gep(matrix.below(row, matrix.constant(m)), [k]))
            product = builder.fmul(left, right, flags=FUSED)
            builder.store(builder.fadd(builder.load(slot), product, flags=FUSED), slot)
    return [builder.load(slot) for slot in slots]


def subtract_weighted(vector: Matrix, j, matrix: Matrix, i, weights) -> None:
    """vector[j:j+LANES] −= Σ weights[m] matrix[i+m, j:j+LANES] over the rows m of a tile."""
    builder, row = vector.builder, matrix.at(i, j)
    address = builder.gep(vector.data, [j])
    left = vector.load(address)
    for m, weight in enumerate(weights):
        product = builder.fmul(weight, matrix.load(matrix.below(row, matrix.constant(m))), flags=FUSED)
        left = builder.fsub(left, product, flags=FUSED)
    vector.store(left, address)


def _sums(builder, vectors: list):
    """One vector of the sums of the lanes of each, by rounds of adding neighbours."""

    def neighbours(one, other, count: int):
        picked = (
            ir.Constant(ir.VectorType(ir.IntType(32), count), list(range(start, 2 * count, 2)))
            for start in (0, 1)
        )
        return builder.fadd(*(builder.shuffle_vector(one, other, pick) for pick in picked))

    many, lanes = len(vectors), vectors[0].type.count
    while len(vectors) > 1:
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [neighbours(one, other, lanes) for one, other in pairs]
    (found,) = vectors
    while found.type.count > many:
        found = neighbours(found, found, found.type.count // 2)
    return found
