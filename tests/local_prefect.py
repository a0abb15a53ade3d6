"""Prefect as `make up` starts it, on ports and in a directory of its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[1]


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

    def __call__(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess:
        """`prefect …`; it finds the server by prefect.toml, as a user's does."""
        return self.run(sys.executable, "-m", "prefect", "--no-prompt", *arguments, timeout=timeout)

    def local(self, what: str) -> subprocess.CompletedProcess:
        """`make up` or `make down`."""
        return self.run(sys.executable, "-m", "mfpipe_flows.local", what, timeout=200)

    def mfpipe(self, *arguments: str) -> subprocess.CompletedProcess:
        return self.run(sys.executable, "-m", "mfpipe", *arguments, timeout=200)

    def run(self, *command: str, timeout: float) -> subprocess.CompletedProcess:
        return subprocess.run(
            command, cwd=self.checkout, env=self.env, capture_output=True, text=True, timeout=timeout
        )

    def deployment(self, name: str, *parameters: str, watch: bool = True) -> subprocess.CompletedProcess:
        """`prefect deployment run`, with `-p` before each of the parameters."""
        given = [word for parameter in parameters for word in ("-p", parameter)]
        return self("deployment", "run", name, *(["--watch"] if watch else []), *given, timeout=200)

    def ask(self, path: str, body: dict | None = None):
        """The answer of the server's API to a POST with a body, or to a GET without."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.api + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as answer:
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
