"""Every registered model in every variant its parameters allow: what the shared suite runs on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import product
from typing import Any

from mfpipe.errors import ParameterError
from mfpipe.models import MODELS, FactorModel, Model

# Numbers have no list of values to try; parameters without one, and not in here, keep their default.
VALUES = {"l1_ratio": (1.0, 0.4, 0.0), "bias_regularization": (0.0, 0.02)}
NOT_TRIED = {"cold", "init"}  # no part in a fit, and in test_spectral.py
ALONE = {"accelerate", "solver"}  # tried with both types, both signs and everything else by default
SMALL = {"rank": 4, "max_iter": 3, "tol": 0}


def variants(cls: type[Model], **given: Any) -> Iterator[Model]:
    """Every combination of a model's choices, switches and `VALUES`, small enough for a test."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    lists = {name: field.metadata["choices"] or VALUES.get(name, ()) for name, field in fields.items()}
    lists = {name: values for name, values in lists.items() if values and name not in NOT_TRIED}
    fixed = {name: value for name, value in (SMALL | given).items() if name in fields}
    for values in product(*lists.values()):
        chosen = dict(zip(lists, values, strict=True)) | fixed
        if "regularization" in fields:  # neither none nor so much that every factor is zero
            chosen["regularization"] = 1e-3 if chosen["weighting"] == "uniform" else 0.05
        changed = {name for name, value in chosen.items() if value != fields[name].default}
        changed -= {*SMALL, "regularization", "dtype", "nonnegative"}
        if changed & ALONE and len(changed) > 1:
            continue
        try:
            yield cls(**chosen)
        except ParameterError:  # a combination that the model refuses
            continue


def label(model: Model) -> str:
    """The model's name, and its parameters that are not the default, as a test's id."""
    skipped = {*SMALL, "regularization"}
    fields = [field for field in dataclasses.fields(model) if field.name not in skipped]
    told = [(field.name, getattr(model, field.name)) for field in fields]
    words = [
        name if value is True else str(value) if isinstance(value, str) else f"{name}={value:g}"
        for (name, value), field in zip(told, fields, strict=True)
        if value != field.default
    ]
    return " ".join((model.name, *words))


VARIANTS = {label(model): model for cls in MODELS.values() for model in variants(cls)}
FACTOR_VARIANTS = {name: model for name, model in VARIANTS.items() if isinstance(model, FactorModel)}
# Enough for what is slow: both types, with and without a sign constraint, everything else by default.
FEW = {
    name: model
    for name, model in VARIANTS.items()
    if all(
        getattr(model, field.name) == field.default
        for field in dataclasses.fields(model)
        if field.name not in {*SMALL, "regularization", "dtype", "nonnegative"}
    )
}
