"""Rows of the homework's data after a half-step, one by one against scikit-learn's solvers."""

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import ElasticNet, Lasso, LinearRegression, Ridge

from mfpipe.executors import executor
from mfpipe.fit import fit
from mfpipe.models import ALS, BiasedALS, LassoMF
from mfpipe.models.base import Totals
from mfpipe.partition import group

SIDES = (("item", "user"), ("user", "item"))
LAMBDA = {"uniform": 1e-4, "count": 0.1}
CHOICES = {
    "ridge": (ALS, {}),
    "ridge nonnegative": (ALS, {"nonnegative": True}),
    "ridge with biases": (BiasedALS, {}),
    "lasso": (LassoMF, {}),
    "lasso nonnegative": (LassoMF, {"nonnegative": True}),
    "elastic net": (LassoMF, {"l1_ratio": 0.5}),
}


def peer(model, s, n):
    """scikit-learn's estimator of the same row problem, from its s = λ N w (objectives: `alpha`)."""
    exact = {"tol": 1e-14, "max_iter": 100_000, "fit_intercept": model.biased}
    if model.l1_share == 1:
        return Lasso(s / (2 * n), positive=not model.signed, **exact)
    if model.l1_share > 0:
        share = model.l1_share
        return ElasticNet(
            s * (2 - share) / (2 * n), l1_ratio=share / (2 - share), positive=not model.signed, **exact
        )
    if not model.signed:  # Ridge(positive=True) stops early; exact least squares takes √s I as more rows
        return LinearRegression(positive=True, fit_intercept=False)
    return Ridge(s, solver="auto" if model.biased else "cholesky", fit_intercept=model.biased)


def row_objective(model, x, y, p, s):
    residual = y - x @ p
    first = 1 if model.biased else 0
    share = model.l1_share
    return residual @ residual + s * (share * np.abs(p[first:]).sum() + (1 - share) * p[first:] @ p[first:])


def compare(ratings, model, rows_a_side):
    """Largest stationarity, distance from scikit-learn's row, objective above its; rows it did not finish."""
    totals = Totals(len(ratings), ratings.rating.mean())
    worst, unfinished = np.zeros(3), 0
    with executor(ratings, model.storage, "serial") as where:
        factors = fit(model, ratings, where).factors
        for side, opposite in SIDES:
            block, other = group(ratings, side, model.storage), getattr(factors, opposite)
            rows = where.half_step(model, side, getattr(factors, side), other).rows
            worst[0] = max(worst[0], model.stationarity(side, block, rows, other, totals).max())
            penalties, _ = model.penalties(block, totals)
            chosen = np.arange(block.n_rows)
            if rows_a_side is not None:  # the longest row too, and the shortest
                order = np.argsort(np.diff(block.indptr), kind="stable")
                chosen = np.r_[order[[0, -1]], np.random.default_rng(0).choice(chosen, rows_a_side)]
            for u in chosen:
                distance, above, finished = apart(model, block, u, rows[u], other, penalties[u], totals)
                worst[1] = max(worst[1], distance if finished else 0)
                worst[2] = max(worst[2], above)
                unfinished += not finished
            factors = factors._replace(**{side: rows})
    return *worst, unfinished


def apart(model, block, u, row, other, s, totals):
    mine = slice(block.indptr[u], block.indptr[u + 1])
    x, y = model._design(block.columns[mine], block.values[mine], other, totals.mean)
    design, targets = (x[:, 1:] if model.biased else x), y
    solver = peer(model, s, len(y))
    if isinstance(solver, LinearRegression):
        k = x.shape[1]
        design, targets = np.vstack((x, np.sqrt(s) * np.eye(k))), np.r_[y, np.zeros(k)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a gap of 1e-14 can lie below rounding
        solved = solver.fit(design, targets)
    expected = np.r_[solved.intercept_, solved.coef_] if model.biased else solved.coef_
    above = row_objective(model, x, y, row, s) - row_objective(model, x, y, expected, s)
    scale = max(1, y @ y)
    finished = getattr(solved, "dual_gap_", 0) * len(y) <= 1e-12 * scale
    return np.abs(row - expected).max() / max(1, np.abs(expected).max()), above / scale, finished


@pytest.mark.parametrize("rows_a_side", [60, pytest.param(None, marks=pytest.mark.slow)], ids=["some", "all"])
@pytest.mark.parametrize("weighting", LAMBDA)
@pytest.mark.parametrize("choice", CHOICES)
def test_every_row_is_scikit_learns(netflix, choice, weighting, rows_a_side):
    cls, options = CHOICES[choice]
    model = cls(5, LAMBDA[weighting], weighting, max_iter=4, tol=0, dtype="float64", **options)
    stationarity, distance, above, unfinished = compare(netflix[0], model, rows_a_side)
    print(
        f"{choice}, {weighting}: stationarity {stationarity:.1e}, apart {distance:.1e}, above {above:.1e}, "
        f"{unfinished} not finished by scikit-learn"
    )
    assert stationarity <= 1e-10
    assert distance <= 1e-6
    assert above <= 1e-12  # also where scikit-learn was still descending after all its iterations
    assert unfinished <= 0.005 * (len(netflix[0].users) + len(netflix[0].items))
