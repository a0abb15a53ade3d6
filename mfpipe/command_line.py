"""The command that makes a fit again, as one line for a shell."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mfpipe.models.base import flag
from mfpipe.ratings import Rules


def train_command(
    inputs: Sequence[str],
    model: str,
    params: Mapping[str, Any],
    test: Sequence[str] = (),
    holdout: str | None = None,
    rules: Rules | None = None,
    **options: str,
) -> str:
    """`mfpipe train` with everything that decides its result; `options` are flags by their words."""
    words = ["mfpipe", "train", *map(str, inputs)]
    words += ["--test", *map(str, test)] if test else ["--holdout", str(holdout)]
    words += _reading(rules) if rules else []
    words += ["--model", model]
    for name, value in options.items():
        words += [flag(name), value]
    for name, value in params.items():
        if value is not False:
            words += [flag(name)] if value is True else [flag(name), str(value)]
    return shlex.join(words)


def _reading(rules: Rules) -> list[str]:
    """The flags of those rules that are not the default."""
    usual, words = Rules(), []
    for role in ("user", "item", "rating", "time"):
        name = getattr(rules.columns, role)
        words += [f"--{role}-column", name] if name else []
    if rules.columns.names:
        words += ["--columns", ",".join(rules.columns.names)]
    if rules.columns.delimiter:
        words += ["--delimiter", {"\t": "\\t"}.get(rules.columns.delimiter, rules.columns.delimiter)]
    if rules.duplicates != usual.duplicates:
        words += ["--duplicates", rules.duplicates]
    if rules.max_bad_fraction != usual.max_bad_fraction:
        words += ["--max-bad-fraction", str(rules.max_bad_fraction)]
    if rules.rating_range:
        words += ["--rating-range", *map(str, rules.rating_range)]
    return words


def report_command(name: str, store: Path) -> str:
    """`mfpipe report` of the current version of a model."""
    words = ["mfpipe", "report", name, "--store", str(store), "-o", f"{name}.html"]
    return shlex.join(words)
