"""What becomes of a retrain when a part of Prefect dies under it."""

import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from tests.local_prefect import PATIENCE, free_port, wait_until

pytest.importorskip("prefect")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
GOING_ON = "was interrupted: going on from iteration"


def logged(prefect, run):
    return prefect("flow-run", "logs", run).stdout


def test_a_fit_outlives_the_server_publishes_and_is_reported_to_the_next(prefect):
    run, _ = prefect.begin("orphaned")
    prefect.kill("server")
    prefect.let_go("orphaned")
    wait_until(lambda: prefect.decisions("orphaned"), PATIENCE)  # nobody has started another server yet
    assert [found["decision"] for found in prefect.decisions("orphaned")] == ["published"]
    up = prefect.local("up")
    assert up.returncode == 0, up.stdout + up.stderr
    state = prefect.wait_for(run, *ENDED)
    assert state["type"] == "COMPLETED", state
    assert "orphaned@1: published" in state["message"]
    left = prefect.ask("/artifacts/filter", {"flow_runs": {"id": {"any_": [run]}}})
    assert {each["key"] for each in left} >= {"retrain-decision", "retrain-systems", "retrain-report"}
    assert prefect.checksums("orphaned") == prefect.undisturbed("orphaned-not")


def test_a_database_that_is_locked_for_30_seconds_holds_up_no_fit(prefect):
    run, _ = prefect.begin("locked")
    with closing(
        sqlite3.connect(prefect.checkout / ".prefect" / "prefect.db", isolation_level=None)
    ) as other:
        other.execute("BEGIN IMMEDIATE")
        prefect.let_go("locked")
        until = time.monotonic() + 30
        wait_until(lambda: prefect.decisions("locked"), PATIENCE)
        time.sleep(max(0, until - time.monotonic()))
        other.execute("ROLLBACK")
    state = prefect.wait_for(run, *ENDED)
    assert state["type"] == "COMPLETED", state
    assert "locked@1: published" in state["message"]


def test_a_killed_run_goes_on_from_its_checkpoint_and_gives_the_same_factors(prefect):
    run, child = prefect.begin("killed")
    child.kill()
    prefect.let_go("killed")
    assert "SIGKILL" in prefect.wait_for(run, "CRASHED")["message"]
    time.sleep(8)  # Prefect may report it a second time, and overwrite a retry made in between
    assert prefect("flow-run", "retry", run).returncode == 0
    prefect.wait_for(run, "COMPLETED")
    assert GOING_ON in logged(prefect, run)
    assert prefect.checksums("killed") == prefect.undisturbed("killed-not")


@pytest.mark.parametrize("parts", [("worker",), ("server", "worker", "dask-scheduler", "dask-worker")])
def test_a_run_that_died_with_its_worker_or_with_all_is_reconciled_and_goes_on(prefect, parts):
    name = f"died-with-{len(parts)}"
    run, child = prefect.begin(name)
    prefect.kill(*parts)
    child.kill()
    prefect.let_go(name)
    up = prefect.local("up")
    assert run in up.stdout, up.stdout + up.stderr
    assert prefect.ask(f"/flow_runs/{run}")["state"]["type"] == "CRASHED"
    assert prefect("flow-run", "retry", run).returncode == 0
    prefect.wait_for(run, "COMPLETED")
    assert GOING_ON in logged(prefect, run)
    assert prefect.checksums(name) == prefect.undisturbed(f"{name}-not")


def test_a_run_outlives_its_worker(prefect):
    run, _ = prefect.begin("workerless")
    prefect.kill("worker")
    up = prefect.local("up")
    assert run not in up.stdout
    prefect.let_go("workerless")
    assert prefect.wait_for(run, *ENDED)["type"] == "COMPLETED"
    assert len(prefect.decisions("workerless")) == 1


def test_a_cluster_that_was_lost_is_tried_again_from_the_last_checkpoint(prefect):
    run, _ = prefect.begin("clusterless", f"cluster=tcp://127.0.0.1:{prefect.env['DASK_PORT']}")
    prefect.kill("dask-scheduler")
    prefect.let_go("clusterless")
    assert prefect.local("up").returncode == 0
    state = prefect.wait_for(run, *ENDED)
    assert state["type"] == "COMPLETED", state
    assert "lost for good" in logged(prefect, run)
    assert [found["decision"] for found in prefect.decisions("clusterless")] == ["published"]


def test_after_an_outage_one_of_the_nights_that_were_missed_runs(prefect):
    deployment = prefect.ask("/deployments/name/retrain/nightly")
    prefect.kill("worker")
    first = datetime.now(UTC) + timedelta(seconds=75)  # the scheduler looks every minute
    rule = f"DTSTART:{first:%Y%m%dT%H%M%S}\nRRULE:FREQ=SECONDLY;INTERVAL=5;COUNT=4"
    night = {"schedule": {"rrule": rule, "timezone": "UTC"}, "active": True, "parameters": {"name": "missed"}}
    (made,) = prefect.ask(f"/deployments/{deployment['id']}/schedules", [night])
    try:
        wait_until(
            lambda: len(prefect.runs("missed")) == 4 and datetime.now(UTC) > first + timedelta(seconds=15),
            PATIENCE,
        )
        assert prefect.local("up").returncode == 0
        wait_until(lambda: all(run["state"]["type"] in ENDED for run in prefect.runs("missed")), PATIENCE)
    finally:
        prefect("deployment", "schedule", "delete", "retrain/nightly", made["id"], "--accept-yes")
    ends = sorted(run["state"]["name"] for run in prefect.runs("missed"))
    assert ends.count("Completed") == 1
    assert set(ends) <= {"Completed", "Cancelled", "Skipped"}
    assert [found["decision"] for found in prefect.decisions("missed")] == ["published"]


def test_runs_older_than_90_days_are_deleted_from_prefects_database(prefect, monkeypatch):
    assert "Completed" in prefect.deployment("retrain/nightly", "name=old", "cluster=serial").stdout
    (old,) = (run["id"] for run in prefect.runs("old"))
    with closing(sqlite3.connect(prefect.checkout / ".prefect" / "prefect.db", timeout=60)) as other:
        other.execute("UPDATE flow_run SET end_time = datetime(end_time, '-91 days') WHERE id = ?", (old,))
        other.commit()
    monkeypatch.setitem(prefect.env, "PREFECT_SERVER_SERVICES_DB_VACUUM_LOOP_SECONDS", "5")
    prefect.kill("server")
    assert prefect.local("up").returncode == 0
    wait_until(lambda: not prefect.runs("old"), PATIENCE)
    its = {"flow_runs": {"id": {"any_": [old]}}}
    wait_until(lambda: not prefect.ask("/artifacts/filter", its), PATIENCE)


def without_server(home, *command):
    """Where there was to be a server, and how a command ends that needs one."""
    address = f"127.0.0.1:{free_port()}"
    env = os.environ | {"PREFECT_API_URL": f"http://{address}/api", "PREFECT_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, *command], env=env, cwd=home, capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0
    return address, done


def test_a_flow_that_finds_no_server_fails_within_30_seconds_naming_its_address(tmp_path):
    code = """import time; from mfpipe_flows.retrain import retrain; began = time.monotonic()
try: retrain(["ratings.csv"])
finally: print(time.monotonic() - began)"""
    address, done = without_server(tmp_path, "-c", code)
    assert float(done.stdout) < 30
    assert address in done.stderr
    assert not (tmp_path / "mfpipe-store").exists()


def test_a_run_cannot_be_created_without_a_server(tmp_path):
    """Prefect's command does not say where it looked."""
    _, done = without_server(tmp_path, "-m", "prefect", "deployment", "run", "retrain/nightly")
    assert "connection attempts failed" in done.stdout + done.stderr


def test_a_retrain_from_the_command_line_needs_no_server(prefect):
    address = f"http://127.0.0.1:{free_port()}/api"
    done = subprocess.run(
        [sys.executable, "-m", "mfpipe", "retrain", "data/train.csv.gz", "--name", "alone",
         "--cluster", "serial", "--rank", "8", "--regularization", "0.15"],
        env=prefect.env | {"PREFECT_API_URL": address}, cwd=prefect.checkout, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
