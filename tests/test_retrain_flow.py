"""`retrain/nightly` on a real server, worker and Dask cluster."""

import gzip
import json
import os
import ssl
import time
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import psutil
import pytest

pytest.importorskip("prefect")
from mfpipe_flows import local

from tests.local_prefect import PATIENCE

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="session")
def nightly(prefect):
    """The first retrain of `als` on the shipped data, as README runs it."""
    activated = time.monotonic()
    (deployment,) = [d for d in prefect.ask("/deployments/filter", {}) if d["name"] == "nightly"]
    (schedule,) = deployment["schedules"]
    assert not schedule["active"]
    resumed = prefect("deployment", "schedule", "resume", "retrain/nightly", schedule["id"])
    assert resumed.returncode == 0, resumed.stdout
    result = prefect.deployment("retrain/nightly")
    assert result.returncode == 0, result.stdout + result.stderr
    return {"output": result.stdout, "deployment": deployment, "schedule": schedule, "activated": activated}


def runs(prefect, **state):
    body = {"flow_runs": {"state": {key: {"any_": [value]} for key, value in state.items()}}} if state else {}
    return prefect.ask("/flow_runs/filter", body)


def test_the_first_is_published_within_a_minute_of_its_creation(prefect, nightly):
    assert "Completed" in nightly["output"]
    (run,) = [
        r for r in runs(prefect, type="COMPLETED") if r["name"] == "retrain als" and not r["auto_scheduled"]
    ]
    took = datetime.fromisoformat(run["end_time"]) - datetime.fromisoformat(run["created"])
    assert took.total_seconds() < 60
    assert set(run["tags"]) == {"mfpipe", "retrain"}
    assert "als@1: published" in run["state"]["message"]
    assert [row["decision"] for row in prefect.history("als")] == ["published"]


def test_what_happened_can_be_read_in_prefect(prefect, nightly):
    assert "first version" in prefect.artifact("retrain-decision")["data"]
    systems = json.loads(prefect.artifact("retrain-systems")["data"])
    assert [row["system"] for row in systems] == ["user-item average", "challenger"]
    halves = json.loads(prefect.artifact("retrain-half-steps")["data"])
    assert [half["side"] for half in halves[:2]] == ["item", "user"]
    parts = json.loads(prefect.artifact("retrain-partitions")["data"])
    assert all(part["last worker"].startswith("tcp://127.0.0.1:") for part in parts)
    stages = {row["stage"] for row in json.loads(prefect.artifact("retrain-seconds")["data"])}
    assert stages >= {"ingest", "compile", "fit", "evaluate", "gate", "store", "total"}
    assert prefect.artifact("retrain-convergence")["data"].startswith("data:image/svg+xml;base64,")
    assert "als-1.html" in prefect.artifact("retrain-report")["data"]
    assert (prefect.checkout / "mfpipe-store" / "reports" / "als-1.html").is_file()
    (run,) = [
        r for r in runs(prefect, type="COMPLETED") if r["name"] == "retrain als" and not r["auto_scheduled"]
    ]
    logged = prefect("flow-run", "logs", run["id"]).stdout
    for line in ("reading ratings", "fitting als to 44,917 ratings", "judging the challenger"):
        assert line in logged


def test_a_scheduled_run_really_appears(prefect, nightly):
    """With SQLAlchemy 2.1 the scheduler fails in the background, and none ever does."""
    while not [run for run in runs(prefect, type="SCHEDULED") if run["auto_scheduled"]]:
        assert time.monotonic() < nightly["activated"] + 150
        time.sleep(1)
    prefect("deployment", "schedule", "pause", "retrain/nightly", nightly["schedule"]["id"])


def test_shuffled_ratings_end_refused_and_current_is_the_same_byte_for_byte(prefect, nightly):
    with gzip.open(prefect.checkout / "data" / "train.csv.gz", "rt") as source:
        header, *rows = [line.split(",") for line in source.read().split()]
    ratings = np.random.default_rng(0).permutation([row[2] for row in rows])
    lines = [",".join((*row[:2], rating, row[3])) for row, rating in zip(rows, ratings, strict=True)]
    (prefect.checkout / "shuffled.csv").write_text("\n".join([",".join(header), *lines]) + "\n")
    current = prefect.checkout / "mfpipe-store" / "als" / "current"
    before = current.read_bytes()
    result = prefect.deployment("retrain/nightly", 'ratings=["shuffled.csv"]')
    assert "Refused" in result.stdout
    assert result.returncode != 0
    assert current.read_bytes() == before
    (run,) = runs(prefect, name="Refused")
    assert run["state"]["type"] == "FAILED"
    assert "user-item average: no" in run["state"]["message"]
    assert "**no**" in prefect.artifact("retrain-decision")["data"]
    assert prefect.history("als")[-1]["decision"] == "refused"


def test_every_parameter_is_described(prefect):
    for deployment in prefect.ask("/deployments/filter", {}):
        for name, schema in deployment["parameter_openapi_schema"]["properties"].items():
            assert schema.get("description"), f"{deployment['name']}: {name}"


def test_a_report_says_where_it_is_and_those_of_deleted_versions_go(tmp_path, monkeypatch):
    from mfpipe_flows import artifacts

    from mfpipe.cli import main

    source, store = tmp_path / "ratings.csv", tmp_path / "store"
    source.write_text("user,item,rating\n" + "".join(f"{n % 7},{n % 5},{n % 4 + 1}\n" for n in range(35)))
    train = ("train", str(source), "--name", "m", "--model", "user-mean", "--cluster", "serial")
    assert main([*train, "--store", str(store)]) == 0
    reports = store / "reports"
    reports.mkdir()
    for name in ("m-7.html", "m-2-7.html"):  # of a version that is gone, and of another model
        (reports / name).touch()
    said = []
    monkeypatch.setattr(artifacts, "create_markdown_artifact", lambda text, **about: said.append(text))
    path = artifacts.leave_report("m", "1", str(store), "retrain-report")
    assert {each.name for each in reports.iterdir()} == {"m-1.html", "m-2-7.html"}
    assert str(path) in said[0]
    assert f"mfpipe report m@1 --store {store} -o report.html" in said[0]


def test_server_and_worker_are_given_what_keeps_them_small(prefect):
    for name in ("server", "worker"):
        given = psutil.Process(prefect.processes()[name]["pid"]).environ()
        assert given["PREFECT_API_URL"].startswith("http://")  # else it would need the others
        context = ssl.create_default_context(cafile=given["PREFECT_API_SSL_CERT_FILE"])
        assert context.cert_store_stats()["x509"] == 1
        wanted = "1" if name == "server" else os.environ.get("MALLOC_ARENA_MAX")  # runs inherit the worker's
        assert given.get("MALLOC_ARENA_MAX") == wanted


def test_dask_keeps_no_group_of_tasks_and_no_span_of_a_night(prefect, nightly):
    def groups(dask_scheduler):
        import gc

        from distributed.scheduler import TaskGroup

        dask_scheduler.computations.clear()  # the last hundred
        gc.collect()
        return [each.name for each in gc.get_objects() if isinstance(each, TaskGroup)]

    def spans(dask_worker):
        return {key[1] for key in dask_worker.digests_total if key[0] == "execute"}

    from distributed import Client

    with Client(f"tcp://127.0.0.1:{prefect.env['DASK_PORT']}") as client:
        assert client.run_on_scheduler(groups) == []
        assert list(client.run(spans).values()) == [{None}]


@pytest.mark.slow
def test_up_twice_and_nothing_is_started_again(prefect):
    before = prefect.processes()
    again = prefect.local("up")
    assert again.returncode == 0, again.stdout + again.stderr
    assert prefect.processes() == before


@pytest.mark.slow
def test_a_second_run_is_cancelled_and_a_cancelled_one_can_go_on(prefect):
    run, child = prefect.begin("cancelled")
    second = prefect.deployment("retrain/nightly", "name=second")
    assert "Cancelled" in second.stdout
    assert not (prefect.checkout / "mfpipe-store" / "second").exists()
    assert prefect("flow-run", "cancel", run).returncode == 0
    prefect.wait_for(run, "CANCELLED")
    child.wait(PATIENCE)
    (left,) = [
        r for r in json.loads(prefect.mfpipe("runs", "--json").stdout)["runs"] if r["name"] == "cancelled"
    ]
    assert left["state"] == "interrupted"
    assert left["iteration"] == 19  # it was stopped in the 20th
    resumed = prefect.mfpipe("resume", left["run"], "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["decision"] == "published"


@pytest.mark.slow
def test_down_ends_what_up_started_and_can_be_run_twice(tmp_path):
    from tests.local_prefect import LocalPrefect

    local = LocalPrefect(tmp_path / "checkout")
    try:
        assert local.local("up").returncode == 0
        started = [psutil.Process(each["pid"]) for each in local.processes().values()]
        family = started + [child for process in started for child in process.children(recursive=True)]
        bystander = psutil.Popen(["sleep", "60"])
    finally:
        down = local.local("down")
    assert "ended 4 processes" in down.stdout
    assert not [process for process in family if process.is_running()]
    assert bystander.is_running()
    bystander.kill()
    bystander.wait()
    assert not (local.checkout / "prefect.toml").exists()
    assert local.local("down").stdout == "nothing was running\n"


def test_up_asks_again_where_the_server_cannot_answer_just_now(monkeypatch):
    monkeypatch.setattr(local, "_running", lambda: {"server": {}})
    codes = [503, 503, 200]

    class Busy(BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(codes.pop(0))
            self.end_headers()
            self.wfile.write(b"[]")

    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        Thread(target=server.serve_forever).start()
        assert local._asked(f"http://127.0.0.1:{server.server_port}/flow_runs/filter", {}) == []
        server.shutdown()
    assert codes == []


def test_up_has_the_kernels_compiled_by_a_retrain_that_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(local, "HERE", tmp_path)
    with local._compiling():
        assert list(tmp_path.glob("compiling-*"))
    assert capsys.readouterr().out == ""  # it says when it fails
    assert not list(tmp_path.iterdir())


def test_what_compiles_ends_with_the_up_that_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "HERE", tmp_path)
    found = []

    def fail() -> None:
        with local._compiling():
            found.extend(p for p in psutil.Process().children() if "retrain" in p.cmdline())
            raise SystemExit("a port is not free")

    with pytest.raises(SystemExit):
        fail()
    assert len(found) == 1
    assert not found[0].is_running()
    assert not list(tmp_path.iterdir())
