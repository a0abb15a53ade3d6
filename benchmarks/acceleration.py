"""Iterations and seconds to the objective a plain fit stops at, by what makes a fit faster.

    python -m benchmarks.acceleration [RATINGS ...]

Without files it makes 2 M and 10 M synthetic ratings and fits 86 % of each. The homework's settings are
used for its own file, `train.csv`.
"""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pyarrow as pa

from mfpipe.executors import executor
from mfpipe.fit import fit
from mfpipe.ids import IdMap
from mfpipe.models import ALS, BiasedALS, FactorModel, LassoMF
from mfpipe.pipeline import compile_kernels
from mfpipe.ratings import Ratings, ingest
from mfpipe.synth import Synthetic

WAYS = {
    "--accelerate": {"accelerate": True},
    "--init spectral": {"init": "spectral"},
    "both": {"accelerate": True, "init": "spectral"},
    "both, --solver cg": {"accelerate": True, "init": "spectral", "solver": "cg"},
}
USERS, ITEMS = 70_000, 10_700
HOMEWORK = [
    ALS(5, 1e-4, "uniform", max_iter=1000, tol=1e-6, dtype="float64"),
    ALS(10, 0.05, max_iter=1000, tol=1e-6),
    BiasedALS(3, 3e-4, "uniform", max_iter=1000, tol=1e-6, dtype="float64"),
    LassoMF(3, 0.2, max_iter=1000, tol=1e-6, dtype="float64"),
]
OTHERS = [ALS(32, 0.05, max_iter=500), BiasedALS(32, 0.05, max_iter=500), LassoMF(16, 0.05, max_iter=500)]


def synthetic(n: int) -> Ratings:
    """86 % of n synthetic ratings, chosen at random."""
    user, item, stars, _ = Synthetic(USERS, ITEMS, n, 1).columns()
    keep = np.random.default_rng(0).random(n) < 0.86
    user, item, stars = user[keep] - 1, item[keep] - 1, stars[keep].astype(float)
    order = np.lexsort((item, user))
    ids = (IdMap(pa.array([f"{row:06d}" for row in range(size)])) for size in (USERS, ITEMS))
    rows = (rows[order].astype(np.int32) for rows in (user, item))
    return Ratings(*rows, stars[order], None, *ids)


def compare(name: str, ratings: Ratings, model: FactorModel) -> None:
    """Fit plainly and in each way, and print a line for each."""
    with executor(ratings, model.storage, "threads") as here:
        compile_kernels(dataclasses.replace(model, init="spectral"))
        plain = fit(model, ratings, here)
        others = {
            words: fit(dataclasses.replace(model, **more), ratings, here)
            for words, more in WAYS.items()
            if more.keys() <= model.params.keys()
        }
    print(
        f"{name} {model.name} {model.weighting} rank {model.rank}: plain J {plain.objective:.7g}, "
        f"{plain.n_iter} it, {plain.seconds:.2f} s",
        flush=True,
    )
    for words, other in others.items():
        reached = [record["objective"] <= plain.objective for record in other.history]
        same = "not reached"
        if any(reached):
            until = reached.index(True) + 1
            after = sum(record["seconds"] for record in other.history[until:])
            same = f"{until} it, {other.seconds - after:.2f} s"
        print(
            f"  {words}: same J after {same}; its own {other.objective:.7g}, {other.n_iter} it, "
            f"{other.seconds:.2f} s",
            flush=True,
        )


def main() -> None:
    """Print a line for each set and model."""
    for path in sys.argv[1:]:
        ratings, _ = ingest([path])
        for model in HOMEWORK if path.endswith("train.csv") else [ALS(8, 0.15, max_iter=500)]:
            compare(path, ratings, model)
    for n in () if sys.argv[1:] else (2_000_000, 10_000_000):
        ratings = synthetic(n)
        for model in OTHERS:
            compare(f"{len(ratings):,} synthetic", ratings, model)


if __name__ == "__main__":
    main()
