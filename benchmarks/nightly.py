"""What Prefect adds to a retrain: by the deployment and by the command line in turn, on one Dask cluster.

    python -m benchmarks.nightly build/nightly --rounds 3

The directory gets a checkout with a store and a Prefect of its own, as `make up` starts it. Every retrain is
the first of its name, of the shipped sample; the first of each kind is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import time
from datetime import datetime
from pathlib import Path

from tests.local_prefect import LocalPrefect

SETTINGS = ("--rank", "8", "--regularization", "0.15")


def by_deployment(prefect: LocalPrefect, name: str) -> dict[str, float]:
    """Seconds until `--watch` ends, until the flow starts, and from its start to its end."""
    began = time.perf_counter()
    _require(prefect.deployment("retrain/nightly", f"name={name}"))
    shell = time.perf_counter() - began
    (run,) = prefect.runs(name)
    created, started, ended = (
        datetime.fromisoformat(run[at]) for at in ("created", "start_time", "end_time")
    )
    return {
        "deployment, from the shell": shell,
        "created to Completed": (ended - created).total_seconds(),
        "created to the flow's start": (started - created).total_seconds(),
        "the flow": (ended - started).total_seconds(),
    }


def by_command(prefect: LocalPrefect, name: str) -> dict[str, float]:
    """Seconds of `mfpipe retrain` on the same cluster, from the shell."""
    began = time.perf_counter()
    address = f"tcp://127.0.0.1:{prefect.env['DASK_PORT']}"
    _require(
        prefect.mfpipe("retrain", "data/train.csv.gz", "--name", name, "--cluster", address, *SETTINGS, "-q")
    )
    return {"mfpipe retrain, from the shell": time.perf_counter() - began}


def _require(done) -> None:
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)


def main() -> None:
    """Measure, and print medians with the least and the most."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    prefect = LocalPrefect(options.directory / "checkout")
    began = time.perf_counter()
    _require(prefect.local("up"))
    print(f"make up: {time.perf_counter() - began:.1f} s")
    found: dict[str, list[float]] = {}
    try:
        for number in range(options.rounds + 1):
            seconds = by_deployment(prefect, f"d{number}") | by_command(prefect, f"c{number}")
            for what, each in seconds.items() if number else ():
                found.setdefault(what, []).append(each)
    finally:
        prefect.local("down")
    for what, all_ in found.items():
        print(f"{what:<32}{statistics.median(all_):6.1f} s  ({min(all_):.1f} to {max(all_):.1f})")


if __name__ == "__main__":
    main()
