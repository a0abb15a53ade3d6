"""Ratings a second from CSV to both groupings, and pairs a second from CSV to predictions.

    python -m benchmarks.ingest [RATINGS]

The files are synthetic and alike but for how ids and times are spelled. Each case is a process of its own
that does its work three times; the first time includes what a process does once, such as loading compiled
kernels (which an earlier run may have had to compile). `predict rows` is prediction alone, in memory and on
one thread, of pairs in random order.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from mfpipe.cores import available_cores
from mfpipe.fitted import FittedModel
from mfpipe.models import ALS
from mfpipe.models.base import Baseline, Factors
from mfpipe.partition import group
from mfpipe.ratings import Ratings, ingest
from mfpipe.recommend import predict_file
from mfpipe.synth import Synthetic

RATINGS = 10_000_000
USERS, ITEMS, RANK = 70_000, 10_700, 64
ROUNDS = 3
CASES = (
    "integer ids, dates",
    "text ids, dates",
    "integer ids, half stars, seconds",
    "integer ids, distinct ratings",
)
PREDICTIONS = [("predict", CASES[0]), ("predict", CASES[1]), ("predict rows", CASES[0])]


def write_files(directory: Path, n_ratings: int) -> None:
    """The same ratings in each spelling of `CASES`."""
    user, item, stars, day = Synthetic(USERS, ITEMS, n_ratings, 1).columns()
    seconds = day.astype("datetime64[s]").astype(np.int64) + np.arange(n_ratings) % 86_400
    integers = {"user": user, "item": item}
    texts = {"user": _padded("user-", user), "item": _padded("item-", item)}
    dates = pa.array(day).cast(pa.string())
    files = (
        integers | {"rating": stars, "date": dates},
        texts | {"rating": stars, "date": dates},
        integers | {"rating": stars - 0.5, "timestamp": seconds},
        integers | {"rating": stars + np.arange(n_ratings) / n_ratings},
    )
    options = pyarrow.csv.WriteOptions(quoting_style="none", quoting_header="none")
    for name, columns in zip(CASES, files, strict=True):
        pyarrow.csv.write_csv(pa.table(columns), path_of(directory, name), options)


def path_of(directory: Path, name: str) -> Path:
    return directory / (name.replace(", ", "-").replace(" ", "-") + ".csv")


def _padded(prefix: str, numbers: np.ndarray) -> pa.Array:
    return pc.binary_join_element_wise(prefix, pc.utf8_lpad(pa.array(numbers).cast(pa.string()), 5, "0"), "")


def read(path: Path) -> Ratings:
    """CSV to ratings and both groupings."""
    ratings, _ = ingest([path])
    for side in ("user", "item"):
        group(ratings, side, np.dtype("float32"))
    return ratings


def fitted_to(ratings: Ratings) -> FittedModel:
    """A model with random factors."""
    rng = np.random.default_rng(0)
    sizes = len(ratings.users), len(ratings.items)
    factors = Factors(*(rng.normal(size=(size, RANK)).astype(np.float32) for size in sizes))
    baseline = Baseline(0.0, *(np.zeros(size) for size in sizes))
    counts = (np.ones(size, np.int64) for size in sizes)
    return FittedModel(ALS(RANK), ratings.users, ratings.items, factors, baseline, *counts)


def work_of(what: str, path: Path) -> Callable[[], object]:
    """What a case repeats."""
    if what == "read":
        return lambda: read(path)
    ratings = read(path)
    fitted = fitted_to(ratings)
    if what == "predict":
        return lambda: predict_file(fitted, str(path), path.with_suffix(".out"))
    order = np.random.default_rng(1).permutation(len(ratings))
    users, items = ratings.user[order], ratings.item[order]
    return lambda: fitted.model.predict(fitted.factors, users, items, fitted.baseline)


def measure(what: str, path: Path) -> None:
    """Do one case's work, and print its figures as JSON."""
    work = work_of(what, path)
    rounds = []
    for _ in range(ROUNDS):
        began, worked = time.perf_counter(), time.process_time()
        work()
        rounds.append((time.perf_counter() - began, time.process_time() - worked))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"rounds": rounds, "peak": peak}))


def apart(*arguments: str) -> str:
    """What a part of this benchmark prints in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.ingest", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    """Print the table."""
    if sys.argv[1:2] == ["write"]:
        write_files(Path(sys.argv[2]), int(sys.argv[3]))
        return
    if len(sys.argv) == 3:
        measure(sys.argv[1], Path(sys.argv[2]))
        return
    n_ratings = int(sys.argv[1]) if len(sys.argv) > 1 else RATINGS
    print(f"{n_ratings:,} ratings of {USERS:,} users and {ITEMS:,} items, {available_cores()} cores")
    print(f"{'from CSV':<44}{'MB':>5}{'first':>8}{'best':>7}{'CPU':>7}{'million/s':>11}{'peak MiB':>10}")
    with tempfile.TemporaryDirectory() as directory:
        apart("write", directory, str(n_ratings))
        for what, name in [("read", name) for name in CASES] + PREDICTIONS:
            path = path_of(Path(directory), name)
            figures = json.loads(apart(what, str(path)))
            walls, cpus = zip(*figures["rounds"], strict=True)
            best, peak = min(walls), figures["peak"]
            row = f"{what + ': ' + name:<44}{path.stat().st_size / 1e6:5.0f}{walls[0]:8.2f}{best:7.2f}"
            print(f"{row}{min(cpus):7.2f}{n_ratings / best / 1e6:11.2f}{peak:10.0f}", flush=True)


if __name__ == "__main__":
    main()
