"""Ridge rows by a few steps of conjugate gradients from where they are, instead of an exact solution."""

import numpy as np

from mfpipe.kernels import kernel, part
from mfpipe.kernels.elimination import subtract_rows
from mfpipe.kernels.normal import PANEL, biases_of, padded, set_targets, tiled
from mfpipe.kernels.registers import lanes, tile_rows
from mfpipe.kernels.residuals import row_penalty, settled
from mfpipe.kernels.tiles import copy_rows, subtract_explained

KEPT = 2**21  # bytes of gathered rows that a row keeps from one step to the next


@kernel
def conjugate_rows(
    indptr, columns, values, other, penalty, bias_penalty, own, mean, biased, separate, steps,
    rows, squared_error, penalised,
):  # fmt: skip
    """Rows of one side nearer to the minimum of the ridge objective, with the other side fixed.

    Row u takes `steps` steps of conjugate gradients from p = own[u] towards (XᵀX + sI) p = Xᵀy; see
    `ridge_rows` for the problem and for what is not named here. XᵀX is never formed: a step costs 4nK
    operations, where an exact solution costs nK². Each step lowers the row's objective by α rᵀr, with r what
    is left of the system and α the length of the step; as many steps as the rank solve it.

    A bias is solved for exactly and substituted, which leaves a system in p alone, with
    XᵀX − Xᵀ1 1ᵀX / (n + s_b) for XᵀX. If `separate` it is the best one for own[u], and stays.

    Parameters
    ----------
    own : floating, shape (n, width)
        The rows as they are.
    steps : int64
        1 or more.

    References
    ----------
    Hestenes, Stiefel: Methods of conjugate gradients for solving linear systems, J. Res. Nat. Bur. Stand. 49,
    1952, equations 3:1. Takács, Pilászy, Tikk: Applications of the conjugate gradient method for implicit
    feedback collaborative filtering, RecSys 2011 (a few steps, from the row as it is).
    """
    first = 1 if biased else 0
    biases = biases_of(other, biased)
    width = padded(other, other.shape[1] - first)
    longest = np.int64(1)
    for u in range(len(indptr) - 1):
        longest = max(longest, indptr[u + 1] - indptr[u])
    longest = min(tiled(other, longest), max(PANEL, KEPT // (width * other.itemsize) // PANEL * PANEL))
    panel = np.zeros((longest, width), other.dtype)
    columnwise = np.zeros((4, longest), other.dtype)
    columnwise[3] = -1
    vectors = np.zeros((5, width), other.dtype)
    for u in range(len(indptr) - 1):
        begin, end = indptr[u], indptr[u + 1]
        if begin == end:
            rows[u] = 0
            squared_error[u] = 0.0
            penalised[u] = 0.0
            continue
        rows[u] = own[u]
        error, digits = _move(
            columns, values, begin, end, other, biases, mean, penalty[u], bias_penalty[u], separate, steps,
            panel, columnwise, vectors, rows[u],
        )  # fmt: skip
        squared_error[u] = settled(
            error, digits, columns[begin:end], values[begin:end], other, mean, biased, rows[u]
        )
        penalised[u] = row_penalty(rows[u], penalty[u], bias_penalty[u], 0.0, biased)


@part
def _move(
    columns, values, begin, end, other, biases, mean, penalty, bias_penalty, separate, steps,
    panel, columnwise, vectors, row,
):  # fmt: skip
    """Take the steps from a row, in place; its squared error, and its objective before them."""
    first = min(len(biases), 1)
    factors, size = row[first:], np.float64(end - begin) + bias_penalty
    point, left, direction, product, ones = vectors[0], vectors[1], vectors[2], vectors[3], vectors[4]
    for k in range(len(factors)):
        point[k] = factors[k]
    square, total = _open(
        columns, values, begin, end, other, biases, mean, panel, columnwise, point, left, ones
    )
    bias = total / size if first else 0.0
    objective = square - bias * total + penalty * _dot(point, point)
    before, unbiased = objective, total + _dot(ones, point)
    _add(left, -bias, ones)
    _add(left, -penalty, point)
    direction[:] = left
    slope = _dot(left, left)
    for _ in range(steps):
        _multiply(columns, begin, end, other, first, panel, columnwise, direction, product)
        if first and not separate:
            _add(product, _dot(ones, direction) / size, ones)
        _add(product, -penalty, direction)
        curvature = -_dot(direction, product)
        if not curvature > 0:
            break
        length = slope / curvature
        _add(point, length, direction)
        _add(left, length, product)
        objective -= length * slope
        slope, last = _dot(left, left), slope
        for k in range(len(direction)):
            direction[k] *= other.dtype.type(slope / last)
        _add(direction, 1.0, left)
    for k in range(len(factors)):
        factors[k] = point[k]
    if first:
        row[0] = bias if separate else (unbiased - _dot(ones, point)) / size
        objective -= bias_penalty * np.float64(row[0]) ** 2
    return objective - penalty * _dot(point, point), before


@part
def _open(columns, values, begin, end, other, biases, mean, panel, columnwise, point, left, ones):
    """Set `left` to Xᵀ(y − Xp) and, with biases, `ones` to Xᵀ1; Σ (y − Xp)² and Σ y − Xp."""
    targets, weights, minus_one = columnwise[0], columnwise[1], columnwise[3]
    square, total = 0.0, 0.0
    left[:] = 0
    ones[:] = 0
    for start in range(begin, end, len(panel)):
        size = min(len(panel), end - start)
        _gather(panel, other, min(len(biases), 1), columns, start, size)
        set_targets(columns, values, start, size, biases, mean, targets)
        targets[size : size + tile_rows(panel)] = 0
        for i in range(0, size, tile_rows(panel)):
            subtract_explained(left, weights, panel, i, point, targets, len(point))
            if len(biases) > 0:
                for k in range(0, len(ones), lanes(panel)):
                    subtract_rows(ones, k, panel, i, minus_one)
        for j in range(size):
            error = np.float64(weights[j])
            square += error * error
            total -= error
    return square, total


@part
def _multiply(columns, begin, end, other, first, panel, columnwise, direction, product):
    """Set `product` to −XᵀX d; rows that all fit the panel are there already."""
    weights, zeros = columnwise[1], columnwise[2]
    product[:] = 0
    for start in range(begin, end, len(panel)):
        size = min(len(panel), end - start)
        if end - begin > len(panel):
            _gather(panel, other, first, columns, start, size)
        for i in range(0, size, tile_rows(panel)):
            subtract_explained(product, weights, panel, i, direction, zeros, len(direction))


@part
def _gather(panel, other, first, columns, start, size):
    """Copy the other side's rows of some ratings to the panel, and zeros up to a whole tile."""
    copy_rows(panel, other, first, columns, start, size)
    for i in range(size, min(size + tile_rows(panel) - 1, len(panel))):
        panel[i] = 0


@part
def _add(vector, weight, more):
    for k in range(len(vector)):
        vector[k] += vector.dtype.type(weight) * more[k]


@part
def _dot(left, right):
    total = 0.0
    for k in range(len(left)):
        total += np.float64(left[k]) * np.float64(right[k])
    return total
