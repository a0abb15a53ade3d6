"""Ridge rows: normal equations by Cholesky, primal for long rows and dual for short ones."""

import numpy as np

from mfpipe.kernels import kernel, part
from mfpipe.kernels.batched import solve_batch
from mfpipe.kernels.normal import (
    PANEL,
    TARGETS,
    biases_of,
    factorise,
    normal_equations,
    padded,
    set_gram,
    set_targets,
    substitute,
    tiled,
)
from mfpipe.kernels.registers import lanes, tile_rows
from mfpipe.kernels.residuals import row_penalty, settled
from mfpipe.kernels.tiles import copy_turned, subtract_product


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
    biases = biases_of(other, biased)
    width = padded(other, rank)
    together = lanes(other) if width <= lanes(other) else 1
    systems = np.zeros((together, width, width), other.dtype)
    moments = np.zeros((together, 2, width), other.dtype)
    solutions = np.zeros((together, width), other.dtype)
    square, total = np.empty(together), np.empty(together)
    solved, waiting = np.empty(together, np.bool_), np.empty(together, np.int64)
    panel = np.zeros((max(PANEL, width), width), other.dtype)
    targets = np.empty(max(TARGETS, width), other.dtype)
    work = np.empty((2, width), other.dtype)
    side = width if together > 1 else 0
    lanewise = np.empty((side + 1, side, together), other.dtype)
    u, n = np.int64(0), len(indptr) - 1  # for a literal 0 numba would compile `_system` once more
    while u < n:
        count = 0
        while u < n and count < together:
            begin, end = indptr[u], indptr[u + 1]
            rows[u] = 0
            unsolved[u] = False
            if begin == end:
                squared_error[u] = 0.0
                penalised[u] = 0.0
            elif end - begin < rank and not separate:
                error = _dual(
                    columns, values, begin, end, other, biases, mean, penalty[u], bias_penalty[u],
                    systems[count], panel, targets, moments[count], solutions[count], work, rows[u],
                )  # fmt: skip
                unsolved[u] = error < 0
                squared_error[u] = error
                penalised[u] = row_penalty(rows[u], penalty[u], bias_penalty[u], 0.0, biased)
            else:
                square[count], total[count] = _system(
                    columns, values, begin, end, other, biases, mean, penalty[u], bias_penalty[u], own, u,
                    separate, panel, targets, systems[count], moments[count], work, rows[u],
                )  # fmt: skip
                waiting[count] = u
                count += 1
            u += 1
        if together > 1:
            solve_batch(systems, moments, rank, 1, lanewise, solutions, solved)
        elif count:
            solved[0] = factorise(systems[0], rank, 1) == rank
            for k in range(width):
                solutions[0, k] = moments[0, 0, k]
            substitute(systems[0], solutions[0], work, rank)
        for b in range(count):
            v = waiting[b]
            if not solved[b]:
                rows[v] = 0
                unsolved[v] = True
                squared_error[v] = -1.0
            else:
                squared_error[v] = _finish(
                    columns[indptr[v] : indptr[v + 1]], values[indptr[v] : indptr[v + 1]], other, first,
                    mean, penalty[v], bias_penalty[v], separate, square[b], total[b], moments[b],
                    solutions[b], rows[v],
                )  # fmt: skip
            penalised[v] = row_penalty(rows[v], penalty[v], bias_penalty[v], 0.0, biased)


@part
def _system(
    columns, values, begin, end, other, biases, mean, penalty, bias_penalty, own, u, separate,
    panel, targets, gram, moments, work, row,
):  # fmt: skip
    """The system of a row's factors; Σ y² and Σ y of what it explains.

    A bias is taken out first: solved for and substituted, b = (Σy − 1ᵀXp) / (n + s_b), which leaves the
    same problem in p with less in G, Xᵀy and yᵀy.
    """
    rank = len(row) - min(len(biases), 1)
    square, total = normal_equations(
        columns, values, begin, end, other, biases, mean, panel, targets, gram, moments
    )
    if len(biases) > 0:
        size = end - begin + bias_penalty
        bias = total / size
        if separate:
            for k in range(rank):
                bias -= moments[1, k] * own[u, 1 + k] / size
            square += bias * ((end - begin) * bias - 2 * total)
        else:
            square -= total * bias
            share, ones = work[0], moments[1]
            for k in range(len(ones)):
                share[k] = ones[k] / gram.dtype.type(size)
            for j in range(0, len(ones), lanes(gram)):
                for i in range(0, j + lanes(gram), tile_rows(gram)):
                    subtract_product(gram, i, j, share, ones)
        row[0] = bias
        for k in range(rank):
            moments[0, k] -= gram.dtype.type(bias) * moments[1, k]
    for k in range(rank):
        gram[k, k] += penalty
    return square, total


@part
def _finish(
    columns, values, other, first, mean, penalty, bias_penalty, separate, square, total, moments, solution,
    row,
):  # fmt: skip
    """Set a row from the solution of its system; its squared error.

    That follows from the minimum of the problem without the bias, yᵀy − yᵀXp.
    """
    rank = len(row) - first
    error, explained = square, 0.0
    for k in range(rank):
        p = np.float64(solution[k])
        error -= p * (np.float64(moments[0, k]) + penalty * p)
        explained += abs(p * np.float64(moments[0, k]))
    for k in range(rank):
        row[first + k] = solution[k]
    if first and not separate:
        bias = total
        for k in range(rank):
            bias -= moments[1, k] * solution[k]
        row[0] = bias / (len(columns) + bias_penalty)
        error -= bias_penalty * np.float64(row[0]) ** 2
    digits = max(square, explained)
    return settled(error, digits, columns, values, other, mean, first == 1, row)


@part
def _dual(
    columns, values, begin, end, other, biases, mean, penalty, bias_penalty,
    gram, panel, targets, moments, solution, work, row,
):  # fmt: skip
    """A row with fewer ratings than factors, from the system in its ratings; returns as `_primal` does.

    The bias is b = s·1ᵀM⁻¹y / (s·1ᵀM⁻¹1 + s_b) with M = XXᵀ + sI, then a = M⁻¹(y − b1); what is left of
    the targets is s·a.
    """
    first = min(len(biases), 1)
    rank = len(row) - first
    count = end - begin
    width, height = padded(gram, count), tiled(gram, count)
    set_targets(columns, values, begin, count, biases, mean, targets)
    step = tile_rows(gram)
    for j in range(0, count, step):
        if count < step:
            for k in range(rank):
                for m in range(count):
                    panel[k, m] = other[columns[begin + m], first + k]
        else:  # the last ones overlap those before where the count is not a multiple
            at = min(j, count - step)
            copy_turned(panel, at, other, first, rank, columns, begin + at)
    for k in range(rank):
        for j in range(count, height):
            panel[k, j] = 0
    set_gram(gram, height, panel, rank)
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
    # Slices, because LLVM makes no vectors of what is indexed by a sum: numba lets that be negative.
    p, members = row[first:], columns[begin:end]
    for j in range(count):
        x = other[members[j], first:]
        for k in range(rank):
            p[k] += weights[j] * x[k]
    return penalty * penalty * error
