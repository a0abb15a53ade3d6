"""Prefect and Dask on this machine: `python -m mfpipe_flows.local up`, and `down` again.

    .prefect/                 Prefect's database and settings, logs, and what runs as which process
    .prefect/processes.json   pid and start time of everything that `up` started; `down` ends just these
    .prefect/certificate.pem  all that Prefect's clients have to read in order to speak plain HTTP
    prefect.toml              where the API is, so that `prefect …` finds it from this directory

Everything listens on loopback only. Ports come from the environment: PORT (of Prefect, 4200), DASK_PORT
(of the scheduler, 8786) and DASHBOARD_PORT (8787).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib.resources import as_file, files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import certifi
import psutil
import yaml

HERE = Path(".prefect")
PROCESSES, SETTINGS = HERE / "processes.json", Path("prefect.toml")
CERTIFICATE = HERE / "certificate.pem"
OURS = "# Written by `make up`, deleted by `make down`.\n"
HOST = "127.0.0.1"
PATIENCE = 120  # seconds for a server to come up, on a busy machine
ONLY = {
    # The server's threads, one for each connection to the database, allocate from one heap: with a heap for
    # each, which is glibc's default, it takes 8 MiB more. Other allocators ignore this.
    "server": {"MALLOC_ARENA_MAX": "1"},
    # Of messages, events and transitions Dask keeps the last thousand. Each half-step's factors are part of a
    # message to each worker, up to a megabyte of which is kept as it is.
    "dask-scheduler": {"DASK_DISTRIBUTED__ADMIN__LOW_LEVEL_LOG_LENGTH": "100"},
}
PREFECT = (sys.executable, "-m", "prefect", "--no-prompt")


class Ports:
    """Where everything listens."""

    def __init__(self) -> None:
        self.api, self.dask, self.dashboard = (
            int(os.environ.get(name) or usual)
            for name, usual in (("PORT", 4200), ("DASK_PORT", 8786), ("DASHBOARD_PORT", 8787))
        )
        self.url = f"http://{HOST}:{self.api}/api"
        self.scheduler = f"tcp://{HOST}:{self.dask}"


def environment(ports: Ports) -> dict[str, str]:
    """What every process is started with."""
    return os.environ | {
        "PREFECT_HOME": str(HERE.resolve()),
        "PREFECT_API_URL": ports.url,
        "PREFECT_API_SSL_CERT_FILE": str(CERTIFICATE.resolve()),
        "PREFECT_SERVER_API_HOST": HOST,
        "PREFECT_SERVER_API_PORT": str(ports.api),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "true",  # runs after 90 days, not only events after 7
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "DO_NOT_TRACK": "1",
    }


def commands(ports: Ports) -> dict[str, tuple[tuple[str, ...], int | None]]:
    """Each process: what it runs, and the port it takes; in the order of starting."""
    python = (sys.executable, "-m")
    scheduler = (
        *python, "distributed.cli.dask_scheduler", "--host", HOST, "--port", str(ports.dask),
        "--dashboard-address", f"{HOST}:{ports.dashboard}", "--preload", "mfpipe_flows.no_spans",
    )  # fmt: skip
    dask_worker = (
        *python, "distributed.cli.dask_worker", ports.scheduler, "--host", HOST, "--nworkers", "1",
        "--dashboard-address", f"{HOST}:0", "--local-directory", str(HERE.resolve() / "dask"),
    )  # fmt: skip
    return {
        "server": ((*PREFECT, "server", "start"), ports.api),
        "dask-scheduler": (scheduler, ports.dask),
        "dask-worker": (dask_worker, None),
        "worker": ((*PREFECT, "worker", "start", "--pool", "local", "--type", "process"), None),
    }


def up() -> None:
    """Start what is not running, wait until it answers, and deploy."""
    ports = Ports()
    HERE.mkdir(mode=0o700, exist_ok=True)  # Prefect makes its database readable by everybody
    (HERE / "logs").mkdir(exist_ok=True)
    running = _running()
    _require_same_ports(running, ports)
    _write_settings(ports)
    _write_certificate()
    wanted, env = commands(ports), environment(ports)
    if "dask-scheduler" not in running and "dask-worker" in running:
        _end([running.pop("dask-worker")])  # it was the lost scheduler's, and would soon end by itself
    with nullcontext() if "dask-worker" in running else _compiling():
        for name in ("server", "dask-scheduler", "dask-worker"):
            if name not in running:
                _start(name, *wanted[name], env | ONLY.get(name, {}))
        _wait("server", lambda: _answers(f"{ports.url}/health"))
        _prefect(env, "work-pool", "create", "local", "--type", "process", "--overwrite")
        _prefect(env, "deploy", "--all", "--prefect-file", str(_deployments(ports)))
        _reconcile(ports, worker_runs="worker" in running)
        if "worker" not in running:
            _start("worker", *wanted["worker"], env)
        _wait("worker", lambda: _worker_is_online(ports))
        _wait("dask-worker", lambda: _dask_workers(ports) > 0)
    print(f"Prefect:        http://{HOST}:{ports.api}")
    print(f"Dask dashboard: http://{HOST}:{ports.dashboard}/status")
    print(f"Logs:           {HERE / 'logs'}; `make down` ends what this started")


@contextmanager
def _compiling() -> Iterator[None]:
    """Have the kernels compiled meanwhile, by a retrain of the sample: the first night need not wait."""
    with (
        TemporaryDirectory(dir=HERE, prefix="compiling-") as made,
        as_file(files("mfpipe_sample") / "train.csv.gz") as ratings,
        subprocess.Popen(
            (
                sys.executable, "-m", "mfpipe", "retrain", ratings, "--store", made, "--name", "sample",
                "--cluster", "serial", "--rank", "8", "--regularization", "0.15", "-q",
            ),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process,
    ):  # fmt: skip
        try:
            yield
            if process.wait():
                print("the kernels could not be compiled ahead; the first retrain says why")
        finally:
            process.kill()


def down() -> None:
    """End what `up` started, and nothing else."""
    processes = list(reversed(_running().values()))
    _end(processes)
    PROCESSES.unlink(missing_ok=True)
    if SETTINGS.is_file() and SETTINGS.read_text().startswith(OURS):
        SETTINGS.unlink()
    print(f"ended {len(processes)} processes" if processes else "nothing was running")


def _end(processes: list[psutil.Process]) -> None:
    """SIGTERM, and what is left of them or of their children after 20 s is killed."""
    families = [process for each in processes for process in (each, *each.children(recursive=True))]
    for process in processes:
        _signal(process, signal.SIGTERM)
    for process in psutil.wait_procs(families, timeout=20)[1]:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(families, timeout=5)


def _signal(process: psutil.Process, number: int) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)  # psutil looks whether it is still the same process


def _recorded() -> dict[str, dict]:
    return json.loads(PROCESSES.read_text()) if PROCESSES.is_file() else {}


def _running() -> dict[str, psutil.Process]:
    """What `up` started and still runs: the same pid, started at the same time."""
    found = {}
    for name, was in _recorded().items():
        try:
            process = psutil.Process(was["pid"])
            same = abs(process.create_time() - was["started"]) < 1
            if same and process.status() != psutil.STATUS_ZOMBIE:
                found[name] = process
        except psutil.NoSuchProcess:
            continue
    return found


def _require_same_ports(running: dict[str, psutil.Process], ports: Ports) -> None:
    recorded = _recorded()
    for name, (_, port) in commands(ports).items():
        if name in running and recorded[name]["port"] != port:
            sys.exit(f"{name} runs on port {recorded[name]['port']}, not {port}: make down first")


def _start(name: str, command: tuple[str, ...], port: int | None, env: dict[str, str]) -> None:
    if port is not None:
        _require_free(name, port)
    with (HERE / "logs" / f"{name}.log").open("a") as log:
        process = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    started = psutil.Process(process.pid).create_time()
    recorded = _recorded() | {name: {"pid": process.pid, "started": started, "port": port}}
    _write_whole(PROCESSES, json.dumps(recorded, indent=1))


def _write_whole(path: Path, text: str) -> None:
    """Write it so that nobody reads half of it."""
    aside = path.with_suffix(".aside")
    aside.write_text(text)
    aside.replace(path)


def _require_free(name: str, port: int) -> None:
    variable = {"server": "PORT", "dask-scheduler": "DASK_PORT"}[name]
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            sys.exit(
                f"{name}: port {port} is not free ({error.strerror}); choose another: make up {variable}=…"
            )


def _write_settings(ports: Ports) -> None:
    if SETTINGS.is_file() and not SETTINGS.read_text().startswith(OURS):
        sys.exit(
            f"{SETTINGS}: is not of `make up`; move it away, or set PREFECT_API_URL={ports.url} yourself"
        )
    home = json.dumps(str(HERE.resolve()))
    SETTINGS.write_text(f'{OURS}home = {home}\n[api]\nurl = "{ports.url}"\n')


def _write_certificate() -> None:
    """One certificate, for Prefect's clients to read where nothing is encrypted.

    Each of them makes a TLS context first (prefect/client/orchestration, `PrefectClient.__init__`), and the
    worker makes two clients a run. With all of certifi's certificates, which is what it reads if it is not
    told otherwise, a context takes 0.65 MiB and the worker grew by them; OpenSSL refuses a file with none.
    """
    first, end, _ = certifi.contents().partition("-----END CERTIFICATE-----\n")
    _write_whole(CERTIFICATE, first + end)


def _deployments(ports: Ports) -> Path:
    """prefect.yaml with the address of the Dask scheduler that `up` started."""
    described = yaml.safe_load(Path("prefect.yaml").read_text())
    for deployment in described["deployments"]:
        if "cluster" in deployment["parameters"]:
            deployment["parameters"]["cluster"] = ports.scheduler
    path = HERE / "prefect.yaml"
    path.write_text(yaml.safe_dump(described, sort_keys=False, allow_unicode=True))
    return path


def _prefect(env: dict[str, str], *arguments: str) -> None:
    done = subprocess.run([*PREFECT, *arguments], env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"prefect {' '.join(arguments)}:\n{done.stdout}{done.stderr}")


def _wait(name: str, answers: Callable[[], Any]) -> Any:
    """What is answered in the end; `make up` ends in words where nothing is."""
    deadline = time.monotonic() + PATIENCE
    while not (answer := answers()):
        if name not in _running():
            sys.exit(f"{name} has ended; see {HERE / 'logs' / name}.log")
        if time.monotonic() > deadline:
            sys.exit(f"{name} does not answer after {PATIENCE} s; see {HERE / 'logs' / name}.log")
        time.sleep(0.3)
    return answer


def _reconcile(ports: Ports, worker_runs: bool) -> None:
    """Tell Prefect of runs that died together with their worker or the server, which nobody could report.

    They would stay Running, and keep the deployment's one place taken.
    """
    body = {
        "flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}},
        "work_pools": {"name": {"any_": ["local"]}},
    }
    for run in _asked(f"{ports.url}/flow_runs/filter", body):
        pid = str(run["infrastructure_pid"] or "").rpartition(":")[2]
        if _runs_a_flow(int(pid)) if pid.isdigit() else worker_runs:  # which is about to start it
            continue
        message = "Its process was gone when `make up` looked."
        state = {"state": {"type": "CRASHED", "name": "Crashed", "message": message}, "force": True}
        _asked(f"{ports.url}/flow_runs/{run['id']}/set_state", state)
        print(f"{run['name']}: its process is gone; go on with: prefect flow-run retry {run['id']}")


def _runs_a_flow(pid: int) -> bool:
    try:
        return any("prefect" in word for word in psutil.Process(pid).cmdline())
    except psutil.Error:
        return False


def _asked(url: str, body: dict) -> Any:
    """What Prefect's server answers in the end; on a busy machine it says at times that it cannot (503)."""
    return json.loads(_wait("server", lambda: _answers(url, json.dumps(body).encode())))


def _answers(url: str, body: bytes | None = None) -> bytes:
    """What is answered; nothing where nobody does."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read()
    except (OSError, urllib.error.URLError):
        return b""


def _worker_is_online(ports: Ports) -> bool:
    found = json.loads(_answers(f"{ports.url}/work_pools/local/workers/filter", b"{}") or b"[]")
    return any(worker["status"] == "ONLINE" for worker in found)


def _dask_workers(ports: Ports) -> int:
    counts = json.loads(_answers(f"http://{HOST}:{ports.dashboard}/json/counts.json") or b"{}")
    return counts.get("workers", 0)


if __name__ == "__main__":
    {"up": up, "down": down}[sys.argv[1]]()
