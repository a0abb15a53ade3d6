"""Prefect as `make up` starts it, on ports and in a directory of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
PATIENCE = 300  # seconds in which anything happens, even on a machine that others keep busy
# Of a fit that `begin` holds: one that is written down after every iteration.
FIT = ("cluster=serial", "dtype=float64", "tol=0", "max_iter=60", "checkpoint_seconds=1e-9")


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def _check_out(checkout: Path) -> None:
    checkout.mkdir()
    for name in ("flows", "data", "prefect.yaml"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, checkout / name)
    ports = {name: free_port() for name in ("PORT", "DASK_PORT", "DASHBOARD_PORT")}
    (checkout / "ports.json").write_text(json.dumps(ports))


class LocalPrefect:
    """Runs `prefect …`, `up` and `down` in a checkout as a user has it, but with a store of its own.

    One that is there already is used again, on the same ports.
    """

    def __init__(self, checkout: Path):
        self.checkout = checkout
        if not checkout.exists():
            _check_out(checkout)
        ports = json.loads((checkout / "ports.json").read_text())
        self.api = f"http://127.0.0.1:{ports['PORT']}/api"
        mine = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.env = mine | ports | {"COLUMNS": "200", "PATH": path, "MFPIPE_STORE": "mfpipe-store"}

    def __call__(self, *arguments: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess:
        """`prefect …`; it finds the server by prefect.toml, as a user's does."""
        return self.run(sys.executable, "-m", "prefect", "--no-prompt", *arguments, timeout=timeout)

    def local(self, what: str) -> subprocess.CompletedProcess:
        """`make up` or `make down`."""
        return self.run(sys.executable, "-m", "mfpipe_flows.local", what, timeout=PATIENCE)

    def mfpipe(self, *arguments: str) -> subprocess.CompletedProcess:
        return self.run(sys.executable, "-m", "mfpipe", *arguments, timeout=PATIENCE)

    def run(self, *command: str, timeout: float) -> subprocess.CompletedProcess:
        return subprocess.run(
            command, cwd=self.checkout, env=self.env, capture_output=True, text=True, timeout=timeout
        )

    def deployment(
        self, name: str, *parameters: str, options: tuple[str, ...] = ("--watch",)
    ) -> subprocess.CompletedProcess:
        """`prefect deployment run`, with `-p` before each of the parameters."""
        given = [word for parameter in parameters for word in ("-p", parameter)]
        return self("deployment", "run", name, *options, *given, timeout=PATIENCE)

    def ask(self, path: str, body: dict | None = None):
        """The answer of the server's API to a POST with a body, or to a GET without."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.api + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    def processes(self) -> dict[str, dict]:
        return json.loads((self.checkout / ".prefect" / "processes.json").read_text())

    def artifact(self, key: str) -> dict:
        """The latest artifact of that key."""
        return self.ask(f"/artifacts/{key}/latest")

    def history(self, name: str) -> list[dict]:
        found = self.mfpipe("models", "history", name, "--json")
        assert found.returncode == 0, found.stderr
        return json.loads(found.stdout)["history"]

    def runs(self, name: str) -> list[dict]:
        """The flow runs that retrain a model of that name."""
        return [run for run in self.ask("/flow_runs/filter", {}) if run["parameters"].get("name") == name]

    def begin(self, name: str, *more: str) -> tuple[str, psutil.Process]:
        """Start a retrain; its flow run's id and process, once that is in the middle of its fit.

        There it waits for `let_go`. Started again, as by a retry, it waits only if it has not been let go.
        """
        hold = self._hold(name)
        hold.touch()
        env = {"PYTHONPATH": str(ROOT / "tests" / "held"), "MFPIPE_HOLD": str(hold.resolve())}
        variable = ("--job-variable", f"env={json.dumps(env)}")
        created = self.deployment("retrain/nightly", f"name={name}", *FIT, *more, options=variable)
        assert created.returncode == 0, created.stdout
        (run,) = self.runs(name)
        pid = int(wait_until(hold.read_text, PATIENCE))
        return run["id"], psutil.Process(pid)

    def let_go(self, name: str) -> None:
        """Let the fit go on that `begin` holds."""
        self._hold(name).unlink()

    def _hold(self, name: str) -> Path:
        return self.checkout / f"{name}.hold"

    def kill(self, *names: str) -> None:
        """SIGKILL for what `up` started under these names."""
        killed = [psutil.Process(self.processes()[name]["pid"]) for name in names]
        for process in killed:
            process.send_signal(signal.SIGKILL)
        psutil.wait_procs(killed, timeout=10)

    def wait_for(self, run: str, *states: str) -> dict:
        """The state of a flow run, once it is of one of these types."""
        return wait_until(lambda: self._state_if(run, states), PATIENCE)

    def _state_if(self, run: str, states: tuple[str, ...]) -> dict | None:
        state = self.ask(f"/flow_runs/{run}")["state"]
        return state if state["type"] in states else None

    def decisions(self, name: str) -> list[dict]:
        """What the store says has become of a model's retrains, without asking anybody."""
        found = sorted((self.checkout / "mfpipe-store" / ".retrains" / name).glob("*.json"))
        return [json.loads(path.read_text()) for path in found]

    def checksums(self, name: str) -> dict:
        """Those of the factors of its first version."""
        manifest = self.checkout / "mfpipe-store" / name / "1" / "manifest.json"
        return json.loads(manifest.read_text())["checksums"]

    def undisturbed(self, name: str) -> dict:
        """The checksums of what `begin` starts, fitted without a break."""
        found = self.mfpipe(
            "retrain", "data/train.csv.gz", "--name", name, "--cluster", "serial", "--rank", "8",
            "--regularization", "0.15", "--dtype", "float64", "--tol", "0", "--max-iter", "60",
        )  # fmt: skip
        assert found.returncode == 0, found.stderr
        return self.checksums(name)


def wait_until(found: Callable, seconds: float):
    """What `found` returns, once that is something."""
    deadline = time.monotonic() + seconds
    while not (answer := found()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return answer
