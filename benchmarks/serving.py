"""Requests to `mfpipe serve` from several clients while new versions are published.

    python -m benchmarks.serving [--ratings 1000000] [--versions 20] [--clients 8]

Every answer is compared with what the version that it names says in this process. Latencies are those the
clients see, on keep-alive connections.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from mfpipe import rated
from mfpipe.executors import executor
from mfpipe.fit import fit
from mfpipe.fitted import FittedModel
from mfpipe.models import ALS
from mfpipe.ratings import Ratings, ingest
from mfpipe.recommend import Recommender
from mfpipe.store import Store
from mfpipe.synth import Synthetic

SECONDS_BETWEEN = 1.0


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ratings", type=int, default=1_000_000)
    parser.add_argument("--versions", type=int, default=20)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rank", type=int, default=32)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        ratings, fits = fits_of(options, Path(directory))
        run(ratings, fits, options.clients, Store(Path(directory, "store")))


def fits_of(options, directory: Path) -> tuple[Ratings, dict[str, FittedModel]]:
    """Ratings, and a fit to them for each version to come, from different starts."""
    file = directory / "ratings.csv"
    Synthetic(options.ratings // 150, options.ratings // 900, options.ratings).write(file)
    ratings, _ = ingest([file])
    fits = {}
    with executor(ratings, np.dtype("f4"), "threads") as where:
        for seed in range(options.versions + 1):
            model = ALS(options.rank, max_iter=1, tol=0, random_state=seed)
            fits[str(seed + 1)] = FittedModel.of(fit(model, ratings, where), ratings)
    sizes = f"{len(ratings):,} ratings, {len(ratings.users):,} users, {len(ratings.items):,} items"
    print(f"{sizes}, rank {options.rank}")
    return ratings, fits


def publish(store: Store, ratings: Ratings, fitted: FittedModel) -> None:
    """The next version, as `mfpipe train` stores it but for its report."""
    about = {"data": {"global_mean": fitted.baseline.global_mean}, "converged": False}
    store.publish("m", fitted, about, {rated.FILE: rated.table_of(ratings)})


def run(ratings: Ratings, fits: dict[str, FittedModel], clients: int, store: Store) -> None:
    """Ask from all clients, publish one version after the other, and compare."""
    publish(store, ratings, fits["1"])
    users = fits["1"].users.texts.to_pylist()
    command = [sys.executable, "-m", "mfpipe", "serve", "m", "--store", str(store.path), "--port", "0"]
    stop, answers, failures = threading.Event(), [], []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        url = urlsplit(server.stdout.readline().split()[-1])
        asking = (url.hostname, url.port, users, stop, answers, failures)
        threads = [threading.Thread(target=ask, args=(k, *asking)) for k in range(clients)]
        for thread in threads:
            thread.start()
        for number in list(fits)[1:]:
            time.sleep(SECONDS_BETWEEN)
            publish(store, ratings, fits[number])
        time.sleep(2 * SECONDS_BETWEEN)
        stop.set()
        for thread in threads:
            thread.join()
        server.terminate()
    report(fits, answers, failures)


def ask(first: int, host: str, port: int, users: list[str], stop, answers: list, failures: list) -> None:
    """One client: a request after the other, each for another user."""
    connection = http.client.HTTPConnection(host, port, timeout=60)
    at = 7919 * first
    while not stop.is_set():
        user = users[at % len(users)]
        started = time.perf_counter()
        try:
            connection.request("GET", f"/recommend?user={user}&n=10")
            response = connection.getresponse()
            got = json.loads(response.read())
            assert response.status == 200, got
            answers.append((got["version"], got["users"][0], time.perf_counter() - started))
        except (OSError, ValueError, AssertionError, http.client.HTTPException) as error:
            failures.append(repr(error))
            connection = http.client.HTTPConnection(host, port, timeout=60)
        at += 104729


def report(fits: dict[str, FittedModel], answers: list, failures: list) -> None:
    """Failures, mixed answers, versions seen, and latencies."""
    wrong = 0
    for number, fitted in fits.items():
        mine = [one for version, one, _ in answers if version == number]
        recommender, ids = Recommender(fitted), [one["user"] for one in mine]
        if mine:
            wrong += sum(a != b for a, b in zip(mine, recommender.records(
                ids, recommender.for_users(pa.array(ids, pa.string()))), strict=True))  # fmt: skip
    seconds = np.array([one for _, _, one in answers]) * 1e3
    p50, p99, most = *np.percentile(seconds, [50, 99]), seconds.max()
    print(
        f"{len(answers):,} requests, {len(failures)} failed, {wrong} not the answer of the version they name"
    )
    print(f"{len({version for version, _, _ in answers})} of {len(fits)} versions answered")
    print(f"milliseconds: median {p50:.1f}, p99 {p99:.1f}, most {most:.1f}")
    for failure in failures[:5]:
        print(failure)


if __name__ == "__main__":
    main()
