"""Ridge rows: normal equations by Cholesky, primal for long rows and dual for short ones."""

import numpy as np

from mfpipe.kernels import kernel, part
from mfpipe.kernels.normal import PANEL, factorise, normal_equations, padded, set_gram, substitute
from mfpipe.kernels.registers import tile_rows
from mfpipe.kernels.residuals import row_penalty, settled
from mfpipe.kernels.tiles import copy_turned


@kernel
def ridge_rows(
    indptr, columns, values, other, penalty, bias_penalty, own, mean, biased, separate,
    rows, squared_error, penalised, unsolved,
):  # fmt: skip
    """Rows of one side that minimise the ridge objective with the other side fixed.

    Row u solves  min ‖y − Xp‖² + s‖p‖²  with y its ratings and X the other side's rows:
    (XᵀX + sI) p = Xᵀy where it has at least `rank` ratings, otherwise p = Xᵀa with (XXᵀ + sI) a = y,
    the same p from a smaller system. With biases it solves  min ‖y − μ − b_other − b1 − Xp‖² + s‖p‖² +
    s_b b², jointly in (b, p), or first in b and then in p.

    Parameters
    ----------
    indptr : int64, shape (n + 1,)
    columns : int32, shape (nnz,)
        The other side's row of each rating.
    values : floating, shape (nnz,)
    other : floating, shape (n_other, width), C order
        Factors, after a column of biases if `biased`.
    penalty, bias_penalty : float64, shape (n,)
        s and s_b, both ≥ 0.
    own : floating, shape (n, width)
        The rows as they are; read only if `separate`.
    mean : float
        μ; only used with biases.
    biased, separate : bool
    rows : out, floating, shape (n, width)
        A row without ratings is zero.
    squared_error, penalised : out, float64, shape (n,)
        Of the new rows.
    unsolved : out, bool, shape (n,)
        True where the system is singular to working precision, and the row is left zero.

    References
    ----------
    Zhou, Wilkinson, Schreiber, Pan: Large-scale parallel collaborative filtering for the Netflix
    prize, AAIM 2008, section 3.1. Dual form: Saunders, Gammerman, Vovk: Ridge regression learning
    algorithm in dual variables, ICML 1998, equation 8.
    """
    first = 1 if biased else 0
    rank = other.shape[1] - first
    width = padded(other, rank)
    gram = np.zeros((width, width), other.dtype)
    panel = np.zeros((max(PANEL, width), width), other.dtype)
    targets = np.empty(max(PANEL, width), other.dtype)
    moments = np.empty((2, width), other.dtype)
    solution = np.zeros(width, other.dtype)
    work = np.empty((2, width), other.dtype)
    for u in range(len(indptr) - 1):
        begin, end = indptr[u], indptr[u + 1]
        row = rows[u]
        row[:] = 0
        unsolved[u] = False
        if begin == end:
            squared_error[u] = 0.0
            penalised[u] = 0.0
            continue
        if end - begin < rank and not separate:
            error = _dual(
                columns, values, begin, end, other, first, mean, penalty[u], bias_penalty[u],
                gram, panel, targets, moments, solution, work, row,
            )  # fmt: skip
        else:
            error = _primal(
                columns, values, begin, end, other, first, mean, penalty[u], bias_penalty[u], own, u,
                separate, gram, panel, targets, moments, solution, work, row,
            )  # fmt: skip
        unsolved[u] = error < 0
        squared_error[u] = error
        penalised[u] = row_penalty(row, penalty[u], bias_penalty[u], 0.0, biased)


@part
def _primal(
    columns, values, begin, end, other, first, mean, penalty, bias_penalty, own, u, separate,
    gram, panel, targets, moments, solution, work, row,
):  # fmt: skip
    """A row from the system in its factors; the squared error, or -1 where the system is singular.

    A bias is taken out first: solved for and substituted, b = (Σy − 1ᵀXp) / (n + s_b), which leaves the
    same problem in p with less in G, Xᵀy and yᵀy. The squared error follows from the minimum of that
    problem, yᵀy − yᵀXp.
    """
    rank = len(row) - first
    square, total = normal_equations(
        columns, values, begin, end, other, first, mean, panel, targets, gram, moments
    )
    size = end - begin + bias_penalty
    if first:
        bias = total / size
        if separate:
            for k in range(rank):
                bias -= moments[1, k] * own[u, 1 + k] / size
            square += bias * ((end - begin) * bias - 2 * total)
        else:
            square -= total * bias
            for i in range(rank):
                share = moments[1, i] / gram.dtype.type(size)
                for j in range(i, rank):
                    gram[i, j] -= share * moments[1, j]
        row[0] = bias
        for k in range(rank):
            moments[0, k] -= gram.dtype.type(bias) * moments[1, k]
    for k in range(rank):
        gram[k, k] += penalty
    if factorise(gram, rank, 1) < rank:
        row[:] = 0
        return -1.0
    for k in range(len(solution)):
        solution[k] = moments[0, k]
    substitute(gram, solution, work, rank)
    for k in range(rank):
        row[first + k] = solution[k]
    error, explained = square, 0.0
    for k in range(rank):
        p = np.float64(solution[k])
        error -= p * (np.float64(moments[0, k]) + penalty * p)
        explained += abs(p * np.float64(moments[0, k]))
    if first and not separate:
        bias = total
        for k in range(rank):
            bias -= moments[1, k] * solution[k]
        row[0] = bias / size
        error -= bias_penalty * np.float64(row[0]) ** 2
    digits = max(square, explained)
    return settled(error, digits, columns[begin:end], values[begin:end], other, mean, first == 1, row)


@part
def _dual(
    columns, values, begin, end, other, first, mean, penalty, bias_penalty,
    gram, panel, targets, moments, solution, work, row,
):  # fmt: skip
    """A row with fewer ratings than factors, from the system in its ratings; returns as `_primal` does.

    The bias is b = s·1ᵀM⁻¹y / (s·1ᵀM⁻¹1 + s_b) with M = XXᵀ + sI, then a = M⁻¹(y − b1); what is left of
    the targets is s·a.
    """
    rank = len(row) - first
    count = end - begin
    width = padded(gram, count)
    for j in range(count):
        targets[j] = values[begin + j]
        if first:
            targets[j] -= mean + other[columns[begin + j], 0]
    whole = count // tile_rows(gram) * tile_rows(gram)
    for j in range(0, whole, tile_rows(gram)):
        copy_turned(panel, j, other, first, rank, columns, begin + j)
    for k in range(rank):
        for j in range(whole, count):
            panel[k, j] = other[columns[begin + j], first + k]
        for j in range(count, width):
            panel[k, j] = 0
    set_gram(gram, width, panel, rank)
    for j in range(count):
        gram[j, j] += penalty
    if factorise(gram, count, 1) < count:
        return -1.0
    weights = solution
    for j in range(width):
        weights[j] = targets[j] if j < count else 0
    substitute(gram, weights, work, count)
    if first:
        ones = moments[0]
        for j in range(width):
            ones[j] = 1 if j < count else 0
        substitute(gram, ones, work, count)
        above, below = 0.0, 0.0
        for j in range(count):
            above += weights[j]
            below += ones[j]
        # With s = 0 both terms are scaled away; a free bias then takes the limit s → 0.
        scale = penalty if bias_penalty > 0 else 1.0
        row[0] = scale * above / (scale * below + bias_penalty)
        for j in range(count):
            weights[j] -= row[0] * ones[j]
    error = 0.0
    for j in range(count):
        error += np.float64(weights[j]) * np.float64(weights[j])
    for j in range(count):
        x = other[columns[begin + j]]
        for k in range(rank):
            row[first + k] += weights[j] * x[first + k]
    return penalty * penalty * error
