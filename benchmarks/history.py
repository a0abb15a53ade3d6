"""The history page of a store with many versions: how soon it opens, and what the server takes.

    python -m benchmarks.history [--versions 1000] [--opened 50] [--store DIR]

Makes a store of one model with many versions, each with the record of a retrain, and opens its pages from
`mfpipe dashboard` in a headless Chromium: the first time, right after the start, and again. A page is
open when Bokeh has drawn every plot. `--store` keeps the store, and uses the one that is there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from urllib.request import urlopen

import psutil

from mfpipe import decisions
from mfpipe.dashboards.history.reading import History
from mfpipe.executors import executor
from mfpipe.job import Data, Place, prepare
from mfpipe.models import ALS
from mfpipe.pipeline import fit_and_evaluate, publish
from mfpipe.retraining import Request, retrain
from mfpipe.store import Store
from mfpipe.synth import Synthetic
from tests.browser import browser

PLOTS = 5  # of a retrained model's page
DRAWN = """
    if (!window.Bokeh) return 0;
    const roots = Bokeh.documents.flatMap(d => d.roots());
    if (!Bokeh.documents.every(d => d.is_idle)) return 0;
    return roots.filter(r => Bokeh.index.get_by_id(r.id)?.el.getBoundingClientRect().height > 100).length;
"""


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--versions", type=int, default=1000)
    parser.add_argument("--opened", type=int, default=50)
    parser.add_argument("--store", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        store = Store(options.store or Path(directory, "store"))
        if not store.names():
            began = time.perf_counter()
            make(store, options.versions, Path(directory))
            print(f"made in {time.perf_counter() - began:.0f} s")
        look(store)
        with served(store) as (process, url), browser(Path(directory, "profile")) as page:
            measure(process, url, page, options.opened)


def make(store: Store, versions: int, directory: Path) -> None:
    """Publish so many versions of `m`, each with a decision as a retrain leaves it."""
    source = directory / "ratings.csv"
    Synthetic(1500, 300, 60_000).write(source)
    data = Data([str(source)], (), "random:0.1")
    params = {"rank": 8, "max_iter": 50, "tol": 0.0}
    other = Store(directory / "other")
    for _ in range(2):
        record = retrain(
            Request(data, "m", "als", params, Place("serial"), cold_start=True, force=True), other
        )
    prepared = prepare(data)
    model = ALS(**params)
    with executor(prepared.ratings, model.storage, "serial", partitions=8) as where:
        trained = fit_and_evaluate(model, prepared, where)
    for number in range(versions):
        told = record | {"version": str(number + 1), "run": f"m-{number:06x}"}
        publish(trained, prepared, "m", store, Place("serial"), about={"retrain": told})
        decisions.write(store, told)


def look(store: Store) -> None:
    """The seconds of a first look at a store from this process, and of those after it."""
    history = History(store)
    seconds = []
    for _ in range(20):
        began = time.perf_counter()
        history._look()
        seconds.append(time.perf_counter() - began)
    model = history.look().models["m"]
    print(f"{len(model.versions)} versions, {len(model.decisions)} decisions")
    print(f"first look {seconds[0]:.3f} s, later ones {1e3 * median(seconds[1:]):.1f} ms")


class served:
    """`mfpipe dashboard` in a process of its own."""

    def __init__(self, store: Store):
        self._command = [sys.executable, "-m", "mfpipe", "dashboard", "--store", str(store.path)]

    def __enter__(self) -> tuple[psutil.Process, str]:
        command = [*self._command, "--dashboard-address", "127.0.0.1:0"]
        self._server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._server.stdout
        return psutil.Process(self._server.pid), self._server.stdout.readline().split()[-1]

    def __exit__(self, *failed) -> None:
        self._server.terminate()
        self._server.wait(30)


def measure(process: psutil.Process, url: str, page, opened: int) -> None:
    """Open the pages, print the seconds, and what it did to the server's memory."""
    address = f"{url}/model?name=m"
    both = [process], [psutil.Process(page.service.process.pid)]
    before = [cpu_seconds(some) for some in both]
    seconds = [seconds_to_open(page, address, PLOTS)]
    first = [cpu_seconds(some) - had for some, had in zip(both, before, strict=True)]
    seconds += [seconds_to_open(page, address, PLOTS) for _ in range(10)]
    print(f"model page: first {seconds[0]:.2f} s, then median {median(seconds[1:]):.2f} s of 10")
    print(f"CPU meanwhile: server {first[0]:.2f} s since its start, browser {first[1]:.2f} s, the first time")
    print(f"each time after: server {(cpu_seconds(both[0]) - before[0] - first[0]) / 10:.3f} s, "
          f"browser {(cpu_seconds(both[1]) - before[1] - first[1]) / 10:.2f} s")  # fmt: skip
    print(f"all models: {median(seconds_to_open(page, url, 2) for _ in range(5)):.2f} s")
    with urlopen(address) as answer:
        print(f"its HTML: {len(answer.read()) / 1e6:.2f} MB")
    resident = [process.memory_info().rss]
    for _ in range(4):
        for _ in range(opened):
            urlopen(address).read()
        resident.append(process.memory_info().rss)
    words = ", ".join(f"{size / 2**20:.0f}" for size in resident)
    print(f"server's memory after 0, {opened}, … {4 * opened} more openings: {words} MiB")
    for number in range(2, 2 + opened):
        urlopen(f"{url}/compare?a=m%40{number - 1}&b=m%40{number}").read()
    print(f"and after {opened} comparisons: {process.memory_info().rss / 2**20:.0f} MiB, "
          f"{process.num_fds()} files open")  # fmt: skip
    print(json.dumps({"open": seconds}))


def cpu_seconds(processes: list[psutil.Process]) -> float:
    """Of processes and all below them that are still there."""
    every = {one for process in processes for one in (process, *process.children(recursive=True))}
    return sum(sum(one.cpu_times()[:2]) for one in every)


def seconds_to_open(page, address: str, plots: int) -> float:
    """From asking for a page until all its plots are drawn."""
    page.get("about:blank")
    began = time.perf_counter()
    page.get(address)
    while page.execute_script(DRAWN) != plots:
        time.sleep(0.01)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
