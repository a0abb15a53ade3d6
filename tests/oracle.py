"""Slow and obvious: what the formulas of the objective say, in plain loops of numpy.

A row is its factors, or with biases its bias followed by its factors.
"""

from __future__ import annotations

import numpy as np


def weights(counts, weighting):
    """W of each row: 1, or its number of ratings over all."""
    return np.ones(len(counts)) if weighting == "uniform" else counts / counts.sum()


def predicted(p, q, mean, biased):
    """r̂ of one pair."""
    return mean + p[0] + q[0] + p[1:] @ q[1:] if biased else p @ q


def phi(rows, l1_ratio):
    return l1_ratio * np.abs(rows).sum(axis=1) + (1 - l1_ratio) * (rows**2).sum(axis=1)


def objective(user, item, rating, p, q, model):
    """J = (1/N) Σ (r − r̂)² + Σ_sides Σ_rows w (λ φ(factors) + λ_b bias²)."""
    biased, mean = model.biased, rating.mean()
    pairs = zip(user, item, rating, strict=True)
    total = sum((r - predicted(p[u], q[i], mean, biased)) ** 2 for u, i, r in pairs) / len(rating)
    for rows, index in ((p, user), (q, item)):
        w = weights(np.bincount(index, minlength=len(rows)), model.weighting)
        total += model.regularization * (w @ phi(rows[:, -model.rank :], model.l1_share))
        if biased:
            total += model.bias_regularization * (w @ rows[:, 0] ** 2)
    return total


def quadratic_row(x, y, penalties):
    """Argmin ‖y − Xp‖² + Σ penalties p²; the shortest one where it is not unique; zeros without ratings."""
    if len(y) == 0:
        return np.zeros(x.shape[1])
    stacked = np.vstack((x, np.diag(np.sqrt(penalties))))
    return np.linalg.lstsq(stacked, np.concatenate((y, np.zeros(x.shape[1]))), rcond=None)[0]


def descent_row(x, y, p, s, l1_ratio, nonnegative, bias_penalty=None):
    """Argmin ‖y − Xp‖² + s(α‖p‖₁ + (1 − α)‖p‖²) by coordinate descent from p, until nothing moves."""
    p, gram, moment = p.copy(), x.T @ x, x.T @ y
    if len(y) == 0:
        return np.zeros(len(p))
    for _ in range(100_000):
        before = p.copy()
        for k in range(len(p)):
            is_bias = bias_penalty is not None and k == 0
            lasso, ridge = (0.0, bias_penalty) if is_bias else (s * l1_ratio / 2, s * (1 - l1_ratio))
            curvature = gram[k, k] + ridge
            reach = moment[k] - gram[k] @ p + gram[k, k] * p[k]
            if nonnegative and not is_bias:
                p[k] = max(reach - lasso, 0) / curvature if curvature > 0 else 0
            else:
                p[k] = np.sign(reach) * max(abs(reach) - lasso, 0) / curvature if curvature > 0 else 0
        if np.abs(p - before).max() <= 1e-13 * max(1, np.abs(p).max()):
            break
    return p


def conjugate_row(system, right, p, steps):
    """P after some steps of conjugate gradients towards system · p = right."""
    left = right - system @ p
    direction = left
    for _ in range(steps):
        curvature = direction @ system @ direction
        if not curvature > 0:
            break
        length = (left @ left) / curvature
        p, before = p + length * direction, left @ left
        left = left - length * system @ direction
        direction = left + (left @ left) / before * direction
    return p


def stepped_row(x, y, own, s, s_bias, model):
    """A row after the model's steps; its bias is the best given the factors: the new, or `separate` the old."""
    if len(y) == 0:
        return np.zeros(len(own))
    if not model.biased:
        return conjugate_row(x.T @ x + s * np.eye(len(own)), x.T @ y, own, model.steps)
    x, p, size = x[:, 1:], own[1:], len(y) + s_bias
    mean = np.zeros((len(y), len(y))) if model.separate else np.full((len(y), len(y)), 1 / size)
    bias = (y - x @ p).sum() / size
    right = x.T @ (y - bias if model.separate else y - mean @ y)
    p = conjugate_row(x.T @ (x - mean @ x) + s * np.eye(len(p)), right, p, model.steps)
    return np.concatenate(([bias if model.separate else (y - x @ p).sum() / size], p))


def row_update(x, y, own, s, s_bias, model):
    """One row: x and y are its design matrix and targets."""
    nonnegative = not model.signed
    if model.steps:
        return stepped_row(x, y, own, s, s_bias, model)
    if model.l1_share > 0 or nonnegative:
        return descent_row(x, y, own, s, model.l1_share, nonnegative, s_bias if model.biased else None)
    if not model.biased:
        return quadratic_row(x, y, np.full(x.shape[1], s))
    if not model.separate:
        return quadratic_row(x, y, np.concatenate(([s_bias], np.full(x.shape[1] - 1, s))))
    bias = (y - x[:, 1:] @ own[1:]).sum() / (len(y) + s_bias)
    return np.concatenate(([bias], quadratic_row(x[:, 1:], y - bias, np.full(x.shape[1] - 1, s))))


def updated(own, other, index, columns, rating, model):
    """All rows of one side, exactly optimal with the other side fixed."""
    own, n, mean = own.copy(), len(rating), rating.mean()
    w = weights(np.bincount(index, minlength=len(own)), model.weighting)
    for row in range(len(own)):
        x, y = other[columns[index == row]].copy(), rating[index == row].copy()
        if model.biased:
            y -= mean + x[:, 0]
            x[:, 0] = 1
        s_bias = n * w[row] * model.bias_regularization if model.biased else 0.0
        own[row] = row_update(x, y, own[row], model.regularization * n * w[row], s_bias, model)
    return own


def alternate(user, item, rating, p, q, model, iterations):
    """Item half-step, then user half-step; the rows, and J at the start and after each half-step.

    With `accelerate` the item half-step first starts from p + (t − 1)/t' (p − p of an iteration ago), t' =
    (1 + √(1 + 4t²))/2, and again from p, with t = 1, where that does not lower J.
    """
    trajectory = [objective(user, item, rating, p, q, model)]
    p_before, t = None, 1.0
    for iteration in range(iterations):
        if getattr(model, "balance", False) and iteration > 0:
            p, q = balanced(user, item, p, q, model)
        ahead, following = p, (1 + np.sqrt(1 + 4 * t * t)) / 2
        if model.accelerate and p_before is not None:
            ahead = p + (t - 1) / following * (p - p_before)
            if not model.signed:
                ahead[:, -model.rank :] = np.maximum(ahead[:, -model.rank :], 0)
        q_new = updated(q, ahead, item, user, rating, model)
        if model.accelerate and objective(user, item, rating, ahead, q_new, model) > trajectory[-1]:
            ahead, following = p, 1.0
            q_new = updated(q, p, item, user, rating, model)
        p_before, t, q = p, following, q_new
        trajectory.append(objective(user, item, rating, ahead, q, model))
        p = updated(ahead, q, user, item, rating, model)
        trajectory.append(objective(user, item, rating, p, q, model))
    return p, q, trajectory


def balanced(user, item, p, q, model):
    """P/c and Q·c with the c of each factor that makes the penalty least, by formula."""
    power = 1 if model.l1_share else 2
    a = weights(np.bincount(user), model.weighting) @ np.abs(p) ** power
    b = weights(np.bincount(item), model.weighting) @ np.abs(q) ** power
    c = np.array([(a[k] / b[k]) ** (0.5 / power) if a[k] > 0 and b[k] > 0 else 1 for k in range(len(a))])
    return p / c, q * c
