"""Seconds an iteration takes at the homework's size, and what the local Dask cluster adds to it.

    python -m benchmarks.overhead [TRAIN.csv]

Each place fits in turn, several rounds, so that a noisy machine troubles all alike; medians are printed
with the smallest and largest.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from mfpipe.executors import executor
from mfpipe.fit import fit
from mfpipe.models import ALS
from mfpipe.ratings import ingest

HERE = Path(__file__).parents[1]
HOMEWORK = HERE.parent / "shared" / "data" / "netflix" / "train.csv"
MODEL = ALS(5, 1e-4, "uniform", max_iter=40, tol=0, dtype="float64")
PLACES = {
    "serial": {"cluster": "serial"},
    "threads": {"cluster": "threads"},
    "cluster, in this process": {"cluster": "local"},
    "cluster, 1 process": {"cluster": "local", "workers": 1},
    "cluster, 2 processes": {"cluster": "local", "workers": 2},
}
ROUNDS = 3


def training_file(arguments: list[str]) -> Path:
    """The file named as the first argument, the homework's, or the shipped sample."""
    path = Path(arguments[1]) if len(arguments) > 1 else HOMEWORK
    if path.is_file():
        return path
    print(f"{path} is not there (see data/README.md); using the shipped sample")
    return HERE / "data" / "train.csv.gz"


def main() -> None:
    """Print the table."""
    path = training_file(sys.argv)
    ratings, _ = ingest([path])
    seconds: dict[str, list[float]] = {place: [] for place in PLACES}
    compute: dict[str, list[float]] = {place: [] for place in PLACES}
    for _ in range(ROUNDS):
        for place, settings in PLACES.items():
            options = {"partitions": 8, "dashboard_address": "127.0.0.1:0"} | settings
            with executor(ratings, MODEL.storage, **options) as where:
                fit(MODEL, ratings, where)  # the first fit loads the kernels, wherever they run
                history = fit(MODEL, ratings, where).history
            seconds[place] += [record["seconds"] for record in history]
            compute[place] += [
                sum(part["seconds"] for half in record["half_steps"] for part in half["partitions"])
                for record in history
            ]
    print(f"{path.name}: {len(ratings):,} ratings, rank {MODEL.rank}, 8 partitions, {MODEL.dtype}")
    print(f"{'milliseconds an iteration':<26}{'median':>8}{'min':>8}{'max':>8}{'in kernels':>12}")
    for place in PLACES:
        figures = np.array(seconds[place]) * 1e3
        kernels = np.median(compute[place]) * 1e3
        print(f"{place:<26}{np.median(figures):8.2f}{figures.min():8.2f}{figures.max():8.2f}{kernels:12.2f}")


if __name__ == "__main__":
    main()
