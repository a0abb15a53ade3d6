"""Ridge rows: normal equations by Cholesky, primal for long rows and dual for short ones."""

import numpy as np
from numba import njit

from mfpipe.kernels import OPTIONS
from mfpipe.kernels.residuals import squared_norm, squared_residual

PANEL = 64  # ratings gathered at a time, so that a panel stays in the nearest cache


@njit(**OPTIONS)
def ridge_rows(indptr, columns, values, other, penalty, rows, squared_error, penalised, unsolved):
    """Rows of one side that minimise the ridge objective with the other side fixed.

    Row u solves  min_p ‖y − Xp‖² + s‖p‖²  with y its ratings, X the other side's rows and s its
    penalty: (XᵀX + sI) p = Xᵀy where it has at least `rank` ratings, otherwise p = Xᵀa with
    (XXᵀ + sI) a = y, the same p from a smaller system.

    Parameters
    ----------
    indptr : int64, shape (n + 1,)
    columns : int32, shape (nnz,)
        The other side's row of each rating.
    values : floating, shape (nnz,)
    other : floating, shape (n_other, rank), C order
    penalty : float64, shape (n,)
        s ≥ 0.
    rows : out, floating, shape (n, rank)
        A row without ratings is zero.
    squared_error, penalised : out, float64, shape (n,)
        ‖y − Xp‖² and s‖p‖².
    unsolved : out, bool, shape (n,)
        True where the system is singular to working precision, and the row is left zero.

    References
    ----------
    Zhou, Wilkinson, Schreiber, Pan: Large-scale parallel collaborative filtering for the Netflix
    prize, AAIM 2008, section 3.1. Dual form: Saunders, Gammerman, Vovk: Ridge regression learning
    algorithm in dual variables, ICML 1998, equation 8.
    """
    rank = other.shape[1]
    gram = np.empty((rank, rank), other.dtype)
    moment = np.empty(rank, other.dtype)
    panel = np.empty((max(PANEL, rank), rank), other.dtype)
    for u in range(len(indptr) - 1):
        begin, end = indptr[u], indptr[u + 1]
        unsolved[u] = False
        rows[u] = 0
        if begin == end:
            squared_error[u] = 0.0
            penalised[u] = 0.0
            continue
        if end - begin < rank:
            solved = _dual(
                columns[begin:end], values[begin:end], other, penalty[u], gram, moment, panel, rows[u]
            )
        else:
            solved = _primal(columns[begin:end], values[begin:end], other, penalty[u], gram, panel, rows[u])
        if not solved:
            unsolved[u] = True
            rows[u] = 0
        squared_error[u] = squared_residual(columns[begin:end], values[begin:end], other, rows[u])
        penalised[u] = penalty[u] * squared_norm(rows[u])


@njit(**OPTIONS)
def _primal(columns, values, other, penalty, gram, panel, row):
    rank = other.shape[1]
    gram[:] = 0
    for start in range(0, len(columns), PANEL):
        size = min(PANEL, len(columns) - start)
        for j in range(size):
            x = other[columns[start + j]]
            y = values[start + j]
            for k in range(rank):
                panel[j, k] = x[k]
                row[k] += y * x[k]
        _add_gram(panel, size, gram)
    for k in range(rank):
        gram[k, k] += penalty
    return _solve_cholesky(gram, row, rank)


@njit(**OPTIONS)
def _add_gram(panel, size, gram):
    """Add XᵀX of the panel's first rows to the lower triangle, four rows at a time."""
    rank = gram.shape[0]
    j = 0
    while j + 4 <= size:
        a, b, c, d = panel[j], panel[j + 1], panel[j + 2], panel[j + 3]
        for k in range(rank):
            ak, bk, ck, dk = a[k], b[k], c[k], d[k]
            target = gram[k]
            for m in range(k + 1):
                target[m] += ak * a[m] + bk * b[m] + ck * c[m] + dk * d[m]
        j += 4
    while j < size:
        a = panel[j]
        for k in range(rank):
            ak = a[k]
            target = gram[k]
            for m in range(k + 1):
                target[m] += ak * a[m]
        j += 1


@njit(**OPTIONS)
def _dual(columns, values, other, penalty, gram, weights, panel, row):
    rank = other.shape[1]
    count = len(columns)
    for j in range(count):
        x = other[columns[j]]
        for k in range(rank):
            panel[j, k] = x[k]
        weights[j] = values[j]
    for j in range(count):
        x = panel[j]
        for m in range(j + 1):
            z = panel[m]
            dot = other.dtype.type(0)
            for k in range(rank):
                dot += x[k] * z[k]
            gram[j, m] = dot
        gram[j, j] += penalty
    if not _solve_cholesky(gram, weights, count):
        return False
    for j in range(count):
        weight = weights[j]
        for k in range(rank):
            row[k] += weight * panel[j, k]
    return True


@njit(**OPTIONS)
def _solve_cholesky(gram, vector, size):
    """Solve gram · x = vector in place from the lower triangle; False if gram is singular."""
    zero = gram.dtype.type(0)
    largest = zero
    for i in range(size):
        largest = max(largest, gram[i, i])
    floor = largest * size * np.finfo(gram.dtype).eps
    for i in range(size):
        target = gram[i]
        for j in range(i):
            source = gram[j]
            dot = zero
            for k in range(j):
                dot += target[k] * source[k]
            target[j] = (target[j] - dot) * source[j]
        dot = zero
        for k in range(i):
            dot += target[k] * target[k]
        pivot = target[i] - dot
        if not pivot > floor:
            return False
        target[i] = 1 / np.sqrt(pivot)  # the reciprocal, so that solving multiplies
        dot = zero
        for k in range(i):
            dot += target[k] * vector[k]
        vector[i] = (vector[i] - dot) * target[i]
    for i in range(size - 1, -1, -1):
        value = vector[i] * gram[i, i]
        vector[i] = value
        target = gram[i]
        for k in range(i):
            vector[k] -= target[k] * value
    return True
