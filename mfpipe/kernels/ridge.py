"""Ridge rows: normal equations by Cholesky, primal for long rows and dual for short ones."""

import numpy as np
from numba import njit

from mfpipe.kernels import OPTIONS
from mfpipe.kernels.normal import PANEL, factorise, gather, normal_equations, substitute
from mfpipe.kernels.residuals import row_penalty, squared_residual


@njit(**OPTIONS)
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
    width = other.shape[1]
    gram = np.empty((width, width), other.dtype)
    panel = np.empty((max(PANEL, width), width), other.dtype)
    targets = np.empty(max(PANEL, width), other.dtype)
    for u in range(len(indptr) - 1):
        begin, end = indptr[u], indptr[u + 1]
        row = rows[u]
        row[:] = 0
        unsolved[u] = False
        if begin == end:
            squared_error[u] = 0.0
            penalised[u] = 0.0
            continue
        mine, ratings = columns[begin:end], values[begin:end]
        if separate:
            normal_equations(mine, ratings, other, mean, biased, panel, targets, gram, row)
            solved = _bias_then_factors(gram, row, own[u], penalty[u], bias_penalty[u])
        elif end - begin < width:
            solved = _dual(
                mine, ratings, other, mean, biased, penalty[u], bias_penalty[u], gram, panel, targets, row
            )
        else:
            normal_equations(mine, ratings, other, mean, biased, panel, targets, gram, row)
            for k in range(width):
                gram[k, k] += penalty[u]
            if biased:
                gram[0, 0] += bias_penalty[u] - penalty[u]
            solved = factorise(gram, width) == width
            if solved:
                substitute(gram, row, width)
        if not solved:
            unsolved[u] = True
            row[:] = 0
        squared_error[u] = squared_residual(mine, ratings, other, mean, biased, row)
        penalised[u] = row_penalty(row, penalty[u], bias_penalty[u], 0.0, biased)


@njit(**OPTIONS)
def _bias_then_factors(gram, row, own, penalty, bias_penalty):
    """From the joint normal equations in (gram, row): b with p as it was, then p with that b."""
    width = len(row)
    bias = row[0]
    for k in range(1, width):
        bias -= gram[k, 0] * own[k]
    bias /= gram[0, 0] + bias_penalty
    row[0] = 0
    for k in range(1, width):
        row[k] -= bias * gram[k, 0]
        gram[k, k] += penalty
        gram[k, 0] = 0
    gram[0, 0] = 1
    solved = factorise(gram, width) == width
    if solved:
        substitute(gram, row, width)
        row[0] = bias
    return solved


@njit(**OPTIONS)
def _dual(columns, values, other, mean, biased, penalty, bias_penalty, gram, panel, targets, row):
    """A row with fewer ratings than columns, from the system in its ratings.

    The bias is b = s·1ᵀM⁻¹y / (s·1ᵀM⁻¹1 + s_b) with M = XXᵀ + sI, then a = M⁻¹(y − b1).
    """
    width = other.shape[1]
    count = len(columns)
    zero = other.dtype.type(0)
    first = 1 if biased else 0
    gather(columns, values, other, mean, biased, panel, targets)
    for j in range(count):
        x = panel[j]
        for m in range(j + 1):
            z = panel[m]
            dot = zero
            for k in range(first, width):
                dot += x[k] * z[k]
            gram[j, m] = dot
        gram[j, j] += penalty
    if factorise(gram, count) < count:
        return False
    substitute(gram, targets, count)
    if biased:
        # The panel's column of ones is solved for in place: it is not needed again.
        ones = panel[:count, 0].copy()
        substitute(gram, ones, count)
        above, below = zero, zero
        for j in range(count):
            above += targets[j]
            below += ones[j]
        # With s = 0 both terms are scaled away; a free bias then takes the limit s → 0.
        scale = penalty if bias_penalty > 0 else 1.0
        bias = scale * above / (scale * below + bias_penalty)
        for j in range(count):
            targets[j] -= bias * ones[j]
        row[0] = bias
    for j in range(count):
        weight = targets[j]
        for k in range(first, width):
            row[k] += weight * panel[j, k]
    return True
