"""Prefect for real: a server, a worker, and runs of the deployments."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("prefect")
pytestmark = pytest.mark.timeout(240)
ROOT = Path(__file__).parents[1]
PREFECT = [sys.executable, "-m", "prefect", "--no-prompt"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def prefect(tmp_path_factory):
    """Runs `prefect …` against a server and a worker of its own; README's steps on another port."""
    home = tmp_path_factory.mktemp("prefect")
    port = str(free_port())
    env = os.environ | {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_API_PORT": port,
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "COLUMNS": "200",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    # The repository as a user has it, but with a store and a home of its own.
    checkout = home / "checkout"
    checkout.mkdir()
    for name in ("flows", "data", "prefect.yaml"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, checkout / name)
    started = []

    def start(*arguments):
        log = (home / f"{arguments[0]}.log").open("w")
        started.append(
            subprocess.Popen(
                [*PREFECT, *arguments], cwd=checkout, env=env, stdout=log, stderr=log, start_new_session=True
            )
        )

    def run(*arguments, timeout=120):
        return subprocess.run(
            [*PREFECT, *arguments], cwd=checkout, env=env, capture_output=True, text=True, timeout=timeout
        )

    run.checkout, run.env = checkout, env
    try:
        start("server", "start")
        deadline = time.monotonic() + 90
        while True:
            try:
                urllib.request.urlopen(f"{env['PREFECT_API_URL']}/health", timeout=2)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise AssertionError((home / "server.log").read_text()) from None
                time.sleep(0.5)
        made = run("work-pool", "create", "local", "--type", "process", "--overwrite")
        assert made.returncode == 0, made.stderr
        deployed = run("deploy", "--all")
        assert deployed.returncode == 0, deployed.stdout + deployed.stderr
        start("worker", "start", "--pool", "local", "--type", "process")
        yield run
    finally:
        for process in reversed(started):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_train_completes_and_leaves_a_version_a_report_and_artifacts(prefect):
    result = prefect(
        "deployment", "run", "train/manual", "--watch", "-p", "rank=4", "-p", "cluster=local", timeout=200
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Completed" in result.stdout
    home = prefect.checkout / "mfpipe-store"
    assert json.loads((home / "als" / "current").read_text())["version"] == "1"
    assert json.loads((home / "als" / "1" / "manifest.json").read_text())["params"]["rank"] == 4
    assert "als@1" in (home / "reports" / "als-1.html").read_text()
    listed = prefect("artifact", "ls").stdout
    for key in ("train-report", "train-timings", "train-history", "train-summary"):
        assert key in listed


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ("model=svd", "is not one of"),
        ("rank=0", "minimum"),
        ("weighting=both", "is not one of"),
        ("lambda=1", "lambda"),
    ],
)
def test_a_wrong_parameter_is_refused_when_the_run_is_created(prefect, parameter, message):
    result = prefect("deployment", "run", "train/manual", "-p", parameter)
    assert result.returncode != 0
    assert message in result.stdout + result.stderr


def test_bad_input_fails_the_run_and_publishes_nothing(prefect):
    bad = prefect.checkout / "bad.csv"
    bad.write_text("user,item,rating\n1,2,x\n")
    parameters = ("-p", f'ratings=["{bad}"]', "-p", "test=[]", "-p", "name=never")
    result = prefect("deployment", "run", "train/manual", "--watch", *parameters, timeout=200)
    assert "Failed" in result.stdout
    assert not (prefect.checkout / "mfpipe-store" / "never").exists()


def test_compare_takes_systems_from_a_file(prefect):
    two = '[[system]]\nlabel = "low"\nmodel = "als"\nrank = 2\n[[system]]\nmodel = "als"\n'
    (prefect.checkout / "systems.toml").write_text(two)
    parameters = ("-p", "systems=systems.toml", "-p", "max_iter=2", "-p", "cluster=threads")
    result = prefect("deployment", "run", "compare/manual", "--watch", *parameters, timeout=200)
    assert "Completed" in result.stdout, result.stdout + result.stderr
    assert "compare-systems" in prefect("artifact", "ls").stdout


def test_the_deployments_are_those_promised(prefect):
    listed = prefect("deployment", "ls").stdout
    for name in ("train/manual", "ingest/manual", "compare/manual"):
        assert name in listed
