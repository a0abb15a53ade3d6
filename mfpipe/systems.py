"""The systems of a comparison, from a TOML file: a label, a model and its parameters each.

[[system]]
label = "Q3 (λ=0.1, K=3)"
model = "biased-als"
regularization = 0.1
rank = 3
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mfpipe.errors import ParameterError
from mfpipe.models import MODELS, Model
from mfpipe.models.base import flag

LABEL_LENGTH = 60


def read_systems(path: Path | str, shared: Mapping[str, Any] | None = None) -> dict[str, Model]:
    """The models of a file by their labels, in its order.

    Parameters
    ----------
    path : path
    shared : mapping, optional
        Parameters for every system that has them and does not set them itself.

    Returns
    -------
    dict of str to Model
        A system without a label has its model's name for one.

    Raises
    ------
    ParameterError
        The file cannot be read, or something in it is not what it may be; names the file, the system by
        its number from 1, the key and the value.
    """
    systems: dict[str, Model] = {}
    shared = dict(shared or {})
    used: set[str] = set()
    for number, entry in enumerate(_entries(path), 1):
        place = f"{path}, system {number}"
        label, model = _system(place, entry, shared)
        if label in systems:
            first = list(systems).index(label) + 1
            raise ParameterError(
                f"{place}: label = {label!r} is that of system {first}; give each a label of its own"
            )
        systems[label] = model
        used |= shared.keys() & _names(type(model)).keys()
    for key in shared.keys() - used:
        raise ParameterError(f"{flag(key)}: not a parameter of any system in {path}")
    return systems


def _entries(path: Path | str) -> list[dict]:
    try:
        with Path(path).open("rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise ParameterError(f"--systems {path}: cannot be read ({error.strerror or error})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ParameterError(f"--systems {path}: not a TOML file ({error})") from error
    for key in document:
        if key != "system":
            raise ParameterError(f"{path}: {key} = {document[key]!r}: only [[system]] tables are known")
    entries = document.get("system", [])
    if not isinstance(entries, list) or not entries or not all(isinstance(one, dict) for one in entries):
        raise ParameterError(f"{path}: holds no [[system]] tables; give one for each system")
    return entries


def _system(place: str, entry: dict, shared: dict[str, Any]) -> tuple[str, Model]:
    """Label and model of one table."""
    name = entry.get("model")
    if not isinstance(name, str) or name not in MODELS:
        raise ParameterError(f"{place}: model = {name!r}: must be one of {', '.join(MODELS)}")
    label = entry.get("label", name)
    if not isinstance(label, str) or not label.isprintable() or not 0 < len(label.strip()) <= LABEL_LENGTH:
        raise ParameterError(
            f"{place}: label = {label!r}: must be a text of 1 to {LABEL_LENGTH} printable characters"
        )
    fields = _names(MODELS[name])
    params = {key: value for key, value in shared.items() if key in fields}
    for key, value in entry.items():
        if key in ("model", "label"):
            continue
        if key not in fields:
            known = ", ".join(fields) or "none"
            raise ParameterError(f"{place}: {key} = {value!r}: not a parameter of {name}, which has {known}")
        params[key] = _checked(place, fields[key], value)
    try:
        return label, MODELS[name](**params)
    except ParameterError as error:  # parameters that are fine alone, but not together
        raise ParameterError(f"{place}: {error}") from error


def _names(kind: type[Model]) -> dict[str, dataclasses.Field]:
    return {field.name: field for field in dataclasses.fields(kind)}


def _checked(place: str, field: dataclasses.Field, value: Any) -> Any:
    if not field.metadata["check"](value):
        raise ParameterError(f"{place}: {field.name} = {value!r}: must be {field.metadata['must']}")
    return float(value) if field.type == "float" else value
