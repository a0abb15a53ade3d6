"""Seconds an iteration takes at the homework's size, and what the local Dask cluster adds to it.

    python -m benchmarks.overhead [TRAIN.csv]

Each place fits in turn, several rounds, so that a noisy machine troubles all alike; medians are printed
with the smallest and largest.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.data import HERE, homework_files
from benchmarks.measure import three
from mfpipe.executors import executor
from mfpipe.fit import fit
from mfpipe.models import ALS
from mfpipe.ratings import ingest

MODEL = ALS(5, 1e-4, "uniform", max_iter=40, tol=0, dtype="float64")
PLACES = {
    "serial": {"cluster": "serial"},
    "threads": {"cluster": "threads"},
    "cluster, in this process": {"cluster": "local"},
    "cluster, 1 process": {"cluster": "local", "workers": 1},
    "cluster, 2 processes": {"cluster": "local", "workers": 2},
}
ROUNDS = 3


def training_file() -> Path:
    """The homework's, or where it is not, the shipped sample."""
    files = homework_files()
    return files[0] if files else HERE / "data" / "train.csv.gz"


def measured(path: Path | None = None, rounds: int = ROUNDS) -> dict:
    """Seconds of an iteration in each place, and of those the seconds in kernels.

    Parameters
    ----------
    path : Path, optional
        By default `training_file()`.
    rounds : int
        Fits of 40 iterations in each place, interleaved.
    """
    path = path or training_file()
    ratings, _ = ingest([path])
    seconds: dict[str, list[float]] = {place: [] for place in PLACES}
    kernels: dict[str, list[float]] = {place: [] for place in PLACES}
    for _ in range(rounds):
        for place, settings in PLACES.items():
            options = {"partitions": 8, "dashboard_address": "127.0.0.1:0"} | settings
            with executor(ratings, MODEL.storage, **options) as where:
                fit(MODEL, ratings, where)  # the first fit loads the kernels, wherever they run
                history = fit(MODEL, ratings, where).history
            seconds[place] += [record["seconds"] for record in history]
            kernels[place] += [
                sum(part["seconds"] for half in record["half_steps"] for part in half["partitions"])
                for record in history
            ]
    return {
        "file": path.name,
        "ratings": len(ratings),
        "rank": MODEL.rank,
        "dtype": MODEL.dtype,
        "partitions": 8,
        "rows": [
            {"place": place, "seconds": three(seconds[place]), "kernels": three(kernels[place])}
            for place in PLACES
        ],
    }


def main() -> None:
    """Print the table."""
    found = measured(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    print(
        f"{found['file']}: {found['ratings']:,} ratings, rank {found['rank']}, "
        f"{found['partitions']} partitions, {found['dtype']}"
    )
    print(f"{'milliseconds an iteration':<26}{'median':>8}{'min':>8}{'max':>8}{'in kernels':>12}")
    for row in found["rows"]:
        figures = "".join(f"{1e3 * row['seconds'][name]:8.2f}" for name in ("median", "min", "max"))
        print(f"{row['place']:<26}{figures}{1e3 * row['kernels']['median']:12.2f}")


if __name__ == "__main__":
    main()
