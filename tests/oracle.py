"""Slow and obvious: what the formulas of the objective say, in plain loops of numpy."""

from __future__ import annotations

import numpy as np


def weights(counts, weighting):
    """W of each row: 1, or its number of ratings over all."""
    return np.ones(len(counts)) if weighting == "uniform" else counts / counts.sum()


def objective(user, item, rating, p, q, regularization, weighting):
    """J = (1/N) Σ (r − p·q)² + λ Σ w ‖p‖² + λ Σ w ‖q‖²."""
    error = sum((r - p[u] @ q[i]) ** 2 for u, i, r in zip(user, item, rating, strict=True)) / len(rating)
    w_u = weights(np.bincount(user, minlength=len(p)), weighting)
    w_i = weights(np.bincount(item, minlength=len(q)), weighting)
    return error + regularization * (w_u @ (p**2).sum(axis=1) + w_i @ (q**2).sum(axis=1))


def ridge_row(x, y, s):
    """Argmin ‖y − Xp‖² + s‖p‖²; the shortest one where it is not unique; zeros without ratings."""
    if len(y) == 0:
        return np.zeros(x.shape[1])
    if s == 0:
        return np.linalg.lstsq(x, y, rcond=None)[0]
    return np.linalg.solve(x.T @ x + s * np.eye(x.shape[1]), x.T @ y)


def als(user, item, rating, p, q, regularization, weighting, iterations):
    """Alternating least squares, item half-step first; the factors, and J at the start and after each."""
    p, q, n = p.copy(), q.copy(), len(rating)
    trajectory = [objective(user, item, rating, p, q, regularization, weighting)]
    for _ in range(iterations):
        for own, other, rows, columns in ((q, p, item, user), (p, q, user, item)):
            counts = np.bincount(rows, minlength=len(own))
            s = regularization * n * weights(counts, weighting)
            for row in range(len(own)):
                mine = rows == row
                own[row] = ridge_row(other[columns[mine]], rating[mine], s[row])
            trajectory.append(objective(user, item, rating, p, q, regularization, weighting))
    return p, q, trajectory


def mean_by(rows, rating, n):
    return np.array([rating[rows == row].mean() for row in range(n)])
