"""Runs cases in processes of their own, interleaved, and notes seconds, memory and what they reached."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import psutil

SAMPLE_SECONDS = 0.02
FAILURES = 2
FAMILY_SECONDS = 0.25  # how often new child processes are looked for
MOST_SECONDS = 1800  # of one process, unless a plan says less


@dataclass(frozen=True)
class Case:
    """One system on one set: what is run, repeated and compared.

    `options` are further flags of the system's script. `threads` is the number of cores it may use, and
    where the machine has more, is held to.
    """

    system: str
    set: str
    rank: int
    iterations: int
    threads: int = 2
    regularization: float = 0.05
    options: tuple[tuple[str, str], ...] = ()
    section: str = ""

    def option(self, name: str, otherwise: str = "") -> str:
        return dict(self.options).get(name, otherwise)

    def record(self) -> dict:
        return asdict(self) | {"options": dict(self.options)}


@dataclass
class Observed:
    """What a process printed, when, and how much memory its tree had."""

    seconds: float
    returncode: int
    lines: list[tuple[float, str]]
    memory: list[tuple[float, int]]
    tail: str
    timed_out: bool = False
    events: dict[str, tuple[float, dict]] = field(default_factory=dict)

    def __post_init__(self):
        for at, line in self.lines:
            if line.startswith('{"event"'):
                said = json.loads(line)
                self.events[said.pop("event")] = (at, said)

    @property
    def failure(self) -> str | None:
        """Why the process came to nothing; None if it did not."""
        if self.timed_out:
            return f"stopped after {self.seconds:.0f} s without an end"
        if self.returncode:
            last = [line for line in self.tail.strip().splitlines() if line.strip()][-1:]
            return f"exit code {self.returncode}: {last[0].strip()[:300] if last else 'no message'}"
        return None

    def at(self, event: str) -> float:
        return self.events[event][0]

    def memory_at(self, moment: float) -> int:
        """Resident bytes of the whole tree at the last sample before a moment."""
        return max((m for m in self.memory if m[0] <= moment), default=(0, 0))[1]

    def peak(self, start: float, stop: float) -> int:
        """The most resident bytes of the whole tree between two moments."""
        between = [size for at, size in self.memory if start <= at <= stop]
        return max([*between, self.memory_at(start), self.memory_at(stop)])


def observe(
    command: Sequence[str | Path],
    cores: int | None = None,
    env: dict[str, str] | None = None,
    most_seconds: float = MOST_SECONDS,
    cwd: Path | None = None,
) -> Observed:
    """Run a command to its end, with its output and its tree's memory over time.

    Parameters
    ----------
    command : sequence of str
    cores : int, optional
        Hold the process to so many cores.
    env : dict, optional
        Added to the environment.
    most_seconds : float
        After which it is stopped.
    cwd : Path, optional
    """
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

    def hold() -> None:
        if cores and allowed:
            os.sched_setaffinity(0, allowed[:cores])

    lines: list[tuple[float, str]] = []
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            [sys.executable, "-S", "-c", STAMP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as stamp,
    ):
        assert stamp.stdin is not None
        assert stamp.stdout is not None
        stamp.stdout.readline()  # it is ready
        began = time.perf_counter()
        process = psutil.Popen(
            [str(word) for word in command],
            stdout=stamp.stdin,
            stderr=errors,
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | (env or {}),
            preexec_fn=hold,
            cwd=cwd,
        )
        stamp.stdin.close()
        reader = threading.Thread(target=_read, args=(stamp.stdout, lines, began))
        reader.start()
        memory, seconds = _watch(process, began, most_seconds)
        reader.join()
        errors.seek(0)
        tail = errors.read()[-2000:]
    return Observed(seconds, process.returncode, lines, memory, tail, seconds > most_seconds)


# A process of its own notes when a line arrives: here it would wait for whoever holds the interpreter.
STAMP = """import sys, time
print(flush=True)
sys.stdin.reconfigure(errors="replace")
for line in iter(sys.stdin.readline, ""):
    print(time.perf_counter(), line, end="" if line.endswith("\\n") else "\\n", flush=True)
"""


def _read(stream, lines: list[tuple[float, str]], began: float) -> None:
    for line in stream:
        at, _, text = line.rstrip("\n").partition(" ")
        lines.append((float(at) - began, text))


def _watch(process, began: float, most_seconds: float) -> tuple[list[tuple[float, int]], float]:
    """Sample the tree's resident memory until it ends, or is stopped for taking too long; its seconds."""
    memory: list[tuple[float, int]] = []
    family: list[psutil.Process] = [process]
    ended = threading.Event()
    finished = [0.0]

    def wait() -> None:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        finished[0] = time.perf_counter() - began
        ended.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    looked = 0.0
    while not ended.wait(SAMPLE_SECONDS):
        now = time.perf_counter() - began
        try:
            if now - looked > FAMILY_SECONDS:
                family, looked = [process, *process.children(recursive=True)], now
            memory.append((now, sum(map(_resident, family))))
            if now > most_seconds:
                for each in family[::-1]:
                    each.kill()
                break
        except psutil.NoSuchProcess:
            pass
    waiter.join()
    process.wait()
    return memory, finished[0]


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0


def run(
    case: Case,
    command: Sequence[str | Path],
    env: dict[str, str] | None = None,
    most_seconds: float = MOST_SECONDS,
) -> dict:
    """One run of a case: `seconds` of each iteration after the first, memory in bytes, and what it said.

    Returns
    -------
    dict
        `failed` with the reason, or `seconds`, `first` (of the first iteration), `prepare` (with
        the start, where that is said), `fit` and `whole` seconds, `peak` (most memory in the fit, above
        the loaded ratings), `peak_in_fit` (above what there was when all was prepared), `reached`, `said`.
    """
    seen = observe(command, case.threads, env, most_seconds)
    if seen.failure is not None:
        return {"failed": seen.failure}
    if "result" not in seen.events:
        return {"failed": "ended without a result"}
    said = seen.events["result"][1]
    loaded, prepared, fitted = (seen.at(name) for name in ("loaded", "prepared", "fitted"))
    seconds = said.pop("seconds")
    first = seconds[0] if len(seconds) > 1 else None
    lines = said.pop("iteration_line", "")
    return {
        "seconds": seconds[1:] or seconds or _between_lines(seen, lines),
        "first": first,
        "prepare": prepared - loaded + said.get("start", 0.0),
        "fit": fitted - prepared,
        "whole": seen.seconds,
        "peak": seen.peak(loaded, fitted) - seen.memory_at(loaded),
        "peak_in_fit": seen.peak(prepared, fitted) - seen.memory_at(prepared),
        "reached": said.pop("reached", []),
        "said": said,
    }


def _between_lines(seen: Observed, pattern: str) -> list[float]:
    """Seconds of an iteration on average, from the lines that a package prints once an iteration.

    A line may be noted some milliseconds late, where all cores are busy; of the first and the last that is
    little of the whole.
    """
    if not pattern or "fitting" not in seen.events:
        return []
    at = [when for when, line in seen.lines if when >= seen.at("fitting") and re.search(pattern, line)]
    return [(at[-1] - at[0]) / (len(at) - 1)] if len(at) > 1 else []


def interleave(
    cases: Iterable[Case],
    run_one: Callable[[Case, int], dict],
    repeats: int,
    most_seconds: float,
    say: Callable[[str], None],
) -> list[dict]:
    """Run cases in turn, A B C A B C …, so that a machine that slows down slows all alike.

    Parameters
    ----------
    cases : iterable of Case
    run_one : (case, repeat) → dict
        See `run`.
    repeats : int
    most_seconds : float
        A case that has taken more in all is not repeated again.
    say : callable
        Told of each run.

    Returns
    -------
    list of dict
        For each case its record and its runs' medians, see `summed`; `failures` says why runs came to
        nothing, and `failed` that none came to anything. After two failures a case is not run again.
    """
    cases = list(cases)
    rows = [case.record() | {"runs": [], "failures": []} for case in cases]
    spent = [0.0] * len(rows)
    for repeat in range(repeats):
        for at, case in enumerate(cases):
            if len(rows[at]["failures"]) == FAILURES or (repeat and spent[at] > most_seconds):
                continue
            began = time.perf_counter()
            made = run_one(case, repeat)
            spent[at] += time.perf_counter() - began
            if "failed" in made:
                rows[at]["failures"].append(made["failed"])
            else:
                rows[at]["runs"].append(made)
            say(_in_words(case, made, repeat))
    return [summed(row) for row in rows]


def _in_words(case: Case, made: dict, repeat: int) -> str:
    name = " ".join([case.system, case.set, f"rank {case.rank}", *(value for _, value in case.options)])
    if "failed" in made:
        return f"{name}: {made['failed']}"
    return f"{name}, run {repeat + 1}: {spread(made['seconds'])} s an iteration, whole {made['whole']:.1f} s"


def summed(row: dict) -> dict:
    """A row's runs as medians with their smallest and largest."""
    runs = row.pop("runs")
    if not runs:
        return row | {"failed": row["failures"][0]}
    seconds = [second for run in runs for second in run["seconds"]]
    keep = {"seconds": three(seconds), "repeats": len(runs), "said": runs[0]["said"]}
    for name in ("first", "prepare", "fit", "whole", "peak", "peak_in_fit"):
        keep[name] = three([run[name] for run in runs if run[name] is not None])
    for name in ("quality", "reached"):
        found = [run[name] for run in runs if run.get(name)]
        keep[name] = found[0] if found else None
    return row | keep


def three(values: Sequence[float]) -> dict | None:
    """Median, smallest, largest and number of values; None of none."""
    if not values:
        return None
    return {
        "median": float(np.median(values)),
        "min": float(min(values)),
        "max": float(max(values)),
        "n": len(values),
    }


def spread(values: Sequence[float]) -> str:
    """A median with its smallest and largest, for people."""
    found = three(values)
    return "–" if found is None else f"{found['median']:.4g} ({found['min']:.4g} to {found['max']:.4g})"
