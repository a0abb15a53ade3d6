"""What became of every retrain of a model: published, kept or refused, with the figures.

    STORE/.retrains/NAME/.lock              held by the retrain that is running
    STORE/.retrains/NAME/WHEN-RUN.json      one decision, written once, with a checksum of its own

A refused challenger is a record, not a version: a version is something to serve or to roll back to, and
refusals come back every night until somebody acts, each with factors nobody may use. The record has the
parameters, the start and the sha256 of the ratings, from which the same challenger can be made again.
"""

from __future__ import annotations

import json
import logging
import re
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mfpipe import files
from mfpipe.errors import StoreError
from mfpipe.sealed import checksum, json_bytes
from mfpipe.store import Store

log = logging.getLogger(__name__)

DIRECTORY = ".retrains"
_RECORD = re.compile(r"[0-9]{8}T[0-9]{12}Z-[A-Za-z0-9._-]+\.json", re.ASCII)


def home(store: Store, name: str) -> Path:
    """Where the decisions about a model are kept; made if need be."""
    path = store.path / DIRECTORY / name
    try:
        files.make_directory(path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror or error})") from error
    return path


def write(store: Store, decision: dict[str, Any]) -> Path:
    """Record a decision; StoreError where the disk does not take it."""
    when = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    path = home(store, decision["name"]) / f"{when}-{decision['run']}.json"
    try:
        files.replace(path, json_bytes(decision | {"checksum": checksum(decision)}))
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror or error})") from error
    return path


def history(store: Store, name: str) -> list[dict[str, Any]]:
    """What became of a model, oldest first: its retrains, and the versions that were trained by hand.

    Returns
    -------
    list of dict
        `when, decision, version, champion, model, rmse, champion_rmse, words, forced, run`; figures are of
        the held-out rows, and None where there are none.
    """
    rows = [row_of(decision) for decision in _records(store, name)]
    told = {row["version"] for row in rows}
    for number in store.numbers(name):
        if number not in told:
            with suppress(StoreError):  # `models verify` says what is damaged
                rows.append(row_of_version(store.version(name, number).manifest))
    if not rows:
        store.version(name)  # says that there is no such model, or what is missing
    return sorted(rows, key=lambda row: row["when"])


def overtaken(store: Store, name: str, due: datetime | None, run: str | None) -> str | None:
    """Why a scheduled retrain is not needed any more: another one began after it was due and has ended.

    After an outage this leaves one of the nights that were missed. None where it is needed, and for one
    that no schedule asked for (`due` is None).
    """
    if due is None:
        return None
    for decision in reversed(_records(store, name)):
        if decision["run"] != run and datetime.fromisoformat(decision["when"]) > due:
            was_due = due.strftime("%Y-%m-%d %H:%M UTC")
            return f"{name} was retrained at {decision['when']}, after this run was due ({was_due})"
    return None


def _records(store: Store, name: str) -> list[dict[str, Any]]:
    found = []
    for path in record_files(store, name):
        try:
            found.append(read(path))
        except StoreError as error:
            log.warning("%s; left out of the history", error)
    return found


def record_files(store: Store, name: str) -> list[Path]:
    """Where the decisions about a model's retrains are, oldest first."""
    directory = store.path / DIRECTORY / name
    paths = sorted(directory.iterdir()) if directory.is_dir() else []
    return [path for path in paths if _RECORD.fullmatch(path.name)]


def read(path: Path) -> dict[str, Any]:
    """One decision, as it was written; StoreError if it is damaged."""
    try:
        decision = json.loads(files.read(path))
        intact = decision.pop("checksum") == checksum(decision)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        intact = False
    if not intact:
        raise StoreError(f"{path}: damaged")
    return decision


def row_of(decision: dict[str, Any]) -> dict[str, Any]:
    """A decision as a row of the history."""
    systems = (decision["gate"] or {}).get("systems", {})
    return {
        "when": decision["when"],
        "decision": decision["decision"],
        "version": decision["version"],
        "champion": decision["champion"],
        "model": decision["model"],
        "rmse": systems.get("challenger", {}).get("rmse"),
        "champion_rmse": systems.get("champion", {}).get("rmse"),
        "words": decision["words"],
        "forced": decision["forced"],
        "run": decision["run"],
    }


def row_of_version(manifest: dict[str, Any]) -> dict[str, Any]:
    """A version that no record of a decision tells of, as a row of the history."""
    decision = manifest.get("retrain")
    if decision and not decision.get("evaluated_only"):
        return row_of(decision) | {"version": manifest["version"]}
    what = "evaluated" if decision else "trained"
    words = "the model that a refitted version was judged by" if decision else "by hand, without a gate"
    keys = ("champion", "champion_rmse", "run")
    return dict.fromkeys(keys) | {
        "when": manifest["created"],
        "decision": what,
        "version": manifest["version"],
        "model": manifest["model"],
        "rmse": manifest["test_rmse"],
        "words": words,
        "forced": False,
        "run": manifest.get("run"),
    }
