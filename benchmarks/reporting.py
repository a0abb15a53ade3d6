"""What the report costs: at training, in the store, and when it is written.

python -m benchmarks.reporting --ratings 10000000 --users 200000 --items 20000 --store big
python -m benchmarks.reporting --store big --only-report    # what is short, to be run with priority
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.update import synthetic
from mfpipe import rated
from mfpipe.diagnosis import diagnose
from mfpipe.evaluate import Holdout
from mfpipe.executors import executor
from mfpipe.job import Data, Place, Prepared
from mfpipe.models import ALS
from mfpipe.pipeline import compile_kernels, fit_and_evaluate, publish
from mfpipe.ratings import TestRatings
from mfpipe.store import Store

DAY = 86_400_000_000  # microseconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, usual in (("ratings", 1_000_000), ("users", 50_000), ("items", 5_000), ("rank", 32)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--max-iter", type=int, default=20)
    parser.add_argument("--store", type=Path, help="keep the version here")
    parser.add_argument("--only-report", action="store_true", help="of the version that is kept there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        store = Store(options.store or Path(home) / "store")
        if not options.only_report:
            prepared = prepare(options)
            for _ in range(2):  # the second has a version before it
                stored(options, prepared, store)
        diagnosed(store)
        report(store, Path(home) / "report.html")


def prepare(options: argparse.Namespace) -> Prepared:
    """Synthetic ratings with times, a tenth of them held out."""
    ratings = synthetic(options.users, options.items, options.ratings)
    days = np.random.default_rng(0).integers(0, 1500, len(ratings)) * DAY
    train, test = Holdout.parse("random:0.1").split(dataclasses.replace(ratings, time=days))
    about = Data(["synthetic"], holdout="random:0.1").about() | {"holdout": "random:0.1"}
    return Prepared(train, test, about, train.fingerprint(), 0.0)


def stored(options: argparse.Namespace, prepared: Prepared, store: Store) -> None:
    """Fit and publish a version, and say what of it is for the report."""
    model = ALS(options.rank, 0.05, max_iter=options.max_iter)
    compile_kernels(model)
    with executor(prepared.ratings, model.storage, "threads") as where:
        trained = fit_and_evaluate(model, prepared, where)
    began = time.perf_counter()
    version = publish(trained, prepared, "big", store, Place("threads"))
    storing = time.perf_counter() - began
    sizes = {name: one["bytes"] for name, one in version.manifest["files"].items()}
    diagnosing = trained.timings["diagnose"]
    for words in (
        f"{len(prepared.ratings):,} ratings and {len(prepared.test):,} test records, rank {options.rank}",
        f"fit {trained.fit.seconds:.1f} s ({trained.fit.n_iter} iterations)",
        f"evaluated in {trained.timings['evaluate']:.2f} s, diagnosed in {diagnosing:.2f} s",
        f"stored in {storing - diagnosing:.2f} s",
        f"diagnosis.json {sizes['diagnosis.json'] / 1e3:.0f} kB of {sum(sizes.values()) / 1e6:.1f} MB",
    ):
        print(words, flush=True)


def diagnosed(store: Store) -> None:
    """Diagnose the version again, on as many random pairs as it had test records."""
    version = store.version("big")
    fitted, n = rated.load(version), version.json("metrics.json")["rows"]
    rng = np.random.default_rng(0)
    users, items = (
        ids.texts.take(pa.array(rng.integers(0, len(ids), n))) for ids in (fitted.users, fitted.items)
    )
    times = rng.integers(0, 1500, n) * DAY
    test = TestRatings(users, items, rng.integers(1, 6, n) * 1.0, np.arange(n), times)
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        diagnose(fitted, test, "")
        seconds.append(time.perf_counter() - began)
    print(f"diagnosed again, {n:,} records: {', '.join(f'{one:.2f}' for one in seconds)} s", flush=True)


def report(store: Store, path: Path) -> None:
    """Write the report with the command, three times, each in a process of its own."""
    command = [sys.executable, "-m", "mfpipe", "report", "big", "--store", str(store.path), "-o", str(path)]
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - began)
    each = ", ".join(f"{one:.2f}" for one in seconds)
    print(f"mfpipe report: {each} s from the shell, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
