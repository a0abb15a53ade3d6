"""Arguments that several commands share, and what the library makes of them."""

from __future__ import annotations

import argparse
import dataclasses
import os
from typing import Any

from mfpipe.errors import ParameterError


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def add_store(parser: argparse.ArgumentParser) -> None:
    default = os.environ.get("MFPIPE_STORE", "mfpipe-store")
    parser.add_argument(
        "--store", default=default, metavar="DIR", help="the model store (default: %(default)s)"
    )


def add_model_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME[@VERSION]", help="a stored model")


def add_ratings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ratings", nargs="+", metavar="RATINGS", help="rating files, directories or globs")
    add_columns(parser)
    group = parser.add_argument_group("what is accepted")
    group.add_argument("--duplicates", default="latest", help="latest, mean or error (default: %(default)s)")
    group.add_argument(
        "--max-bad-fraction", type=float, default=0.01, metavar="F", help="default: %(default)s"
    )
    group.add_argument("--strict", action="store_true", help="refuse the input for any unusable line")
    group.add_argument("--rating-range", type=float, nargs=2, metavar=("MIN", "MAX"))


def add_columns(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("columns")
    for role in ("user", "item", "rating", "time"):
        group.add_argument(f"--{role}-column", metavar="NAME")
    group.add_argument("--columns", metavar="A,B,…", help="names for files without a header")
    group.add_argument("--delimiter", help=r"one character; '\t' is a tab")


def add_test(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--test", nargs="+", default=(), metavar="FILE", help="test files")
    add_holdout(parser)


def add_holdout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--holdout", metavar="HOW", help="random:0.1 (the default), last:1 or time:0.1")


def add_params(parser: argparse.ArgumentParser) -> None:
    from mfpipe.models import MODELS
    from mfpipe.models.base import flag

    group = parser.add_argument_group("model parameters")
    kinds: dict[str, tuple[type, str]] = {"int": (int, "N"), "float": (float, "X"), "str": (str, "X")}
    fields = {field.name: field for model in MODELS.values() for field in dataclasses.fields(model)}
    for name, field in fields.items():
        text = f"{field.metadata['help']} (default: {field.default})"
        how: dict[str, Any] = {"action": "store_true"}
        if field.type != "bool":
            kind, letter = kinds[str(field.type)]
            how = {"type": kind, "metavar": "|".join(field.metadata["choices"]) or letter}
        group.add_argument(flag(name), dest=f"param_{name}", default=None, help=text, **how)


def add_place(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where it runs")
    group.add_argument(
        "--cluster", default="local", help="serial, threads, local or an address (default: %(default)s)"
    )
    for name in ("workers", "threads-per-worker", "partitions"):
        group.add_argument(f"--{name}", type=int, metavar="N")
    group.add_argument("--dashboard-address", metavar="HOST:PORT", help="default: 127.0.0.1:8787")
    group.add_argument(
        "--allow-remote",
        action="store_true",
        default=None,
        help="let a dashboard listen to other machines, and a cluster be on one without TLS",
    )


def add_checkpoints(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("if it is interrupted")
    group.add_argument(
        "--checkpoint-seconds",
        type=float,
        default=60.0,
        metavar="S",
        help="write down the fit this often, to resume it from; 0 for never (default: %(default)g)",
    )
    group.add_argument(
        "--checkpoint-iterations", type=int, metavar="N", help="every N iterations instead of by time"
    )


def checkpoints_from(options):
    from mfpipe.runs import Checkpoints

    return Checkpoints(options.checkpoint_seconds, options.checkpoint_iterations)


def place_from(options):
    from mfpipe.job import Place

    given = {name: getattr(options, name) for name in Place.__dataclass_fields__}
    return Place(**given | {"allow_remote": bool(options.allow_remote)})


def columns_from(options):
    from mfpipe.reading import Columns

    delimiter = {"\\t": "\t", None: None}.get(options.delimiter, options.delimiter)
    if delimiter is not None and (len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\n\r'):
        raise ParameterError(
            f"--delimiter {options.delimiter!r}: must be one ASCII character other than a quote"
        )
    names = tuple(options.columns.split(",")) if options.columns is not None else None
    roles = {role: getattr(options, f"{role}_column") for role in ("user", "item", "rating", "time")}
    return Columns(**roles, names=names, delimiter=delimiter)


def rules_from(options):
    from mfpipe.ratings import Rules

    share = 0.0 if options.strict else options.max_bad_fraction
    limits = tuple(options.rating_range) if options.rating_range else None
    return Rules(columns_from(options), share, limits, options.duplicates)


def data_from(options):
    from mfpipe.job import Data

    return Data(options.ratings, getattr(options, "test", ()), options.holdout, rules_from(options))


def params_from(options) -> dict[str, Any]:
    given = ((name, value) for name, value in vars(options).items() if name.startswith("param_"))
    return {name.removeprefix("param_"): value for name, value in given if value is not None}


def ids_from(given: list[str], name: str) -> list[str]:
    """Ids from the command line, exactly as typed; ParameterError for one that is not UTF-8."""
    for text in given:
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ParameterError(f"--{name} {text!a}: not UTF-8")
    return given
