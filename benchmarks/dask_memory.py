"""What a Dask scheduler holds after many fits, and by what.

    python -m benchmarks.dask_memory --fits 100                # as `make up` starts it
    python -m benchmarks.dask_memory --fits 100 --plain        # as Dask starts it

Each fit is of the same synthetic ratings and has a client of its own, as each night's retrain has.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

import numpy as np
import psutil
from distributed import Client
from mfpipe_flows.local import ONLY, Ports, commands

from mfpipe import ALS
from mfpipe.synth import Synthetic
from tests.local_prefect import free_port


@contextmanager
def cluster(plain: bool) -> Iterator[tuple[str, psutil.Process]]:
    """The address and the process of a scheduler that has one worker."""
    ports = Ports()
    ports.dask, ports.dashboard = int(free_port()), int(free_port())
    ports.scheduler = f"tcp://127.0.0.1:{ports.dask}"
    scheduler, worker = (list(commands(ports)[name][0]) for name in ("dask-scheduler", "dask-worker"))
    settings = {} if plain else ONLY["dask-scheduler"]
    if plain:
        del scheduler[scheduler.index("--preload") :]
    with TemporaryDirectory() as scratch:
        worker[worker.index("--local-directory") + 1] = scratch
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        started = [
            subprocess.Popen(command, env=os.environ | extra, **quiet)
            for command, extra in ((scheduler, settings), (worker, {}))
        ]
        try:
            yield ports.scheduler, psutil.Process(started[0].pid)
        finally:
            for process in reversed(started):
                process.terminate()
                process.wait(60)


def held(dask_scheduler) -> dict[str, int]:
    """Bytes that hang on each table of a scheduler; what hangs on two counts for the first."""
    import asyncio
    import gc
    import types

    leaves = (types.ModuleType, type, types.FunctionType, types.BuiltinFunctionType, types.MethodType)
    seen = {id(one) for one in (dask_scheduler, vars(dask_scheduler), asyncio.get_event_loop())}

    def reachable(*roots) -> int:
        size, left = 0, list(roots)
        while left:
            one = left.pop()
            if id(one) in seen or isinstance(one, leaves):
                continue
            if type(one).__module__.startswith(("tornado", "asyncio", "bokeh", "logging")):
                continue
            seen.add(id(one))
            size += sys.getsizeof(one)
            left.extend(gc.get_referents(one))
        return size

    events = {name: topic.events for name, topic in dask_scheduler._broker._topics.items()}
    comms = (*dask_scheduler.stream_comms.values(), *dask_scheduler.client_comms.values())
    spans = dask_scheduler.extensions["spans"]
    return {
        "live page": reachable(dask_scheduler.plugins["mfpipe-live"].fits),
        "events of clients": reachable(*(held for name, held in events.items() if name[:7] == "Client-")),
        "other events": reachable(*events.values()),
        "messages": reachable(*(comm.recent_message_log for comm in comms)),
        "transitions": reachable(dask_scheduler.transition_log),
        "tasks, computations": reachable(dask_scheduler.tasks, dask_scheduler.computations),
        "monitor": reachable(dask_scheduler.monitor.quantities),
        "spans": reachable(vars(spans)) if spans else 0,
    }


def entries(dask_worker) -> int:
    """How many sums a worker keeps for the page of fine performance metrics."""
    return len(dask_worker.digests_total)


def main() -> None:
    """Fit, and print what is held at some points on the way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in {
        "fits": 100, "iterations": 15, "users": 2_000, "items": 600, "ratings": 20_000, "rank": 8
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--plain", action="store_true", help="without the settings of `make up`")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", "not converged")
    columns = Synthetic(options.users, options.items, options.ratings, seed=11).columns()
    pairs = np.stack(columns[:2], axis=1)
    model = ALS(rank=options.rank, regularization=0.1, max_iter=options.iterations, tol=0)
    began = time.monotonic()
    with cluster(options.plain) as (address, scheduler):
        for fit in range(1, options.fits + 1):
            with Client(address, timeout=60) as client:
                client.wait_for_workers(1)
                model.fit(pairs, columns[2], client=client)
                if fit in (1, 20, 60, options.fits):
                    mine, its = (each.memory_info().rss / 2**20 for each in (psutil.Process(), scheduler))
                    (kept,) = client.run(entries).values()
                    print(f"after {fit} fits, {time.monotonic() - began:.0f} s: RSS {its:.1f} MiB, of the")
                    print(f"    fitting process {mine:.1f} MiB; {kept} entries of seconds in the worker")
                    for what, size in client.run_on_scheduler(held).items():
                        print(f"    {what:<20}{size / 2**20:8.2f} MiB", flush=True)


if __name__ == "__main__":
    main()
