"""What the live page costs: seconds of fits that tell it of their iterations, by those of fits that do not.

    python -m benchmarks.live [TRAIN.csv] [--rounds N]

Two fits in turn make a pair, and ratios are of one pair. First nobody looks at the page, then a visitor
does, who is a process that keeps the page open and takes what it is sent, as a browser on another machine
would: it draws nothing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.overhead import training_file
from mfpipe.cluster import connect
from mfpipe.executors import InProcess, executor
from mfpipe.fit import fit
from mfpipe.models import ALS
from mfpipe.ratings import ingest
from mfpipe.watching import Feed, has_page, watched

VISITOR = """
import asyncio, os, re, sys
from tornado.httpclient import AsyncHTTPClient
from tornado.websocket import websocket_connect

async def visit(url):
    page = (await AsyncHTTPClient().fetch(url)).body.decode()
    token = re.search('"token":"([^"]+)"', page)[1]
    socket = await websocket_connect(url.replace("http", "ws", 1) + "/ws", subprotocols=["bokeh", token])
    print("there", flush=True)
    while await socket.read_message() is not None:
        pass

os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))  # whatever its parent has been given
asyncio.run(visit(sys.argv[1]))
"""


class Threads:
    """Two threads beside the scheduler of an idle local cluster: the most iterations a second."""

    label = "two threads, rank 48, float64"
    model = ALS(48, 1e-4, "uniform", max_iter=500, tol=0, dtype="float64")

    def __init__(self, ratings, client):
        self.ratings, self.client = ratings, client
        self.where = InProcess(ratings, self.model.storage, 8, 2)

    def fit(self, tell: bool) -> float:
        """Seconds of a fit."""
        if not tell:
            return fit(self.model, self.ratings, self.where).seconds
        feed = Feed(self.client, self.model, self.ratings, "threads")
        seconds = fit(self.model, self.ratings, self.where, on_iteration=[feed]).seconds
        feed.close("not converged", [])
        return seconds


class Cluster:
    """The default local cluster, which is where the page is."""

    label = "local cluster, rank 48, float64"
    model = ALS(48, 1e-4, "uniform", max_iter=60, tol=0, dtype="float64")

    def __init__(self, ratings, where):
        self.ratings, self.where = ratings, where

    def fit(self, tell: bool) -> float:
        """Seconds of a fit."""
        run = partial(watched, name="cluster") if tell else fit
        return run(self.model, self.ratings, self.where).seconds


@contextmanager
def visitor(client) -> Iterator[None]:
    """Somebody who has the page open."""
    url = client.dashboard_link.removesuffix("status") + "mfpipe"
    with subprocess.Popen([sys.executable, "-c", VISITOR, url], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "there\n"
            yield
        finally:
            process.kill()


class Pair(NamedTuple):
    """One fit that told nothing, and one that did: seconds, and CPU seconds of the whole process."""

    silent: tuple[float, float]
    told: tuple[float, float]


def measured(place: Threads | Cluster, rounds: int) -> list[Pair]:
    """Fits in pairs, the one that tells being first in every other."""
    place.fit(tell=True)
    pairs = []
    for number in range(rounds):
        found = {}
        for tell in (False, True) if number % 2 else (True, False):
            before = time.process_time()
            found[tell] = place.fit(tell), time.process_time() - before
        pairs.append(Pair(found[False], found[True]))
    return pairs


def shown(pairs: list[Pair], iterations: int) -> str:
    """Iterations a second, and what telling multiplies seconds and CPU seconds by."""
    silent, told = (np.array(column) for column in zip(*pairs, strict=True))
    words = [f"{iterations / np.median(silent[:, 0]):7.1f}"]
    for ratios in (told / silent).T:
        low, middle, high = np.percentile(ratios, (25, 50, 75))
        words.append(f"{middle:.4f} ({low:.4f} to {high:.4f})")
    return "   ".join(words)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train", type=Path, nargs="?", default=training_file())
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    ratings, _ = ingest([options.train])
    load = f"{options.rounds} pairs of fits, load {os.getloadavg()[0]:.1f}"
    print(f"{options.train.name}: {len(ratings):,} ratings, {load}")
    print(f"{'':46}  it./s   {'seconds: median (quartiles)':28}{'CPU seconds'}")
    with connect("local", dashboard_address="127.0.0.1:0") as client:
        assert has_page(client)
        with executor(ratings, Cluster.model.storage, client=client, partitions=8) as where:
            for place in (Threads(ratings, client), Cluster(ratings, where)):
                for who, there in (("nobody looks", nullcontext()), ("a visitor", visitor(client))):
                    with there:
                        pairs = measured(place, options.rounds)
                    print(f"{place.label:32}{who:14}{shown(pairs, place.model.max_iter)}", flush=True)


if __name__ == "__main__":
    main()
