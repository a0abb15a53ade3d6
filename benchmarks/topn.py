"""Top-N, fold-in and explain at a stated size: milliseconds a request, seconds and memory for all users.

    python -m benchmarks.topn RATINGS [--rank 64] [--implicit PYTHON]

RATINGS are files as `mfpipe train` takes them. The factors are those of one iteration of ALS. With
`--implicit`, a Python that has implicit installed recommends from the same factors and the same seen items,
in turn, with as many threads.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from mfpipe.executors import available_cores, executor
from mfpipe.explain import explain
from mfpipe.fit import fit
from mfpipe.fitted import FittedModel
from mfpipe.folding import fold_in_rows
from mfpipe.models import ALS, BiasedALS
from mfpipe.ratings import ingest
from mfpipe.recommend import Recommender, write_all
from mfpipe.similar import Similar

REQUESTS = 2000
ROUNDS = 3
PEER = """
import sys, time, numpy as np, scipy.sparse
import threadpoolctl; threadpoolctl.threadpool_limits(1, "blas")
from implicit.cpu.matrix_factorization_base import MatrixFactorizationBase
d = np.load(sys.argv[1])
class Model(MatrixFactorizationBase):
    def fit(self, *a, **k): pass
    def recalculate_user(self, *a, **k): raise NotImplementedError
    def save(self, *a): raise NotImplementedError
m = Model(num_threads=int(sys.argv[2])); m.user_factors, m.item_factors = d["user"], d["item"]
shape = len(d["user"]), len(d["item"])
seen = scipy.sparse.csr_matrix((np.ones(len(d["columns"]), "f4"), d["columns"], d["indptr"]), shape=shape)
one = seen[0]
for round in range(int(sys.argv[3])):
    t, c = time.perf_counter(), time.process_time()
    ids, scores = m.recommend(np.arange(shape[0]), seen, N=10)
    print(f"implicit, all users: {time.perf_counter() - t:.2f} s, {time.process_time() - c:.2f} s of CPU")
np.savez(sys.argv[4], ids=ids, scores=scores)
"""


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ratings")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--implicit", metavar="PYTHON")
    options = parser.parse_args()
    ratings, _ = ingest([options.ratings])
    model = ALS(options.rank, 0.05, max_iter=1, tol=0)
    fitted = fitted_to(ratings, model)
    sizes = f"{len(ratings):,} ratings, {len(fitted.users):,} users, {len(fitted.items):,} items"
    print(f"{sizes}, rank {model.rank}")
    one_user(fitted)
    one_fold_in(fitted)
    similar(fitted)
    explanations(ratings, options.rank)
    with tempfile.TemporaryDirectory() as directory:
        peer = all_users(fitted, Path(directory), options.implicit)
        if peer is not None:
            agreement(fitted, peer)


def fitted_to(ratings, model) -> FittedModel:
    """The model after its one iteration."""
    with executor(ratings, model.storage, "threads") as where:
        return FittedModel.of(fit(model, ratings, where), ratings)


def percentiles(what: str, seconds: list[float]) -> None:
    """A line with the median and the 99th percentile."""
    p50, p99 = np.percentile(np.array(seconds) * 1e3, [50, 99])
    print(f"{what}: median {p50:.3f} ms, p99 {p99:.3f} ms over {len(seconds):,}")


def timed(calls) -> list[float]:
    """Seconds of each call; the first, which loads the kernels, is not counted."""
    seconds = []
    for call in calls:
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return seconds[1:]


def one_user(fitted: FittedModel) -> None:
    """Top 10 of one user by id, seen items left out."""
    recommender = Recommender(fitted)
    rng = np.random.default_rng(0)
    ids = [fitted.users.texts.slice(int(row), 1) for row in rng.integers(0, len(fitted.users), REQUESTS + 1)]
    percentiles("top 10 of one user", timed([lambda one=one: recommender.for_users(one) for one in ids]))


def one_fold_in(fitted: FittedModel) -> None:
    """A new user's factors from 200 ratings."""
    rng = np.random.default_rng(1)
    mine = np.zeros(200, np.int64)
    new = fitted.users.texts.slice(0, 1)

    def call():
        items = rng.choice(len(fitted.items), 200, replace=False).astype(np.int32)
        rating = rng.integers(1, 6, 200).astype(float)
        return lambda: fold_in_rows(fitted, new, mine, items, rating)

    percentiles("fold-in of 200 ratings", timed([call() for _ in range(REQUESTS + 1)]))


def similar(fitted: FittedModel) -> None:
    """The ten nearest items of one, and of all."""
    search = Similar(fitted)
    rows = np.random.default_rng(2).integers(0, len(fitted.items), REQUESTS + 1)
    percentiles("similar to one item", timed([lambda r=row: search.best(np.array([r])) for row in rows]))
    started = time.perf_counter()
    search.best(np.arange(len(fitted.items)))
    print(f"similar to each item: {time.perf_counter() - started:.2f} s")


def explanations(ratings, rank: int) -> None:
    """The largest difference between a prediction and the sum of its parts and shares, float64."""
    for model in (ALS(rank, 0.05, max_iter=1, tol=0, dtype="float64"),
                  BiasedALS(rank, 0.05, max_iter=1, tol=0, dtype="float64")):  # fmt: skip
        fitted = fitted_to(ratings, model)
        rng = np.random.default_rng(3)
        pairs = zip(
            rng.integers(0, len(fitted.users), 300), rng.integers(0, len(fitted.items), 300), strict=True
        )
        found = [explain(fitted, int(user), int(item)) for user, item in pairs]
        worst = max(abs(one.unexplained) for one in found)
        print(f"explain, {model.name}, float64: parts and shares sum to the prediction within {worst:.1e}")


def all_users(fitted: FittedModel, directory: Path, python: str | None):
    """Top 10 of all users into a file, in turn with implicit; implicit's answer if it was asked."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    recommender, out, threads = Recommender(fitted), directory / "all.parquet", available_cores()
    for _ in range(ROUNDS):
        started, used = time.perf_counter(), time.process_time()
        rows = write_all(recommender, out)
        seconds, used = time.perf_counter() - started, time.process_time() - used
        print(f"mfpipe, all users: {seconds:.2f} s, {used:.2f} s of CPU, {rows:,} rows on disk")
    scores = threads * recommender.top.search.block_rows() * len(fitted.items) * fitted.model.storage.itemsize
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"scores held at a time: {scores / 2**20:.0f} MiB; the process grew by {more >> 10} MiB")
    if not python:
        return None
    file, found = directory / "factors.npz", directory / "found.npz"
    np.savez(file, user=fitted.factors.user, item=fitted.factors.item, indptr=fitted.rated.indptr,
             columns=fitted.rated.columns)  # fmt: skip
    subprocess.run(
        [python, "-c", PEER, file, str(threads), str(ROUNDS), found], check=True, stderr=sys.stderr
    )
    return np.load(found)


def agreement(fitted: FittedModel, peer) -> None:
    """How many of implicit's lists are ours."""
    mine = Recommender(fitted).for_users(fitted.users.texts)
    same = (mine.item.reshape(-1, 10) == peer["ids"]).all(axis=1)
    print(f"{same.sum():,} of {len(same):,} lists are implicit's, item for item")


if __name__ == "__main__":
    main()
