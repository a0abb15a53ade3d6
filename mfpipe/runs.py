"""Runs: what a fit was asked to do, and checkpoints to go on from if it is interrupted.

    STORE/.runs/RUN/run.json            the order: data and its checksums, model, place, name; written once
    STORE/.runs/RUN/checkpoint-N/       both sides' factors and the history after iteration N
    STORE/.runs/RUN/.lock               held by the process that fits; freed when it ends, however it does

A checkpoint is sealed as a version of the store is: it is complete, or not there; the one before stays
until the next. A run that is published, or cannot be finished, is deleted as a whole.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mfpipe import files
from mfpipe.errors import MfpipeError, NumericError, ParameterError, StoreError
from mfpipe.fit import Momentum, State
from mfpipe.models.base import SIDES, Factors
from mfpipe.sealed import Sealed, checksum, json_bytes, seal

log = logging.getLogger(__name__)

FORMAT = 1
DIRECTORY = ".runs"
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}", re.ASCII)
_CHECKPOINT = re.compile("checkpoint-([0-9]{1,9})", re.ASCII)
KEPT = 2  # checkpoints: the last, and the one before in case the last gets damaged
QUICK_SECONDS = 4.0


@dataclass(frozen=True)
class Checkpoints:
    """How often a fit is written down.

    Parameters
    ----------
    seconds : float
        At most this long after the one before; 0 for none at all.
    iterations : int, optional
        Every so many iterations instead.
    """

    seconds: float = 60.0
    iterations: int | None = None

    def __post_init__(self):
        if not 0 <= self.seconds < float("inf"):
            raise ParameterError(f"--checkpoint-seconds {self.seconds}: must be a finite number, 0 or more")
        if self.iterations is not None and self.iterations < 1:
            raise ParameterError(f"--checkpoint-iterations {self.iterations}: must be 1 or more")

    @property
    def wanted(self) -> bool:
        return self.iterations is not None or self.seconds > 0

    def __str__(self) -> str:
        if self.iterations:
            return f"every {self.iterations} iterations"
        return f"every {self.seconds:g} s"


class Run:
    """A run that this process holds.

    Parameters
    ----------
    path : Path
    order : dict
        What `run.json` says.
    """

    def __init__(self, path: Path, order: dict[str, Any]):
        self.path, self.order = path, order
        self.checkpoints = Checkpoints(**order["checkpoints"])
        self._last: State | None = None
        self._written = -1
        self._took = 0.0
        self._due = time.monotonic() + self.checkpoints.seconds

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def command(self) -> str:
        """What goes on with it."""
        return f"mfpipe resume {self.id} --store {shlex.quote(str(self.path.parent.parent))}"

    def keep(self, state: State) -> None:
        """Take note of a state, and write it if it is time."""
        self._last = state
        every = self.checkpoints.iterations
        if state.iteration % every == 0 if every else time.monotonic() >= self._due:
            self.write()
            self._due = time.monotonic() + self.checkpoints.seconds

    def write(self) -> None:
        """Write the last state; a disk that cannot take it is warned about, and the fit goes on."""
        state = self._last
        if state is None or state.iteration == self._written:
            return
        began = time.monotonic()
        try:
            files.remove(self.path / ".writing")
            target = self.path / f"checkpoint-{state.iteration}"
            seal(self.path / ".writing", target, *_described(state), compression="none")
            self._written = state.iteration
            for number in _numbers(self.path)[:-KEPT]:
                files.remove(self.path / f"checkpoint-{number}")
        except OSError as error:
            reason = error.strerror or error
            log.warning("%s: no checkpoint of iteration %d (%s)", self.path, state.iteration, reason)
        self._took = time.monotonic() - began
        log.debug("checkpoint of iteration %d: %.3f s", state.iteration, self._took)

    def write_if_quick(self) -> None:
        """Write the last state on the way out, unless the one before took longer than one may wait then."""
        if self._took < QUICK_SECONDS:
            self.write()

    def state(self) -> State | None:
        """The last checkpoint that is intact; None to begin from the start, which ends the same."""
        for number in reversed(_numbers(self.path)):
            path = self.path / f"checkpoint-{number}"
            try:
                state = _read_state(path)
            except StoreError as error:
                log.warning("%s; going on from what was before it", error)
                files.remove(path)
                continue
            self._last, self._written = state, number
            return state
        return None

    def delete(self) -> None:
        """Delete the run with all its checkpoints."""
        _delete(self.path)


def _described(state: State) -> tuple[dict[str, Any], dict[str, Any]]:
    """A state as the contents of a checkpoint, and what its manifest says of it."""
    sides = dict(zip(SIDES, state.factors, strict=True))
    if state.momentum.users is not None:
        sides["user_before"] = state.momentum.users
    contents: dict[str, Any] = {f"{side}.parquet": _rows_table(rows) for side, rows in sides.items()}
    contents["history.json"] = {"history": state.history, "objectives": state.objectives}
    about = {
        "iteration": state.iteration,
        "objective": state.history[-1]["objective"],
        "written": _now(),
        "seconds": state.seconds,
        "penalty": state.penalty,
        "t": state.momentum.t,
        "rows": {side: {"shape": list(rows.shape), "dtype": rows.dtype.name} for side, rows in sides.items()},
    }
    return contents, about


def _rows_table(rows: np.ndarray) -> pa.Table:
    """Rows as they lie in memory: one column of their bytes, made without a copy."""
    rows = np.ascontiguousarray(rows)
    width = pa.binary(rows.shape[1] * rows.itemsize)
    return pa.table({"row": pa.Array.from_buffers(width, len(rows), [None, pa.py_buffer(rows)])})


def _read_state(path: Path) -> State:
    sealed = Sealed(path)
    about = sealed.manifest
    found = {}
    for side, kind in about["rows"].items():
        column = sealed.table(f"{side}.parquet")["row"].combine_chunks()
        found[side] = np.frombuffer(column.buffers()[1], kind["dtype"]).reshape(kind["shape"])
    kept = sealed.json("history.json")
    factors, momentum = Factors(found["user"], found["item"]), Momentum(found.get("user_before"), about["t"])
    history, objectives = kept["history"], kept["objectives"]
    return State(factors, about["penalty"], history, objectives, about["seconds"], momentum)


def _numbers(path: Path) -> list[int]:
    return sorted(int(match[1]) for name in os.listdir(path) if (match := _CHECKPOINT.fullmatch(name)))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def started(store: Path, order: dict[str, Any], run: str | None = None) -> Iterator[Run]:
    """A new run of a store, held while the block runs, and deleted when it succeeds.

    An exception leaves it to be resumed, and says how in a note, unless the same would happen again.

    Parameters
    ----------
    store : Path
    order : dict
        What is needed to do it again: `name`, `checkpoints` and whatever the caller needs; JSON values.
    run : str, optional
        Its id, if that is not taken; by default made from the name.
    """
    runs = store / DIRECTORY
    if run is not None and not _RUN.fullmatch(run):
        raise ParameterError(f"run {run[:120]!r}: must be letters, digits, dots, dashes and underscores")
    if run is None or (runs / run).exists():
        run = f"{order['name']}-{secrets.token_hex(3)}"
    order = {"format": FORMAT, "run": run, "started": _now(), "pid": os.getpid(), **order}
    with ExitStack() as held:
        try:
            files.make_directory(runs)
            with files.locked(runs / ".lock"):
                _clean(runs)
                files.make_directory(runs / run)
                held.enter_context(files.locked(runs / run / ".lock", wait=False))
                files.replace(runs / run / "run.json", json_bytes(order | {"checksum": checksum(order)}))
        except OSError as error:
            with suppress(OSError):
                files.remove(runs / run)
            raise StoreError(f"{runs}: cannot be written ({error.strerror or error})") from error
        yield held.enter_context(_until_done(Run(runs / run, order), NumericError, ParameterError))


@contextmanager
def reopened(store: Path, run: str) -> Iterator[Run]:
    """An interrupted run, held and then deleted or left as by `started`.

    Raises
    ------
    StoreError
        There is no such run, it is damaged, or a process is still at it.
    """
    path = _path(store, run)
    with ExitStack() as held:
        try:
            held.enter_context(files.locked(path / ".lock", wait=False))
        except BlockingIOError:
            raise StoreError(
                f"{run}: is still running (process {_order(path)['pid']}); stop it first"
            ) from None
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}") from error
        yield held.enter_context(_until_done(Run(path, _order(path)), NumericError))


@contextmanager
def _until_done(run: Run, *hopeless: type[MfpipeError]) -> Iterator[Run]:
    """Delete the run at the end, or where what was raised would be raised again; else leave it."""
    try:
        yield run
    except hopeless:
        run.delete()
        raise
    except BaseException as error:
        error.add_note(f"go on with: {run.command}")
        run.write_if_quick()
        raise
    run.delete()


def interrupted_like(store: Path, order: dict[str, Any], same: tuple[str, ...]) -> str | None:
    """The interrupted run of this name whose order agrees in the keys `same`.

    Others that have all of these keys are deleted: what they were to do has been overtaken. Only for who
    holds a lock under which no other such run of the name can be running.
    """
    found = None
    for each in listed(store):
        if each["name"] != order["name"] or each["state"] != "interrupted":
            continue
        held = _order(_path(store, each["run"]))
        if not all(key in held for key in same):
            continue
        if found is None and all(held[key] == order[key] for key in same):
            found = each["run"]
        else:
            log.info("run %s: overtaken by another order; removed", each["run"])
            remove(store, each["run"])
    return found


def order_held(store: Path, run: str) -> dict[str, Any]:
    """What a run was asked to do."""
    return _order(_path(store, run))


def remove(store: Path, run: str) -> None:
    """Delete a run that nobody will resume."""
    path = _path(store, run)
    if files.is_locked(path / ".lock"):
        raise _still_running(path)
    _delete(path)


def _still_running(path: Path) -> StoreError:
    return StoreError(f"{path.name}: is still running (process {_order(path)['pid']}); stop it first")


def _warn(error: StoreError) -> None:
    log.warning("%s", error)


def listed(store: Path, complain: Callable[[StoreError], Any] = _warn) -> list[dict[str, Any]]:
    """Every run that is running or was interrupted: what it is, and how far it is.

    `complain` is told of those that are damaged, which are left out.
    """
    directory = store / DIRECTORY
    names = sorted(os.listdir(directory)) if directory.is_dir() else []
    found = []
    for name in names:
        path = directory / name
        if not _RUN.fullmatch(name) or not (path / "run.json").exists():
            continue
        try:
            order = _order(path)
            reached = _reached(path)
        except StoreError as error:
            complain(error)
            continue
        state = "running" if files.is_locked(path / ".lock") else "interrupted"
        keys = ("run", "name", "model", "started", "pid")
        found.append({key: order[key] for key in keys} | {"state": state, **reached})
    return found


def _reached(path: Path) -> dict[str, Any]:
    for number in reversed(_numbers(path)):
        with suppress(FileNotFoundError, StoreError):
            manifest = Sealed(path / f"checkpoint-{number}").manifest
            return {key: manifest[key] for key in ("iteration", "objective", "written")}
    return {"iteration": 0, "objective": None, "written": None}


def _path(store: Path, run: str) -> Path:
    if not _RUN.fullmatch(run):
        raise ParameterError(f"run {run[:120]!r}: not the id of a run; `mfpipe runs` lists them")
    path = store / DIRECTORY / run
    if path.is_symlink() or not (path / "run.json").is_file():
        known = ", ".join(each["run"] for each in listed(store)) or "none"
        raise StoreError(f"{run}: no such run in {store}; it may have been published (runs: {known})")
    return path


def _order(path: Path) -> dict[str, Any]:
    file = path / "run.json"
    try:
        order = json.loads(files.read(file))
        claimed, version = order.pop("checksum"), int(order["format"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"{file}: damaged ({error}); the run cannot be resumed") from error
    if version > FORMAT:
        raise StoreError(f"{file}: format {version} is newer than this mfpipe reads; upgrade")
    if claimed != checksum(order):
        raise StoreError(f"{file}: damaged; the run cannot be resumed")
    return order


def _delete(path: Path) -> None:
    """Out of sight in one step, then gone; what a killed process leaves of it the next run deletes."""
    aside = path.with_name(f".finished-{path.name}")
    try:
        files.rename_new(path, aside)
        files.remove(aside)
    except OSError as error:
        log.warning("%s: cannot be deleted (%s)", path, error.strerror or error)


def _clean(runs: Path) -> None:
    """Delete what killed processes left; only under the lock under which runs are made."""
    for path in sorted(runs.iterdir()):
        if path.name.startswith(".finished-") or (path.is_dir() and not (path / "run.json").exists()):
            files.remove(path)
