"""How far Lasso-MF gets from many starts: quantiles of J after some iterations.

    python -m benchmarks.starts TRAIN.csv [--starts 50] [--iterations 15]

The keyed starts of mfpipe and those of numpy's generator are fitted alike, and the first few also by an
implementation that shares no code with mfpipe: scikit-learn's Lasso for each row. Without starts of luck the
two distributions agree, and without a bug the two implementations do.
"""

from __future__ import annotations

import argparse

import numpy as np
from sklearn.linear_model import Lasso

from mfpipe.executors import executor
from mfpipe.fit import fit, starting_factors
from mfpipe.models import LassoMF
from mfpipe.models.base import Factors
from mfpipe.ratings import Ratings, ingest


def main() -> None:
    """Print the quantiles."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train")
    parser.add_argument("--starts", type=int, default=50)
    parser.add_argument("--iterations", type=int, default=15)
    parser.add_argument("--peers", type=int, default=3, help="starts that scikit-learn fits too")
    options = parser.parse_args()
    ratings, _ = ingest([options.train])
    for balance in (False, True):
        for kind in ("keyed", "numpy"):
            ends = [
                fitted(ratings, kind, seed, options.iterations, balance) for seed in range(options.starts)
            ]
            say(f"{kind} starts{', balanced' if balance else ''}", np.array(ends))
    for seed in range(options.peers):
        model = model_of(seed, options.iterations, False)
        ours = fitted(ratings, "keyed", seed, options.iterations, False)
        theirs = by_scikit_learn(ratings, starting_factors(model, ratings), model)
        print(f"seed {seed}: mfpipe {ours:.10f}, scikit-learn {theirs:.10f}", flush=True)


def model_of(seed: int, iterations: int, balance: bool) -> LassoMF:
    return LassoMF(
        3, 1e-4, "uniform", max_iter=iterations, tol=0, random_state=seed, dtype="float64", balance=balance
    )


def fitted(ratings: Ratings, kind: str, seed: int, iterations: int, balance: bool) -> float:
    model = model_of(seed, iterations, balance)
    start = starting_factors(model, ratings)
    if kind == "numpy":
        rng = np.random.default_rng(seed)
        start = Factors(*(rng.normal(size=rows.shape) for rows in start))
    with executor(ratings, model.storage, "serial") as where:
        return fit(model, ratings, where, start).objective


def by_scikit_learn(ratings: Ratings, start: Factors, model: LassoMF) -> float:
    """J of the same alternation, each row by scikit-learn's Lasso from the row as it is."""
    n = len(ratings)
    p, q = start.user.copy(), start.item.copy()
    sides = ((q, p, ratings.item, ratings.user), (p, q, ratings.user, ratings.item))
    groups = [[np.flatnonzero(index == row) for row in range(len(own))] for own, _, index, _ in sides]
    for _ in range(model.max_iter):
        for (own, other, _, columns), members in zip(sides, groups, strict=True):
            for row, mine in enumerate(members):
                alpha = model.regularization * n / (2 * len(mine))
                lasso = Lasso(alpha, fit_intercept=False, tol=1e-12, max_iter=10**6, warm_start=True)
                lasso.coef_ = own[row].copy()
                own[row] = lasso.fit(other[columns[mine]], ratings.rating[mine]).coef_
    error = ratings.rating - np.einsum("nk,nk->n", p[ratings.user], q[ratings.item])
    return float(error @ error / n + model.regularization * (np.abs(p).sum() + np.abs(q).sum()))


def say(what: str, ends: np.ndarray) -> None:
    quantiles = ", ".join(f"{value:.4f}" for value in np.quantile(ends, (0, 0.25, 0.5, 0.75, 1)))
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(ends, (100_000, 5)), axis=1)
    share = np.mean(medians <= 1.61)
    print(
        f"{what}: {len(ends)} of them, min, quartiles, max {quantiles}; five at random have a median "
        f"of at most 1.61 {share:.0%} of the time",
        flush=True,
    )


if __name__ == "__main__":
    main()
