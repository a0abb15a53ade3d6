"""What a run was asked to do, as JSON, and whether what it was given is still the same."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import mfpipe
from mfpipe import sources
from mfpipe.dataset import is_dataset
from mfpipe.errors import RatingsError
from mfpipe.models import Model


def order_of(data, model: Model, name: str, place, make_current: bool, checkpoints, sums: dict) -> dict:
    """All that doing it again takes.

    Parameters
    ----------
    data : mfpipe.job.Data
    model : Model
    name : str
    place : mfpipe.job.Place
    make_current : bool
    checkpoints : mfpipe.runs.Checkpoints
    sums : dict
        sha256 of the `ratings` trained on and of the `test` records.
    """
    order = {
        "name": name,
        "model": model.name,
        "params": model.params,
        "data": dataclasses.asdict(data),
        "directory": os.getcwd(),
        "place": dataclasses.asdict(place),
        "make_current": make_current,
        "checkpoints": dataclasses.asdict(checkpoints),
        "sha256": sums,
        "files": _stamps(data.inputs) | _stamps(data.test),
        "machine": machine(),
    }
    return json.loads(json.dumps(order, default=str))


def machine() -> dict[str, str]:
    """What the last bits of a fit depend on besides its input."""
    from llvmlite.binding import get_host_cpu_name

    return {
        "mfpipe": mfpipe.__version__,
        "python": platform.python_version(),
        "numpy": installed("numpy"),
        "numba": installed("numba"),
        "cpu": get_host_cpu_name(),
    }


def other_machine(order: dict[str, Any]) -> str | None:
    """In which way this is not the machine that began; None if it is."""
    now = machine()
    changed = [
        f"{key} {was} then, {now[key]} now" for key, was in order["machine"].items() if now[key] != was
    ]
    if not changed:
        return None
    return f"resumed elsewhere ({'; '.join(changed)}): the last digits may differ from an undisturbed run's"


def require_unchanged(order: dict[str, Any], sums: dict[str, str]) -> None:
    """RatingsError, naming what changed, unless the ratings are those that the run began with."""
    changed = [what for what, was in order["sha256"].items() if sums[what] != was]
    if not changed:
        return
    touched = [path for path, was in order["files"].items() if _touched(path, was)]
    raise RatingsError(
        f"the {' and the '.join(changed)} changed since run {order['run']} began"
        + (f" (changed files: {', '.join(touched)})" if touched else "")
        + "; restore them and resume, or train again"
    )


def _stamps(inputs: Sequence[str | Path]) -> dict[str, list[int]]:
    """Size and time of change of every file that is meant."""
    files = [Path(inputs[0]) / "dataset.json"] if is_dataset(inputs) else sources.find(inputs)
    return {str(path.absolute()): _stamp(path) for path in files}


def _stamp(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _touched(path: str, was: list[int]) -> bool:
    return not os.path.exists(path) or _stamp(Path(path)) != was
