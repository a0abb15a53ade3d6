"""What every row solver starts from: the normal equations of a row, and their Cholesky solution.

A row of the other side is its factors, or with biases its bias followed by its factors; the targets are
then the ratings less the mean and the other side's bias. Working arrays have the rank rounded up to whole
vectors, with zeros in what is added, and only the upper triangle of a system is used: what stands below
its diagonal must be finite when it is factorised, and means nothing.
"""

import numpy as np

from mfpipe.kernels import part
from mfpipe.kernels.elimination import (
    dot_rows,
    eliminate,
    eliminate_and_solve,
    factorise_tile,
    subtract_rows,
)
from mfpipe.kernels.registers import lanes, tile_rows
from mfpipe.kernels.tiles import (
    add_products,
    add_products_and_moments,
    add_rows_and_moments,
    add_square,
    copy_rows,
    prefetch,
)

PANEL = 64  # ratings gathered at a time, so that a panel stays near the processor
NEAR = 2**24  # bytes of rows that are in some cache; of more, the next panel's are asked for meanwhile
TARGETS = 256  # targets worked out at a time


@part
def padded(array, size):
    """`size` rounded up to whole vectors of the array's type."""
    step = lanes(array)
    return (size + step - 1) // step * step


@part
def tiled(array, size):
    """`size` rounded up to whole tiles' rows: of the last vector's lanes all, or the first half."""
    step = tile_rows(array)
    return (size + step - 1) // step * step


@part
def biases_of(other, biased):
    """The other side's biases side by side, where many fit near the processor; none without biases."""
    return other[:, 0].copy() if biased else np.empty(0, other.dtype)


@part
def set_targets(columns, values, begin, size, biases, mean, targets):
    """Set the targets of `size` ratings: less the mean and the biases, if there are any; Σ y² and Σ y."""
    # Slices, because LLVM gathers what is indexed by a sum: numba lets that be negative.
    ratings, rows = values[begin : begin + size], columns[begin : begin + size]
    for j in range(size):
        targets[j] = ratings[j]
        if len(biases) > 0:
            targets[j] -= mean + biases[rows[j]]
    square, total = 0.0, 0.0
    for j in range(size):
        y = np.float64(targets[j])
        square += y * y
        total += y
    return square, total


@part
def normal_equations(columns, values, begin, end, other, biases, mean, panel, targets, gram, moments):
    """Set `gram` to XᵀX and `moments` to (Xᵀy, Xᵀ1) of one row's ratings; Σ y² and Σ y."""
    first = min(len(biases), 1)
    gram[:] = 0
    moments[:] = 0
    square, total = 0.0, 0.0
    height = tiled(gram, other.shape[1] - first)
    in_place = other.shape[1] - first == gram.shape[1] == lanes(gram)
    step = TARGETS if in_place else PANEL
    far = other.size * other.itemsize > NEAR
    share = PANEL * lanes(gram) // gram.shape[1]
    for start in range(begin, end, step):
        size = min(step, end - start)
        prefetch(values, start + size, start + 2 * size, 3)
        more = set_targets(columns, values, start, size, biases, mean, targets)
        square += more[0]
        total += more[1]
        if in_place:
            add_rows_and_moments(gram, moments, other, first, columns, start, size, targets)
            continue
        copy_rows(panel, other, first, columns, start, size)
        following = start + size
        for j in range(0, gram.shape[1], lanes(gram)):
            if far:
                ask_for_rows(other, columns, following, min(following + share, len(columns)))
                following += share
            add_products_and_moments(gram, moments, 0, j, panel, targets, size)
            add_column(gram, tile_rows(gram), j, height, panel, size)
    return square, total


@part
def ask_for_rows(other, columns, begin, end):
    """Ask for the other side's rows of some ratings to come from memory into a cache."""
    for n in range(begin, end):
        prefetch(other[columns[n]], 0, other.shape[1], 2)


@part
def add_column(gram, start, j, height, panel, size):
    """Add XᵀX of the panel's first rows to one vector's columns of the upper triangle, from a row on.

    Only the first `height` rows and columns are meant, a multiple of the tiles' rows.
    """
    if j + lanes(gram) > height:  # half a vector
        for i in range(start, height, tile_rows(gram)):
            add_square(gram, i, j, panel, size)
        return
    last = j + lanes(gram) - tile_rows(gram)
    for i in range(start, last, tile_rows(gram)):
        add_products(gram, i, j, panel, size)
    if start <= last:
        add_square(gram, last, last, panel, size)


@part
def set_gram(gram, height, panel, size):
    """Set the upper triangle to XᵀX of the panel's first `size` rows and `height` columns."""
    for j in range(0, height, lanes(gram)):
        for i in range(min(j + lanes(gram), height)):
            for k in range(j, j + lanes(gram)):
                gram[i, k] = 0
        add_column(gram, 0, j, height, panel, size)


@part
def factorise(gram, size, slack):
    """Cholesky factor in place of the upper triangle, its diagonal as reciprocals.

    Only the first `size` rows and columns are meant; those that pad them to whole tiles become the
    identity's. Returns the number of rows factorised: `size`, or fewer where the next one depends on those
    before it, to `slack` times the rounding error of such a system.
    """
    largest = gram.dtype.type(0)
    for i in range(size):
        largest = max(largest, gram[i, i])
    floor = gram.dtype.type(slack * largest * size * np.finfo(gram.dtype).eps)
    width, height = padded(gram, size), tiled(gram, size)
    for i in range(size, height):
        gram[i, i] = max(largest, gram.dtype.type(1))
    for i in range(0, height, tile_rows(gram)):
        diagonal = i // lanes(gram) * lanes(gram)
        eliminate(gram, i, diagonal)
        done = i + factorise_tile(gram, i, diagonal, floor)
        if done < i + tile_rows(gram):
            return done
        for j in range(diagonal + lanes(gram), width, lanes(gram)):
            eliminate_and_solve(gram, i, j)
    return size


@part
def cut_off(gram, size):
    """Make what pads the first `size` rows and columns of a factorised system the identity's."""
    for i in range(size, padded(gram, size)):
        for k in range(i):
            gram[k, i] = 0
        gram[i, i] = 1


@part
def substitute(gram, vector, work, size):
    """Solve the system that `factorise` factorised, in place.

    `vector` and the two rows of `work` have whole vectors; what `vector` holds beyond `size` must be
    zero, and stays so.
    """
    solved, dots = work[0], work[1]
    width, height = padded(gram, size), tiled(gram, size)
    rows = tile_rows(gram)
    for i in range(0, height, rows):
        for m in range(rows):
            value = vector[i + m]
            for r in range(m):
                value -= solved[i + r] * gram[i + r, i + m]
            solved[i + m] = value * gram[i + m, i + m]
        for j in range(i // lanes(gram) * lanes(gram), width, lanes(gram)):
            subtract_rows(vector, j, gram, i, solved)
    # From here on `vector` holds the solution, zero where it is not known yet.
    for k in range(width):
        vector[k] = 0
    for i in range(height - rows, -1, -rows):
        dot_rows(dots, gram, i, i // lanes(gram) * lanes(gram), vector, width)
        for m in range(rows - 1, -1, -1):
            value = solved[i + m] - dots[m]
            for r in range(m + 1, rows):
                value -= gram[i + m, i + r] * vector[i + r]
            vector[i + m] = value * gram[i + m, i + m]
