"""A retrain after 1 % new ratings: `--update` against a warm and a cold start, to the same tolerance.

python -m benchmarks.update --ratings 10000000 --rank 32
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pyarrow as pa

from mfpipe.executors import executor
from mfpipe.fit import fit
from mfpipe.fitted import FittedModel
from mfpipe.ids import IdMap
from mfpipe.models import ALS
from mfpipe.pipeline import compile_kernels
from mfpipe.ratings import Ratings
from mfpipe.synth import Synthetic
from mfpipe.warm_start import solve_touched, warm_start


def synthetic(users: int, items: int, n: int) -> Ratings:
    """The ratings that `mfpipe synth` writes, without the files."""
    user, item, stars, _ = Synthetic(users, items, n, seed=7).columns()
    order = np.lexsort((item, user))
    codes, ids = [], []
    for column in (user[order], item[order]):
        known, rows = np.unique(column, return_inverse=True)
        codes.append(rows.astype(np.int32))
        ids.append(IdMap(pa.array(known.astype(str).tolist())))
    return Ratings(*codes, stars[order].astype(float), None, *ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, usual in (("ratings", 1_000_000), ("users", 50_000), ("items", 5_000), ("rank", 32)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--tol", type=float, default=1e-4)
    parser.add_argument("--new", type=float, default=0.01)
    options = parser.parse_args()
    model = ALS(options.rank, 0.05, max_iter=300, tol=options.tol)
    whole = synthetic(options.users, options.items, options.ratings)
    before = whole.subset(np.random.default_rng(1).random(len(whole)) >= options.new)
    compile_kernels(model)
    with executor(before, model.storage, "threads") as where:
        champion = FittedModel.of(fit(model, before, where), before)
    print(f"{len(before):,} ratings, then {len(whole):,}; rank {options.rank}, tol {options.tol:g}")
    found = {}
    with executor(whole, model.storage, "threads") as where:
        for how in ("cold", "warm", "update"):
            found[how] = seconds_of(how, champion, model, whole, where)
    cold, cold_seconds = found["cold"]
    for how, (fitted, seconds) in found.items():
        difference = 100 * (fitted.objective / cold.objective - 1)
        print(
            f"{how:<6} {fitted.n_iter:3d} iterations {seconds:.2f} s, {seconds / cold_seconds:.3f} of cold's "
            f" objective {fitted.objective:.6f} ({difference:+.4f} % of cold's)"
        )


def seconds_of(how, champion, model, ratings, where):
    """A fit that begins so, and its seconds with those of its start."""
    began = time.perf_counter()
    start = None
    if how != "cold":
        warm = warm_start(champion, model, ratings)
        start = solve_touched(champion, model, ratings, warm) if how == "update" else warm.factors
    return fit(model, ratings, where, start=start), time.perf_counter() - began


if __name__ == "__main__":
    main()
