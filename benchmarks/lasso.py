"""An iteration of Lasso-MF against one scikit-learn Lasso for each row, on one thread.

    python -m benchmarks.lasso [TRAIN.csv]

scikit-learn stops at a relative duality gap of 1e-4, as asked for; mfpipe has no such stop, and goes on to a
stationarity of 1e-12: its gaps are printed. Both start from the same rows, and take turns.
"""

from __future__ import annotations

import sys
import time
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Lasso

from benchmarks.overhead import training_file
from mfpipe.executors import executor
from mfpipe.fit import fit
from mfpipe.models import LassoMF
from mfpipe.models.base import Block, Factors
from mfpipe.partition import group
from mfpipe.ratings import ingest

GAP = 1e-4
ROUNDS = 5
MODELS = (LassoMF(3, 0.2, "count", dtype="float64"), LassoMF(3, 1e-4, "uniform", dtype="float64"))


def main() -> None:
    """Print seconds, their ratio, and the gaps reached."""
    ratings, _ = ingest([sys.argv[1] if len(sys.argv) > 1 else training_file()])
    warnings.simplefilter("ignore", ConvergenceWarning)
    for model in MODELS:
        with executor(ratings, model.storage, "serial", partitions=1) as where:
            before = fit(LassoMF(**model.params | {"max_iter": 3, "tol": 0}), ratings, where).factors
            ours, theirs = [], []
            for _ in range(ROUNDS):
                for _ in range(10):
                    took, mine = timed(iterate_mfpipe, where, model, before)
                    ours.append(took)
                took, peers = timed(iterate_scikit_learn, ratings, model, before)
                theirs.append(took)
        ratios = np.array(theirs) / np.median(ours)
        print(f"Lasso-MF, rank {model.rank}, λ = {model.regularization:g} {model.weighting}, one iteration")
        print(f"  mfpipe        {spread(np.array(ours) * 1e3)} ms, {gaps(ratings, model, before, mine)}")
        print(f"  scikit-learn  {spread(np.array(theirs))} s, {gaps(ratings, model, before, peers)}")
        print(f"  ratio         {spread(ratios)}", flush=True)


def timed(function, *arguments):
    started = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - started, result


def iterate_mfpipe(where, model: LassoMF, factors: Factors) -> Factors:
    items = where.half_step(model, "item", factors.item, factors.user).rows
    return Factors(where.half_step(model, "user", factors.user, items).rows, items)


def iterate_scikit_learn(ratings, model: LassoMF, factors: Factors) -> Factors:
    n = len(ratings)
    items = lasso_rows(group(ratings, "item", model.storage), factors.item, factors.user, model, n)
    return Factors(lasso_rows(group(ratings, "user", model.storage), factors.user, items, model, n), items)


def lasso_rows(
    block: Block, own: np.ndarray, other: np.ndarray, model: LassoMF, n_ratings: int
) -> np.ndarray:
    rows = np.empty_like(own)
    for u in range(block.n_rows):
        mine = slice(block.indptr[u], block.indptr[u + 1])
        x, y = other[block.columns[mine]], block.values[mine]
        lasso = Lasso(alpha(model, len(y), n_ratings), fit_intercept=False, tol=GAP, warm_start=True)
        lasso.coef_ = own[u].copy()
        rows[u] = lasso.fit(x, y).coef_
    return rows


def alpha(model: LassoMF, n: int, n_ratings: int) -> float:
    """scikit-learn's `alpha` of a row with n ratings."""
    return model.regularization * (0.5 if model.weighting == "count" else n_ratings / (2 * n))


def gaps(ratings, model: LassoMF, before: Factors, after: Factors) -> str:
    """Duality gaps of all rows over their yᵀy, in words."""
    found = []
    for side, other, own in (("item", before.user, after.item), ("user", after.item, after.user)):
        block = group(ratings, side, model.storage)
        for u in range(block.n_rows):
            mine = slice(block.indptr[u], block.indptr[u + 1])
            x, y, p = other[block.columns[mine]], block.values[mine], own[u]
            t = alpha(model, len(y), len(ratings)) * len(y)
            residual = y - x @ p
            reach = np.abs(x.T @ residual).max()
            a = min(1.0, t / reach) if reach > 0 else 1.0
            primal = residual @ residual / 2 + t * np.abs(p).sum()
            found.append((primal - a * (residual @ y) + a * a * (residual @ residual) / 2) / (y @ y))
    return f"relative gaps: median {np.median(found):.0e}, largest {max(found):.0e}"


def spread(values: np.ndarray) -> str:
    return f"{np.median(values):.4g} ({values.min():.4g} to {values.max():.4g})"


if __name__ == "__main__":
    main()
