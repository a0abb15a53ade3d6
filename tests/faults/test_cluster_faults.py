"""A cluster that loses workers, its scheduler or its memory: the same factors, or words within a minute."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from numpy.testing import assert_array_equal

from mfpipe import cluster, executors
from mfpipe.errors import ClusterError
from mfpipe.executors import executor
from mfpipe.fit import fit
from mfpipe.job import Data, Place
from mfpipe.models import ALS
from mfpipe.pipeline import train
from mfpipe.store import Store
from tests.make import write

MODEL = ALS(4, 0.1, max_iter=6, tol=0)
LINES = "user,item,rating\n" + "".join(f"{n % 40},{n % 37},{1 + n % 5}\n" for n in range(900))
pytestmark = pytest.mark.timeout(150)


@pytest.fixture(scope="module")
def serial(small):
    with executor(small, MODEL.storage, "serial") as where:
        return fit(MODEL, small, where)


@contextlib.contextmanager
def two_workers(**options):
    from distributed import Client, LocalCluster

    settings = {
        "n_workers": 2,
        "threads_per_worker": 1,
        "dashboard_address": "127.0.0.1:0",
        "host": "127.0.0.1",
    }
    with LocalCluster(**settings | options) as local, Client(local) as client:
        yield client


@contextlib.contextmanager
def own_processes(n_workers, *options, nanny=True, environment=None):
    """A scheduler and workers as others start them, each a process of its own."""
    processes = []

    def start(module, *arguments):
        command = [sys.executable, "-m", "distributed.cli." + module, *arguments]
        environ = os.environ | (environment or {})
        processes.append(
            subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environ
            )
        )
        return processes[-1]

    scheduler = start(
        "dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0"
    )
    address = next(line for line in scheduler.stderr if "Scheduler at:" in line).split("at:")[1].strip()
    threading.Thread(target=scheduler.stderr.read, daemon=True).start()
    for _ in range(n_workers):
        started = start("dask_worker", address, "--nthreads", "1", "--host", "127.0.0.1",
                        "--dashboard-address", "127.0.0.1:0", *([] if nanny else ["--no-nanny"]), *options)  # fmt: skip
        threading.Thread(target=started.stderr.read, daemon=True).start()
    from distributed import Client

    try:
        with Client(address) as client:
            if n_workers:
                client.wait_for_workers(n_workers, timeout=60)
            yield address, scheduler, processes[1:]
    finally:
        for process in processes:
            for child in (
                psutil.Process(process.pid).children(recursive=True) if process.poll() is None else ()
            ):
                child.kill()
            process.kill()
            process.wait()


def at(iteration, do):
    """A callback that does something once, after that iteration."""
    return lambda record: do() if record["iteration"] == iteration else None


def same(result, serial):
    for mine, theirs in zip(result.factors, serial.factors, strict=True):
        assert_array_equal(mine, theirs)
    assert result.objectives == serial.objectives


@pytest.mark.parametrize(
    ("victims", "iteration"),
    [
        pytest.param(
            victims, iteration, marks=[] if (victims, iteration) == ("one", 3) else [pytest.mark.slow]
        )
        for victims in ("one", "all")
        for iteration in (1, 2, 3, 4, 5)
    ],
)
def test_workers_killed_in_any_iteration(small, serial, iteration, victims):
    with two_workers() as client, executor(small, MODEL.storage, client=client, partitions=4) as where:
        pids = list(client.run(os.getpid).values())[: 1 if victims == "one" else 2]
        result = fit(
            MODEL,
            small,
            where,
            on_iteration=[at(iteration, lambda: [os.kill(p, signal.SIGKILL) for p in pids])],
        )
    same(result, serial)


@pytest.mark.slow
def test_a_nanny_killed_with_its_worker(small, serial):
    with (
        own_processes(2) as (address, _, workers),
        executor(small, MODEL.storage, address, partitions=4) as where,
    ):

        def kill():
            children = psutil.Process(workers[0].pid).children(recursive=True)
            for process in (psutil.Process(workers[0].pid), *children):
                process.kill()

        result = fit(MODEL, small, where, on_iteration=[at(3, kill)])
    same(result, serial)


@pytest.mark.parametrize(
    "gone", ["scheduler", pytest.param("all workers, without nannies", marks=pytest.mark.slow)]
)
def test_what_is_lost_for_good_is_said_in_a_minute_with_how_to_go_on(tmp_path, monkeypatch, gone):
    if gone != "scheduler":  # its loss is seen by itself, on a busy machine later than this
        monkeypatch.setattr(cluster, "STALL_SECONDS", 6.0)
    source, store = write(tmp_path / "r.csv", LINES), Store(tmp_path / "store")
    whole = train(Data([source]), MODEL, "whole", store, Place("serial"))
    with own_processes(2, nanny=False) as (address, scheduler, workers):
        victims = [scheduler] if gone == "scheduler" else workers
        struck = []

        def strike():
            struck.append(time.monotonic())
            for process in victims:
                process.kill()

        cause = "the scheduler is gone" if gone == "scheduler" else "no workers left"
        with pytest.raises(ClusterError, match=f"lost for good.*{cause}") as lost:
            train(Data([source]), MODEL, "m", store, Place(address), on_iteration=[at(3, strike)])
        assert time.monotonic() - struck[0] < 60
    assert lost.value.exit_code == 7
    (note,) = lost.value.__notes__
    run = note.removeprefix("go on with: mfpipe resume ").split()[0]
    from mfpipe.resuming import resume

    again = resume(run, store, cluster="threads")
    assert again["checksums"] == whole["checksums"]
    assert again["objective"] == whole["objective"]


def test_a_scheduler_that_was_given_up_between_two_half_steps_is_lost_for_good(small, monkeypatch):
    """Dask's client closes by itself where it cannot connect again."""
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 2)
    with (
        own_processes(1, nanny=False) as (address, scheduler, _),
        executor(small, MODEL.storage, address, partitions=2) as where,
    ):

        def strike():
            scheduler.kill()
            while where.client.status != "closed":
                time.sleep(0.05)
            cluster._Watched(where.client, []).look()  # as where futures are waited for meanwhile

        with pytest.raises(ClusterError, match="lost for good.*the scheduler is gone"):
            fit(MODEL, small, where, on_iteration=[at(3, strike)])


@pytest.mark.parametrize("seconds", [2, pytest.param(60, marks=pytest.mark.slow)])
def test_a_worker_stopped_for_a_while(small, serial, seconds):
    with executor(small, MODEL.storage, workers=2, partitions=4, dashboard_address="127.0.0.1:0") as where:
        pid = next(iter(where.client.run(os.getpid).values()))

        def go_on():
            with contextlib.suppress(ProcessLookupError):  # it may have been replaced by then
                os.kill(pid, signal.SIGCONT)

        def stop():
            os.kill(pid, signal.SIGSTOP)
            threading.Timer(seconds, go_on).start()

        result = fit(MODEL, small, where, on_iteration=[at(2, stop)])
    same(result, serial)


@pytest.mark.slow
def test_a_worker_stopped_for_good_is_done_without(small, serial, monkeypatch):
    monkeypatch.setattr(cluster, "WORKER_SECONDS", 10)
    with executor(small, MODEL.storage, workers=2, partitions=4, dashboard_address="127.0.0.1:0") as where:
        pid = next(iter(where.client.run(os.getpid).values()))
        try:
            result = fit(MODEL, small, where, on_iteration=[at(2, lambda: os.kill(pid, signal.SIGSTOP))])
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    same(result, serial)


class Deadly(ALS):
    """A model of which one partition kills whoever solves it."""

    def update(self, side, block, own, other, totals):
        if side == "user" and block.first_row == 0 and _on_a_worker():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().update(side, block, own, other, totals)


def _on_a_worker():
    from distributed import get_worker

    with contextlib.suppress(ValueError):
        return not get_worker().address.startswith("inproc")
    return False


@pytest.mark.slow
def test_a_partition_that_kills_whoever_holds_it(small):
    began = time.monotonic()
    model = Deadly(4, 0.1, max_iter=2)
    with (
        two_workers() as client,
        executor(small, model.storage, client=client, partitions=3) as where,
        pytest.raises(ClusterError, match=r"update_user_factors.*has taken \d+ workers with it"),
    ):
        fit(model, small, where)
    assert time.monotonic() - began < 60


class Greedy(ALS):
    """A model that asks for more memory than its worker may have."""

    def update(self, side, block, own, other, totals):
        if _on_a_worker():
            held = []
            while True:
                held.append(np.ones(1 << 22))
        return super().update(side, block, own, other, totals)


@pytest.mark.slow
def test_a_worker_out_of_memory(small):
    model = Greedy(4, 0.1, max_iter=2)
    with (
        two_workers(memory_limit="400MiB") as client,
        executor(small, model.storage, client=client, partitions=2) as where,
    ):
        began = time.monotonic()
        with pytest.raises(ClusterError, match="lost for good"):
            fit(model, small, where)
        assert time.monotonic() - began < 60


def test_long_tasks_are_not_mistaken_for_a_stall(monkeypatch, client):
    monkeypatch.setattr(cluster, "STALL_SECONDS", 4.0)  # signs of life are far apart on a busy machine
    monkeypatch.setattr(cluster, "LOOK_SECONDS", 0.3)
    assert cluster.gathered(client, [client.submit(_sleep, 7, pure=False)]) == ["slept"]


def _sleep(seconds):
    time.sleep(seconds)
    return "slept"


def test_a_cluster_that_never_runs_anything_is_given_up(monkeypatch, client):
    monkeypatch.setattr(cluster, "STALL_SECONDS", 2.0)
    monkeypatch.setattr(cluster, "LOOK_SECONDS", 0.3)
    never = client.submit(_sleep, 0, resources={"unobtainable": 1}, pure=False)
    began = time.monotonic()
    with pytest.raises(ClusterError, match=r"2 of its workers are left.* for \d s"):
        cluster.gathered(client, [never])
    assert time.monotonic() - began < 15
    never.cancel()


@pytest.mark.parametrize("kind", ["connection", "killer"])
def test_work_that_is_lost_every_time_is_given_up(client, kind):
    from distributed import KilledWorker
    from distributed.comm import CommClosedError

    runs = []

    def lost():
        runs.append(kind)
        raise CommClosedError("gone") if kind == "connection" else KilledWorker("update-7", None, 3)

    said = "lost for good .CommClosedError: gone" if kind == "connection" else "update-7 has taken 8 workers"
    with pytest.raises(ClusterError, match=said):
        cluster.with_retries(client, lost)
    assert len(runs) == (cluster.ATTEMPTS if kind == "connection" else cluster.KILLER_ATTEMPTS)


def test_work_that_is_lost_once_is_run_again(client):
    from distributed.comm import CommClosedError

    outcomes = [CommClosedError("gone"), None]

    def run():
        if error := outcomes.pop(0):
            raise error
        return "done"

    assert cluster.with_retries(client, run) == "done"


def test_a_worker_with_other_versions_is_refused_naming_both(small, tmp_path):
    (tmp_path / "numba-0.1.2.dist-info").mkdir()
    (tmp_path / "numba-0.1.2.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: numba\nVersion: 0.1.2\n"
    )
    with (
        own_processes(1, environment={"PYTHONPATH": str(tmp_path)}) as (address, _, _),
        pytest.raises(ClusterError, match=r"worker tcp://127.* has numba 0\.1\.2, and here 0\.[1-9]\d"),
        executor(small, MODEL.storage, address),
    ):
        pass


def test_a_local_cluster_that_does_not_start(small, monkeypatch):
    def broken(*arguments, **options):
        raise RuntimeError("Nanny failed to start.") from OSError("no more processes")

    monkeypatch.setattr("distributed.LocalCluster", broken)
    with (
        pytest.raises(ClusterError, match="the local Dask cluster does not start .no more processes."),
        executor(small, MODEL.storage, workers=2),
    ):
        pass


def test_partitions_that_workers_cannot_see_are_named(small, client, monkeypatch):
    writing = executors.write

    def elsewhere(blocks, side, directory: Path):
        return [spec | {"path": spec["path"] + ".not"} for spec in writing(blocks, side, directory)]

    monkeypatch.setattr(executors, "write", elsewhere)
    with (
        pytest.raises(ClusterError, match=r"cannot read .*set TMPDIR"),
        executor(small, MODEL.storage, client=client),
    ):
        pass


def test_a_scheduler_without_workers_is_said(small):
    with (
        own_processes(0) as (address, _, _),
        pytest.raises(ClusterError, match=f"no workers; start one with: dask worker {address}"),
        executor(small, MODEL.storage, address),
    ):
        pass
