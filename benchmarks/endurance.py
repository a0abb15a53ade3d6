"""A hundred nights in a row on a real server, worker and Dask cluster: what grows from one to the next?

    python -m benchmarks.endurance build/endurance --nights 100

Night n retrains one model on a window of 100,000 dated ratings that moves on by 200 a night, so that there
is always something new and never more. The directory gets a checkout with a store, a Prefect home and a place
for temporary files of its own, and `nights.jsonl`, a line of figures after each night. Called again
with the same directory it goes on where it was, with the same processes where they still run (--leave-up).
It ends with a table: figures after a warm-up against those of the last nights.

With --empty a night's run is the command `true`, in a second or two: what grows then is Prefect's alone.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import time
import urllib.error
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil

from mfpipe.synth import Synthetic
from tests.local_prefect import LocalPrefect

RATINGS, A_NIGHT, KEPT = 100_000, 200, 5
USERS, ITEMS, MOST_NIGHTS = 5_000, 1_500, 300
WARM_UP = 10  # nights, before what a process holds is compared with what it holds at the end
PATIENCE = 300  # seconds in which the server has to answer
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
NAME = "endurance"


class Nights:
    """A checkout in which one model is retrained night after night."""

    def __init__(self, directory: Path):
        directory.mkdir(parents=True, exist_ok=True)
        self.samples = directory / "nights.jsonl"
        self.temporary = directory / "tmp"
        self.temporary.mkdir(exist_ok=True)
        self.prefect = LocalPrefect(directory / "checkout")
        self.prefect.env["TMPDIR"] = str(self.temporary.resolve())
        columns = Synthetic(USERS, ITEMS, RATINGS + A_NIGHT * MOST_NIGHTS, seed=11).columns()
        order = columns[3].argsort(kind="stable")
        self.ratings = [column[order] for column in columns]

    def done(self) -> list[dict]:
        """What was measured after each night so far."""
        return (
            [json.loads(line) for line in self.samples.read_text().splitlines()]
            if self.samples.exists()
            else []
        )

    def retrain(self, night: int) -> dict:
        """One night by way of the deployment; what was measured after it."""
        self._write(night)
        watched = Highest(self._worker)
        began = time.monotonic()
        run = self._create_run("retrain/nightly", parameters=self._parameters())
        while (state := self._ask(f"/flow_runs/{run}")["state"])["type"] not in ENDED:
            watched.look()
            time.sleep(0.1)
        seconds = time.monotonic() - began
        while watched.look():  # until its process has ended, too
            time.sleep(0.1)
        if state["type"] != "COMPLETED" or "published" not in state["message"]:
            raise SystemExit(f"night {night}: {state['name']}: {state['message']}")
        time.sleep(1)
        return {"night": night, "seconds": seconds, "driver": watched.most} | self._held()

    def start_nothing(self, night: int) -> dict:
        """A run in which Prefect's worker starts `true`, and waits for it; what was measured after it."""
        began = time.monotonic()
        run = self._create_run("ingest/manual", job_variables={"command": "true"})
        while not self._ask(f"/flow_runs/{run}")["infrastructure_pid"] or self._worker().children():
            time.sleep(0.1)
        seconds = time.monotonic() - began
        time.sleep(1)
        return {"night": night, "seconds": seconds} | self._processes()

    def _create_run(self, name: str, **given: dict) -> str:
        """Its id. The key lets one be created however often it has to be asked for."""
        deployment = self._ask(f"/deployments/name/{name}")
        body = {"idempotency_key": str(uuid.uuid4()), "enforce_parameter_schema": True} | given
        body["parameters"] = deployment["parameters"] | given.get("parameters", {})
        return self._ask(f"/deployments/{deployment['id']}/create_flow_run", body)["id"]

    def _ask(self, path: str, body: dict | None = None) -> dict:
        """What the server answers in the end; on a busy machine its database is locked at times (503)."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return self.prefect.ask(path, body)
            except OSError as error:  # urllib's errors are of this kind, the answers 4xx and 5xx too
                refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
                if refused or time.monotonic() > until:
                    raise
            time.sleep(1)

    def _parameters(self) -> dict:
        return {"ratings": ["ratings.csv"], "name": NAME, "keep_versions": KEPT, "max_iter": 15}

    def _worker(self) -> psutil.Process:
        return psutil.Process(self.prefect.processes()["worker"]["pid"])

    def _write(self, night: int) -> None:
        window = slice(A_NIGHT * night, A_NIGHT * night + RATINGS)
        with (self.prefect.checkout / "ratings.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("user", "item", "rating", "date"))
            writer.writerows(zip(*(column[window].tolist() for column in self.ratings), strict=True))

    def _processes(self) -> dict:
        """What every lasting process holds."""
        found: dict = {"pids": {}}
        for name, each in self.prefect.processes().items():
            process = psutil.Process(each["pid"])
            family = [process, *process.children(recursive=True)]
            found["pids"][name] = sorted(one.pid for one in family)
            found[name] = {
                "rss": sum(one.memory_info().rss for one in family),
                "descriptors": sum(one.num_fds() for one in family),
                "threads": sum(one.num_threads() for one in family),
            }
        return found

    def _held(self) -> dict:
        """What they hold, and what lies on the disk."""
        home, store = self.prefect.checkout / ".prefect", self.prefect.checkout / "mfpipe-store"
        return self._processes() | {
            "database": sum(path.stat().st_size for path in home.glob("prefect.db*")),
            "logs": sum(path.stat().st_size for path in (home / "logs").iterdir()),
            "prefect files": _files(home),
            "temporary files": _files(self.temporary),
            "store files": _files(store / NAME) + _files(store / ".runs"),
            "decisions": _files(store / ".retrains"),
            "reports": _files(store / "reports"),
            "versions": len([path for path in (store / NAME).iterdir() if path.name.isdigit()]),
        }


class Highest:
    """The most that any one flow run's process has held, from what the kernel has seen."""

    def __init__(self, worker: Callable[[], psutil.Process]):
        self.worker = worker
        self.most = {"rss": 0, "descriptors": 0, "threads": 0}

    def look(self) -> bool:
        """Look at it; whether there is one."""
        children = self.worker().children(recursive=True)
        for child in children:
            try:
                found = {
                    "rss": _peak(child.pid),
                    "descriptors": child.num_fds(),
                    "threads": child.num_threads(),
                }
            except (psutil.Error, OSError):
                continue
            self.most = {key: max(value, found[key]) for key, value in self.most.items()}
        return bool(children)


def _peak(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    return 0


def _files(directory: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(directory))


def table(nights: list[dict]) -> list[tuple[str, float, float, str]]:
    """What, after the warm-up, at the end, and the change; medians of ten nights, but of what piles up.

    A driver is one night's process; its RSS is its peak.
    """
    first, last = nights[WARM_UP : WARM_UP + 10], nights[-10:]

    def row(what: str, figure: Callable[[dict], float], change: str) -> tuple[str, float, float, str]:
        before, after = (statistics.median(figure(night) for night in some) for some in (first, last))
        return what, before, after, change.format(after - before, 100 * (after / before - 1) if before else 0)

    rows = [row("creation to Completed, s", lambda night: night["seconds"], "{:+.1f}")]
    for who in held(nights[0], "driver", "server", "worker", "dask-scheduler", "dask-worker"):
        rows.append(row(f"{who}, RSS, MiB", lambda night, who=who: night[who]["rss"] / 2**20, "{1:+.1f} %"))
        for what in ("descriptors", "threads"):
            rows.append(row(f"{who}, {what}", lambda night, who=who, what=what: night[who][what], "{:+.0f}"))
    files = ("temporary files", "prefect files", "versions", "store files", "decisions", "reports")
    for what in held(nights[0], *files):
        rows.append(row(what, lambda night, what=what: night[what], "{:+.0f}"))
    reach = nights[-1]["night"] - nights[WARM_UP]["night"]
    for what in held(nights[0], "database", "logs"):
        before, after = (night[what] / 2**20 for night in (nights[WARM_UP], nights[-1]))
        rows.append((f"{what}, MiB", before, after, f"{1024 * (after - before) / reach:.0f} KiB a night"))
    return rows


def held(night: dict, *names: str) -> list[str]:
    """Those that were measured: an empty night has neither a driver nor files."""
    return [name for name in names if name in night]


def main() -> None:
    """Run the nights that are missing, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--nights", type=int, default=100, help="in all, with those of earlier calls")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no night after so long")
    parser.add_argument("--leave-up", action="store_true", help="for a later call that goes on")
    parser.add_argument("--empty", action="store_true", help="runs of `true` instead of retrains")
    options = parser.parse_args()
    nights = Nights(options.directory)
    try:
        up = nights.prefect.local("up")
        if up.returncode:
            raise SystemExit(up.stdout + up.stderr)
        until = time.monotonic() + options.seconds
        while len(nights.done()) < options.nights and time.monotonic() < until:
            if options.empty:
                measured = nights.start_nothing(len(nights.done()))
            else:
                measured = nights.retrain(len(nights.prefect.decisions(NAME)))
            with nights.samples.open("a") as file:
                file.write(json.dumps(measured) + "\n")
    finally:
        if not options.leave_up:
            nights.prefect.local("down")
    done = nights.done()
    sets = len({json.dumps(night["pids"]) for night in done})
    print(f"{len(done)} nights, {sets} {'set' if sets == 1 else 'sets'} of lasting processes")
    if len(done) >= WARM_UP + 20:
        for what, before, after, change in table(done):
            print(f"{what:<28}{before:>10.1f}{after:>10.1f}  {change}")


if __name__ == "__main__":
    main()
