"""Lasso, elastic-net and non-negative rows: coordinate descent on the Gram matrix, finished exactly."""

import numpy as np

from mfpipe.kernels import kernel, part
from mfpipe.kernels.normal import (
    PANEL,
    TARGETS,
    biases_of,
    cut_off,
    factorise,
    normal_equations,
    padded,
    substitute,
)
from mfpipe.kernels.residuals import row_penalty, settled

PASSES = 10_000
PATIENCE = 10  # passes that may go on changing signs before the linear system is tried all the same
CRAWL = 200  # passes after which what rounding leaves of c − Gp is stationary enough
STATIONARY = 1e-12  # of max(‖c‖∞, s); reached exactly where the active set is known
DEPENDENT = 64  # rounding errors; a system nearer to singular than that gives no stationary point


@kernel
def descent_rows(
    indptr, columns, values, other, penalty, bias_penalty, own, mean, biased, l1_ratio, nonnegative,
    rows, squared_error, penalised, unfinished,
):  # fmt: skip
    """Rows of one side that minimise the elastic-net objective with the other side fixed.

    Row u solves  min ‖y − Xp‖² + s(α‖p‖₁ + (1 − α)‖p‖²), optionally with p ≥ 0, by coordinate descent in
    covariance form from the row as it is: p_k ← S(c_k − Σ_{j≠k} G_kj p_j, sα/2) / (G_kk + s(1 − α)). A
    bias is one more coordinate, neither shrunk by s nor kept from being negative. When a pass leaves the
    signs as they were (and every tenth time), the linear system of the nonzero coordinates is solved, as
    in feature-sign search; the subdifferential's distance to zero is the only stop rule.

    Parameters
    ----------
    own : floating, shape (n, width)
        The rows to start from.
    l1_ratio : float
        α, from 0 to 1.
    nonnegative : bool
    indptr, columns, values, other, penalty, bias_penalty, mean, biased, rows, squared_error, penalised
        As in `ridge_rows`. Everything after the Gram matrix is computed in float64.
    unfinished : out, bool, shape (n,)
        True where `PASSES` passes did not reach a stationary point; the row is then the last one's.

    References
    ----------
    Friedman, Hastie, Tibshirani: Regularization paths for generalized linear models via coordinate
    descent, J. Stat. Software 33(1), 2010, sections 2.1 and 2.2 (covariance updates). Lee, Battle, Raina,
    Ng: Efficient sparse coding algorithms, NIPS 2006, algorithm 1 (feature-sign search).
    """
    width = other.shape[1]
    first = 1 if biased else 0
    rank = width - first
    biases = biases_of(other, biased)
    stored = np.empty((padded(other, rank), padded(other, rank)), other.dtype)
    moments = np.empty((2, padded(other, rank)), other.dtype)
    panel = np.zeros((PANEL, padded(other, rank)), other.dtype)
    targets = np.empty(TARGETS, other.dtype)
    gram = np.empty((width, width), np.float64)
    room = padded(gram, width)
    system = np.empty((room, room), np.float64)
    work = np.empty((8, room), np.float64)
    c, l1, l2 = work[0, :width], work[1, :width], work[2, :width]
    p, slope = work[3, :width], work[4, :width]
    active = np.empty(width, np.int64)
    for u in range(len(indptr) - 1):
        begin, end = indptr[u], indptr[u + 1]
        rows[u] = 0
        if begin == end:
            squared_error[u] = 0.0
            penalised[u] = 0.0
            unfinished[u] = False
            continue
        square, total = normal_equations(
            columns, values, begin, end, other, biases, mean, panel, targets, stored, moments
        )
        for k in range(width):
            p[k] = own[u, k]
            l1[k] = penalty[u] * l1_ratio / 2
            l2[k] = penalty[u] * (1 - l1_ratio)
        for k in range(rank):
            c[first + k] = moments[0, k]
            for m in range(k, rank):
                gram[first + k, first + m] = stored[k, m]
                gram[first + m, first + k] = stored[k, m]
        if biased:
            c[0] = total
            gram[0, 0] = end - begin
            for k in range(rank):
                gram[0, 1 + k] = moments[1, k]
                gram[1 + k, 0] = moments[1, k]
        if biased:
            l1[0] = 0.0
            l2[0] = bias_penalty[u]
        rounding = width * np.finfo(other.dtype).eps
        unfinished[u] = not _descend(
            gram, c, l1, l2, biased, nonnegative, penalty[u], rounding, p, slope, system, work[5:], active
        )
        for k in range(width):
            rows[u, k] = p[k]
        error, explained = square, 0.0
        for k in range(width):
            error -= p[k] * (c[k] + slope[k])
            explained += gram[k, k] * p[k] * p[k]
        digits = max(square, explained)
        squared_error[u] = settled(
            error, digits, columns[begin:end], values[begin:end], other, mean, biased, rows[u]
        )
        penalised[u] = row_penalty(rows[u], penalty[u], bias_penalty[u], l1_ratio, biased)


@part
def _descend(gram, c, l1, l2, biased, nonnegative, penalty, rounding, p, slope, system, work, active):
    """Minimise pᵀGp/2 − cᵀp + l1ᵀ|p| + Σ l2 p²/2 in place; `slope` is c − Gp throughout.

    Returns whether p is stationary: to `STATIONARY`, or in the end to the rounding errors of G and c, a
    `rounding` share of the terms of c − Gp. Rounded, a singular G may have no better point.
    """
    width = len(p)
    scale = 0.0 if biased else penalty  # which says nothing of a bias
    zero = not biased
    for k in range(width):
        scale = max(scale, abs(c[k]))
        reach = c[k] if nonnegative else abs(c[k])
        if reach > l1[k]:
            zero = False
    if zero:  # no coordinate can leave zero: the row is zero, exactly
        for k in range(width):
            p[k] = 0
            slope[k] = c[k]
        return True
    for k in range(width):
        if nonnegative and p[k] < 0 and not (biased and k == 0):
            p[k] = 0
    _slope(gram, c, p, slope)
    for attempt in range(1, PASSES + 1):
        settled_signs = True
        for k in range(width):
            curvature = gram[k, k] + l2[k]
            before = p[k]
            if curvature <= 0:
                p[k] = 0
            else:
                reach = slope[k] + gram[k, k] * before
                if reach > l1[k]:
                    p[k] = (reach - l1[k]) / curvature
                elif reach < -l1[k] and (not nonnegative or (biased and k == 0)):
                    p[k] = (reach + l1[k]) / curvature
                else:
                    p[k] = 0
            settled_signs = settled_signs and np.sign(p[k]) == np.sign(before)
            step = p[k] - before
            if step != 0:
                for m in range(width):
                    slope[m] -= gram[k, m] * step
        if distance(slope, p, l1, l2, biased, nonnegative) <= STATIONARY * scale:
            return True
        if settled_signs or attempt % PATIENCE == 0:
            _settle(gram, c, l1, l2, biased, p, system, work, active)
            terms = _slope(gram, c, p, slope)
            limit = STATIONARY * scale
            if attempt > CRAWL:
                limit = max(limit, rounding * terms)
            if distance(slope, p, l1, l2, biased, nonnegative) <= limit:
                return True
    return False


@part
def _slope(gram, c, p, slope):
    """Set `slope` to c − Gp; returns the largest |c_k| + Σ |G_km p_m|."""
    largest = 0.0
    for k in range(len(p)):
        total, terms = c[k], abs(c[k])
        for m in range(len(p)):
            total -= gram[k, m] * p[m]
            terms += abs(gram[k, m] * p[m])
        slope[k] = total
        largest = max(largest, terms)
    return largest


@part
def _settle(gram, c, l1, l2, biased, p, system, work, active):
    """Move p to the minimiser of its face: the rows with its zeros, and its signs where it is not zero.

    Each step goes to the minimiser without regard to signs, or only until the first coordinate is zero,
    which then stays so; the objective never rises. With more nonzero coordinates than the Gram matrix has
    rank, one is first taken to zero along its null space.
    """
    solution = work[0]
    while True:
        count = np.int64(0)  # for a literal 0 numba would compile what is called with it once more
        for k in range(len(p)):
            if p[k] != 0:
                active[count] = k
                count += 1
        width = padded(system, count)
        for i in range(width):
            for j in range(width):
                system[i, j] = gram[active[i], active[j]] if i <= j < count else 0.0
            solution[i] = 0
            if i < count:
                k = active[i]
                system[i, i] += l2[k]
                solution[i] = c[k] - np.sign(p[k]) * l1[k]
        independent = factorise(system, count, DEPENDENT)
        if independent < count:
            if not _drop_one(gram, l1, p, system, work, active, independent):
                return
            continue
        substitute(system, solution, work[1:], count)
        step, first = 1.0, -1
        for i in range(count):
            k = active[i]
            if not (biased and k == 0) and solution[i] * np.sign(p[k]) <= 0:
                reach = p[k] / (p[k] - solution[i])
                if reach < step or first < 0:
                    step, first = reach, i
        for i in range(count):
            k = active[i]
            p[k] = solution[i] if first < 0 else p[k] + step * (solution[i] - p[k])
        if first < 0:
            return
        p[active[first]] = 0.0


@part
def _drop_one(gram, l1, p, system, work, active, dependent):
    """Take a coordinate to zero along a direction in which Gp stays and l1ᵀ|p| does not rise.

    Column `dependent` of the active ones is a combination of those before it, along which descent alone
    would crawl. False if no coordinate reaches zero that way.
    """
    direction = work[0]
    for i in range(len(direction)):
        direction[i] = -gram[active[dependent], active[i]] if i < dependent else 0.0
    cut_off(system, dependent)
    substitute(system, direction, work[1:], dependent)
    direction[dependent] = 1.0
    rise = 0.0
    for i in range(dependent + 1):
        rise += l1[active[i]] * np.sign(p[active[i]]) * direction[i]
    if rise > 0:
        for i in range(dependent + 1):
            direction[i] = -direction[i]
    step, first = np.inf, -1
    for i in range(dependent + 1):
        if l1[active[i]] > 0 and direction[i] * np.sign(p[active[i]]) < 0:
            reach = abs(p[active[i]] / direction[i])
            if reach < step:
                step, first = reach, i
    if first < 0:
        return False
    for i in range(dependent + 1):
        p[active[i]] += step * direction[i]
    p[active[first]] = 0.0
    return True


@part
def distance(slope, p, l1, l2, biased, nonnegative):
    """Euclidean distance to zero of the subdifferential of the row problem at p, given c − Gp."""
    total = 0.0
    for k in range(len(p)):
        gradient = l2[k] * p[k] - slope[k]  # of the smooth part, halved
        free = not nonnegative or (biased and k == 0)
        if p[k] > 0:
            gradient += l1[k]
        elif p[k] < 0:
            gradient -= l1[k]
        elif free:
            gradient = max(abs(gradient) - l1[k], 0.0)
        else:
            gradient = min(gradient + l1[k], 0.0)
        total += gradient * gradient
    return 2 * np.sqrt(total)
