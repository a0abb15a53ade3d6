"""What a store holds, read for the pages of its history: manifests and decisions, never factors.

Versions and decisions are written once, so each is read once and kept for as long as its file is the same;
of a manifest only the few figures that pages show are kept.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mfpipe import decisions, files, runs
from mfpipe.errors import StoreError
from mfpipe.sealed import MANIFEST
from mfpipe.store import Store

LOOK_SECONDS = 0.5  # between two looks at the store, however many ask
_DATA = ("n_ratings", "n_users", "n_items", "global_mean", "spread")


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """A version as the pages show it; `problem` says why there is nothing else to show.

    Figures are those of the manifest: RMSE in stars, seconds by stage; None where it has none.
    """

    name: str
    number: str
    problem: str | None = None
    created: datetime | None = None
    model: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    test_rmse: float | None = None
    train_rmse: float | None = None
    objective: float | None = None
    n_iter: int | None = None
    converged: bool | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    decision: dict[str, Any] | None = None

    @property
    def label(self) -> str:
        """What names it on a command line."""
        return f"{self.name}@{self.number}"

    @property
    def fit_seconds(self) -> float | None:
        """Seconds that the iterations took."""
        return self.seconds.get("fit")

    @property
    def all_seconds(self) -> float | None:
        """Seconds of every stage that had been timed when it was stored."""
        if not self.seconds:
            return None
        return self.seconds.get("total", sum(self.seconds.values()))


class StoredModel(NamedTuple):
    """A name of the store: its versions and decisions, oldest first."""

    name: str
    current: str | None
    versions: list[StoredVersion]
    decisions: list[dict[str, Any]]
    retraining: bool
    problems: list[str]

    def intact(self) -> list[StoredVersion]:
        """The versions whose manifests could be read."""
        return [version for version in self.versions if version.problem is None]

    def judged(self, by: str) -> list[dict[str, Any]]:
        """The decisions that have `drift`, or the `difference` of RMSE that the gate measured."""
        return [row for row in self.decisions if row.get(by)]

    def version(self, number: str | None) -> StoredVersion | None:
        """One of its versions, whether or not it could be read."""
        return next((version for version in self.versions if version.number == number), None)


class Snapshot(NamedTuple):
    """A store at one moment; `state` is the same text for as long as nothing that is shown changes."""

    models: dict[str, StoredModel]
    runs: list[dict[str, Any]]
    problems: list[str]
    state: str


class History:
    """A store, looked at again and again.

    Parameters
    ----------
    store : Store
        May be missing or empty.
    """

    def __init__(self, store: Store):
        self.store = store
        self._lock = threading.Lock()
        self._kept: dict[Path, tuple[Any, Any]] = {}
        self._snapshot: Snapshot | None = None
        self._looked = 0.0

    def look(self) -> Snapshot:
        """The store as it is now, or was `LOOK_SECONDS` ago."""
        with self._lock:
            if self._snapshot is None or time.monotonic() - self._looked > LOOK_SECONDS:
                self._snapshot = self._look()
                self._looked = time.monotonic()
            return self._snapshot

    def _look(self) -> Snapshot:
        fresh: dict[Path, tuple[Any, Any]] = {}
        damaged: list[str] = []
        try:
            models = {name: self._model(name, fresh) for name in self._names()}
            running = runs.listed(self.store.path, lambda error: damaged.append(str(error)))
        except OSError as error:
            where = error.filename or self.store.path
            raise StoreError(f"{where}: cannot be read ({error.strerror or error})") from error
        self._kept = fresh  # what is gone from the store is gone from here
        seen = [
            running,
            damaged,
            sorted((str(path), signature) for path, (signature, _) in fresh.items()),
            [(m.name, m.current, m.retraining, m.problems, len(m.versions)) for m in models.values()],
        ]
        return Snapshot(models, running, damaged, hashlib.sha256(repr(seen).encode()).hexdigest()[:16])

    def _names(self) -> list[str]:
        """Models with versions, and those of which every challenger so far was refused."""
        retrained = self.store.path / decisions.DIRECTORY
        others = Store(retrained).names()
        return sorted({*self.store.names(), *others})

    def _model(self, name: str, fresh: dict) -> StoredModel:
        home, problems = self.store.path / name, []
        numbers = self.store.numbers(name)
        versions = [
            self._once(home / number / MANIFEST, partial(self._version, name, number), fresh)
            for number in numbers
        ]
        current = None
        try:
            current = self.store.current(name)
            if current and current not in numbers:
                problems.append(f"{home / 'current'}: names version {current}, which is not there")
        except StoreError as error:
            problems.append(str(error))
        told = []
        for path in decisions.record_files(self.store, name):
            try:
                told.append(self._once(path, _decision, fresh))
            except StoreError as error:
                problems.append(f"{error}; left out")
            except (KeyError, TypeError, AttributeError) as error:
                problems.append(f"{path}: not a decision that this mfpipe reads ({error!r:.200}); left out")
        by_record = {row["version"] for row in told}
        told += [v.decision for v in versions if v.decision and v.number not in by_record]
        retraining = files.is_locked(self.store.path / decisions.DIRECTORY / name / ".lock")
        return StoredModel(
            name, current, versions, sorted(told, key=lambda row: row["when"]), retraining, problems
        )

    def _once(self, path: Path, read: Callable[[Path], Any], fresh: dict) -> Any:
        """What `read` makes of a file, kept until the file is another one."""
        try:
            found = os.stat(path, follow_symlinks=False)
            signature: tuple = (found.st_mtime_ns, found.st_size, found.st_ino)
        except OSError as error:
            signature = (error.errno,)
        kept = self._kept.get(path)
        fresh[path] = kept if kept and kept[0] == signature else (signature, read(path))
        return fresh[path][1]

    def _version(self, name: str, number: str, _: Path) -> StoredVersion:
        try:
            return _shown(self.store.version(name, number))
        except StoreError as error:
            return StoredVersion(name, number, str(error))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problem = f"{name}@{number}: its manifest is not one that this mfpipe reads ({error!r:.200})"
            return StoredVersion(name, number, problem)


def _shown(version) -> StoredVersion:
    manifest = version.manifest
    data = manifest["data"]
    seconds = manifest.get("timings")
    if seconds is None and "timings.json" in manifest["files"]:  # stored before manifests had them
        seconds = version.json("timings.json")["stages"]
    return StoredVersion(
        version.name,
        version.number,
        created=datetime.fromisoformat(manifest["created"]).astimezone(UTC),
        model=manifest["model"],
        params=manifest["params"],
        seconds=seconds or {},
        data={key: data.get(key) for key in _DATA},
        warnings=tuple(manifest.get("warnings", ())),
        decision=decisions.row_of_version({"test_rmse": None, **manifest}),
        **{key: manifest.get(key) for key in ("test_rmse", "train_rmse", "objective", "n_iter", "converged")},
    )


def _decision(path: Path) -> dict[str, Any]:
    """A decision's row, with how far the data had drifted and what the gate measured."""
    decision = decisions.read(path)
    gate = decision["gate"] or {}
    return decisions.row_of(decision) | {
        "drift": decision["drift"],
        "limits": decision["options"]["limits"],
        "difference": gate.get("difference"),
    }
