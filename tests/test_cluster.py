"""Fits on a real Dask cluster: the work is done there, once, whatever befalls a worker.

That every model comes out bit for bit the same is in test_models.py.
"""

import os
import signal
import time
import weakref
from collections import Counter

import numpy as np
import psutil
import pytest
from distributed import LocalCluster
from numpy.testing import assert_array_equal

from mfpipe.cluster import connect
from mfpipe.errors import ClusterError, ParameterError
from mfpipe.executors import OnCluster, Rows, executor
from mfpipe.fit import fit
from mfpipe.job import Place
from mfpipe.models import ALS

pytestmark = pytest.mark.timeout(120)


def fitted(model, ratings, **options):
    with executor(ratings, model.storage, **options) as where:
        return fit(model, ratings, where)


def assert_identical(one, other):
    for mine, theirs in zip(one.factors, other.factors, strict=True):
        assert_array_equal(mine, theirs)
    assert one.objectives == other.objectives


def test_every_rating_is_processed_once_a_half_step_on_a_worker(small, client, tmp_path):
    from dask import is_dask_collection

    where = OnCluster(small, np.dtype("float64"), 6, client, tmp_path)
    workers = set(client.scheduler_info()["workers"])
    graph = where.graph(ALS(3, dtype="float64"), "item", Rows(None, np.ones((len(small.users), 3))))
    assert is_dask_collection(graph)
    names = Counter(str(key[0] if isinstance(key, tuple) else key).rsplit("-", 1)[0] for key in graph.dask)
    assert names["update_item_factors"] == 6
    for side in ("user", "item"):
        assert where.frames[side].npartitions == where.blocks[side].npartitions == 6

    result = fit(ALS(3, max_iter=2, tol=0, dtype="float64"), small, where)
    for record in result.history:
        for half in record["half_steps"]:
            assert sum(part["ratings"] for part in half["partitions"]) == len(small)
            assert {part["worker"] for part in half["partitions"]} <= workers
    used = {part["worker"] for half in record["half_steps"] for part in half["partitions"]}
    assert used == workers  # two workers share six partitions


def test_one_worker_in_this_process_gives_the_serial_factors(small):
    """The default place: its tasks are given the factors as they are, and not through a task of their own."""
    model = ALS(3, max_iter=2, tol=0)
    where = fitted(model, small, dashboard_address="127.0.0.1:0")
    assert_identical(where, fitted(model, small, cluster="serial"))
    used = {part["worker"] for half in where.history[-1]["half_steps"] for part in half["partitions"]}
    assert len(used) == 1
    assert used.pop().startswith("inproc://")


def test_blocks_are_built_once_and_not_again_at_each_iteration(small, client, tmp_path):
    where = OnCluster(small, np.dtype("float64"), 4, client, tmp_path)
    since = time.time()
    fit(ALS(3, max_iter=5, tol=0, dtype="float64"), small, where)
    seen = client.run_on_scheduler(
        lambda dask_scheduler: [str(story[0]) for story in dask_scheduler.transition_log if story[-1] > since]
    )
    assert any("update_user_factors" in key for key in seen)
    assert not any("build_blocks" in key for key in seen)


def test_a_cluster_in_this_process_lets_go_of_old_factors(small):
    model = ALS(3, max_iter=20, tol=0)
    made = []
    with executor(small, model.storage, cluster="local", dashboard_address="127.0.0.1:0") as where:
        fit(model, small, where, on_state=lambda state: made.append(weakref.ref(state.factors.user)))
        assert sum(rows() is not None for rows in made) <= 2


def test_a_killed_worker_costs_time_and_nothing_else(small):
    from distributed import Client, LocalCluster

    model = ALS(4, 0.1, max_iter=6, tol=0)
    serial = fitted(model, small, cluster="serial")
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", host="127.0.0.1"
        ) as local,
        Client(local) as client,
        executor(small, model.storage, client=client, partitions=4) as where,
    ):
        (victim, *_) = client.run(os.getpid).values()

        def kill(record):
            if record["iteration"] == 3:
                os.kill(victim, signal.SIGKILL)

        result = fit(model, small, where, on_iteration=[kill])
    assert_identical(serial, result)


def test_an_address_where_nothing_listens_is_said_in_time():
    started = time.monotonic()
    with (
        pytest.raises(ClusterError, match=r"tcp://127\.0\.0\.1:9: no Dask scheduler answers"),
        connect("tcp://127.0.0.1:9"),
    ):
        pass
    assert time.monotonic() - started < 30


def test_an_existing_cluster_is_used_by_address_and_left_running(small, client):
    model = ALS(3, max_iter=2, tol=0)
    result = fitted(model, small, cluster=client.scheduler.address, partitions=3)
    assert_identical(fitted(model, small, cluster="serial"), result)
    assert client.submit(lambda: 1).result() == 1


def test_few_of_the_messages_with_factors_in_them_are_kept():
    with connect("local", 1, dashboard_address="127.0.0.1:0") as client:
        to_workers = list(client.cluster.scheduler.stream_comms.values())
        with connect(client.scheduler.address) as other:
            kept = [each.recent_message_log.maxlen for each in (*to_workers, other.scheduler_comm)]
    assert kept == [100, 100]


@pytest.mark.parametrize("workers", [None, 1])
def test_the_local_cluster_and_its_dashboard_listen_on_loopback_only(workers):
    psutil = pytest.importorskip("psutil")
    with connect("local", workers, dashboard_address="127.0.0.1:0") as client:
        assert client.scheduler_info()["address"].startswith("tcp" if workers else "inproc")
        me = psutil.Process()
        for process in (me, *me.children(recursive=True)):
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    assert connection.laddr.ip in ("127.0.0.1", "::1"), connection


@pytest.mark.parametrize("value", ["cluster", "http:", "", "tcp:127.0.0.1"])
def test_a_place_that_is_none_is_refused_by_name(value):
    with pytest.raises(ParameterError, match="--cluster"):
        Place(value)


@pytest.mark.parametrize("name", ["workers", "threads_per_worker", "partitions"])
@pytest.mark.parametrize("value", [0, -1])
def test_counts_below_one_are_refused_by_name(name, value):
    with pytest.raises(ParameterError, match="--" + name.replace("_", "-")):
        Place(**{name: value})


def test_a_cluster_that_stumbles_while_closing_leaves_no_process_and_no_error(small, monkeypatch, caplog):
    def close(self, timeout=None):
        self.scheduler._workdir.release()  # or it would be missed when the tests have ended
        raise AssertionError("can only join a started process")

    def children():
        processes = psutil.Process().children(recursive=True)
        return {one for one in processes if "resource_tracker" not in str(one.cmdline())}

    model, before = ALS(2, max_iter=2, tol=0), children()
    place = {"cluster": "local", "workers": 1, "dashboard_address": "127.0.0.1:0"}
    with monkeypatch.context() as patched, executor(small, model.storage, **place) as where:
        patched.setattr(LocalCluster, "close", close)
        found = fit(model, small, where)
        assert len(children() - before) == 1
    assert_array_equal(found.factors.user, fitted(model, small).factors.user)
    assert "can only join a started process" in caplog.text
    assert not children() - before
