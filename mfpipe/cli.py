"""The command line: arguments, printing and exit codes; no logic."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

import mfpipe
from mfpipe.errors import MfpipeError, ParameterError

log = logging.getLogger("mfpipe")


class _Stopped(BaseException):
    """A signal that ends the run; unwinds every `with` block on its way out."""

    def __init__(self, number: int):
        self.exit_code = 128 + number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is documented in the README."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _stop)
    debug = "--debug" in (sys.argv[1:] if arguments is None else arguments)
    try:
        options = _parser().parse_args(arguments)
        _log_to_stderr(options)
        options.run(options, _Printer(options))
        sys.stdout.flush()
        return 0
    except MfpipeError as error:
        if debug:
            raise
        print(f"mfpipe: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("mfpipe: interrupted; nothing was published", file=sys.stderr)
        return 130
    except _Stopped as stopped:
        print("mfpipe: stopped by a signal; nothing was published", file=sys.stderr)
        return stopped.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if debug:
            raise
        print(
            f"mfpipe: unexpected {type(error).__name__}: {error}; please report it with what --debug shows",
            file=sys.stderr,
        )
        return 1


def _stop(number: int, frame: Any) -> None:
    raise _Stopped(number)


class _Printer:
    """Results to standard output, as text or as one JSON object; the rest to standard error."""

    def __init__(self, options: argparse.Namespace):
        self.json = getattr(options, "json", False)
        self.out = Console(highlight=False, emoji=False, markup=False)
        self.err = Console(stderr=True, highlight=False, emoji=False, markup=False, quiet=options.quiet)

    def result(self, record: Any, show: Callable[..., None], *more: Any) -> None:
        if self.json:
            print(json.dumps(record, indent=1, allow_nan=False))
        else:
            show(self.out, record, *more)


class _ConsoleLog(logging.Handler):
    """Log lines on a console, so that they do not tear its progress bar."""

    def __init__(self, console: Console):
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "" if record.levelno < logging.WARNING else record.levelname.lower() + ": "
        self.console.print(Text(prefix + record.getMessage()), soft_wrap=True)


def _log_to_stderr(options: argparse.Namespace) -> None:
    level = logging.DEBUG if options.verbose else logging.WARNING if options.quiet else logging.INFO
    log.setLevel(level)
    log.handlers = [_ConsoleLog(Console(stderr=True, highlight=False, emoji=False))]
    log.propagate = False


# Arguments


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-v", "--verbose", action="store_true", help="log each iteration")
    common.add_argument("-q", "--quiet", action="store_true", help="log warnings only")
    common.add_argument("--debug", action="store_true", help="show tracebacks")
    parser = argparse.ArgumentParser("mfpipe", description=mfpipe.__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"mfpipe {mfpipe.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable, help: str, *groups: Callable) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help, description=help, parents=[common], allow_abbrev=False)
        made.set_defaults(run=run)
        for group in groups:
            group(made)
        return made

    demo = command("demo", _demo, "the main job on the shipped data", _place, _json)
    demo.add_argument(
        "--out", type=Path, default=Path("mfpipe-demo"), metavar="DIR", help="default: %(default)s"
    )

    ingest = command("ingest", _ingest, "rating files → validated, encoded ratings", _ratings, _json)
    ingest.add_argument("--out", type=Path, required=True, metavar="DIR", help="the dataset's directory")

    train = command(
        "train", _train, "fit, evaluate and store a model", _ratings, _test, _params, _place, _store, _json
    )
    train.add_argument("--model", default="als", help="default: %(default)s")
    train.add_argument("--name", help="name in the store (default: the model's)")
    train.add_argument("--no-publish", action="store_true", help="leave the current version as it is")

    compare = command(
        "compare", _compare, "every system side by side", _ratings, _test, _params, _place, _store, _json
    )
    compare.add_argument("--model", action="append", help="only this system (may be repeated; default: all)")
    compare.add_argument(
        "--record", type=int, metavar="T", help="show each prediction of this test record, from 0"
    )

    evaluate = command(
        "evaluate",
        _evaluate,
        "errors of a stored model on rating files",
        _model_name,
        _ratings,
        _store,
        _json,
    )
    del evaluate
    predict = command(
        "predict", _predict, "a rating for every pair of a file", _model_name, _store, _json, _columns
    )
    predict.add_argument("pairs", metavar="PAIRS", help="a file with user and item columns")
    predict.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.csv")

    report = command("report", _report, "the HTML report of a version", _model_name, _store)
    report.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")

    models = command("models", _models, "what is stored, and whether it is intact", _store, _json)
    models.add_argument(
        "action", nargs="?", default="list", choices=["list", "show", "verify", "rollback", "remove"]
    )
    models.add_argument("name", nargs="?", metavar="NAME[@VERSION]")

    synth = command("synth", _synth, "long-tailed synthetic ratings")
    for name in ("users", "items", "ratings"):
        synth.add_argument(f"--{name}", type=int, required=True, metavar=name[0].upper())
    synth.add_argument("--seed", type=int, default=0, metavar="S")
    synth.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help=".csv or .csv.gz")
    synth.add_argument(
        "--test-output", type=Path, metavar="FILE", help="write the latest ratings here instead"
    )
    synth.add_argument("--test-fraction", type=float, default=0.2, metavar="F", help="default: %(default)s")
    return parser


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _store(parser: argparse.ArgumentParser) -> None:
    default = os.environ.get("MFPIPE_STORE", "mfpipe-store")
    parser.add_argument(
        "--store", default=default, metavar="DIR", help="the model store (default: %(default)s)"
    )


def _model_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME[@VERSION]", help="a stored model")


def _ratings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ratings", nargs="+", metavar="RATINGS", help="rating files, directories or globs")
    _columns(parser)
    group = parser.add_argument_group("what is accepted")
    group.add_argument("--duplicates", default="latest", help="latest, mean or error (default: %(default)s)")
    group.add_argument(
        "--max-bad-fraction", type=float, default=0.01, metavar="F", help="default: %(default)s"
    )
    group.add_argument("--strict", action="store_true", help="refuse the input for any unusable line")
    group.add_argument("--rating-range", type=float, nargs=2, metavar=("MIN", "MAX"))


def _columns(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("columns")
    for role in ("user", "item", "rating", "time"):
        group.add_argument(f"--{role}-column", metavar="NAME")
    group.add_argument("--columns", metavar="A,B,…", help="names for files without a header")
    group.add_argument("--delimiter", help=r"one character; '\t' is a tab")


def _test(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--test", nargs="+", default=(), metavar="FILE", help="test files")
    parser.add_argument("--holdout", metavar="HOW", help="random:0.1 (the default), last:1 or time:0.1")


def _params(parser: argparse.ArgumentParser) -> None:
    from mfpipe.models import MODELS
    from mfpipe.models.base import flag

    group = parser.add_argument_group("model parameters")
    kinds = {"int": int, "float": float, "str": str}
    fields = {field.name: field for model in MODELS.values() for field in dataclasses.fields(model)}
    for name, field in fields.items():
        text = f"{field.metadata['help']} (default: {field.default})"
        how = (
            {"action": "store_true"}
            if field.type == "bool"
            else {"type": kinds[str(field.type)], "metavar": "X"}
        )
        group.add_argument(flag(name), dest=f"param_{name}", default=None, help=text, **how)


def _place(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where it runs")
    group.add_argument(
        "--cluster", default="local", help="serial, threads, local or an address (default: %(default)s)"
    )
    for name in ("workers", "threads-per-worker", "partitions"):
        group.add_argument(f"--{name}", type=int, metavar="N")
    group.add_argument("--dashboard-address", metavar="HOST:PORT", help="default: 127.0.0.1:8787")


def _where(options):
    from mfpipe.pipeline import Place

    names = ("cluster", "workers", "threads_per_worker", "partitions", "dashboard_address")
    return Place(**{name: getattr(options, name) for name in names})


def _columns_of(options):
    from mfpipe.reading import Columns

    delimiter = {"\\t": "\t", None: None}.get(options.delimiter, options.delimiter)
    if delimiter is not None and (len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\n\r'):
        raise ParameterError(
            f"--delimiter {options.delimiter!r}: must be one ASCII character other than a quote"
        )
    names = tuple(options.columns.split(",")) if options.columns is not None else None
    roles = {role: getattr(options, f"{role}_column") for role in ("user", "item", "rating", "time")}
    return Columns(**roles, names=names, delimiter=delimiter)


def _rules(options):
    from mfpipe.ratings import Rules

    share = 0.0 if options.strict else options.max_bad_fraction
    limits = tuple(options.rating_range) if options.rating_range else None
    return Rules(_columns_of(options), share, limits, options.duplicates)


def _data(options):
    from mfpipe.pipeline import Data

    return Data(options.ratings, options.test, options.holdout, _rules(options))


def _params_of(options) -> dict[str, Any]:
    given = ((name, value) for name, value in vars(options).items() if name.startswith("param_"))
    return {name.removeprefix("param_"): value for name, value in given if value is not None}


# Commands


def _demo(options, printer: _Printer) -> None:
    from mfpipe.demo import demo
    from mfpipe.tables import show_comparison, show_timings

    place = _where(options)
    found = demo(options.out, place, log.info)
    printer.result(found, show_comparison)
    if not printer.json:
        printer.out.print()
        show_timings(printer.out, found["timings"])
        printer.out.print(f"\nreport: {found['report']}", soft_wrap=True)


def _ingest(options, printer: _Printer) -> None:
    from mfpipe.dataset import ingest_to
    from mfpipe.tables import show_ingest

    report, made = ingest_to(options.ratings, options.out, _rules(options))
    printer.result(report, show_ingest, str(options.out), made)


def _train(options, printer: _Printer) -> None:
    from mfpipe.pipeline import models_from, train
    from mfpipe.progress import iterations
    from mfpipe.store import Store, parse_name
    from mfpipe.tables import show_training

    (model,) = models_from([options.model], _params_of(options))
    name, _ = parse_name(options.name or model.name)
    data, place = _data(options), _where(options)
    with iterations(getattr(model, "max_iter", 1), printer.err) as show:
        record = train(
            data, model, name, Store(options.store), place, not options.no_publish, [show], log.info
        )
    printer.result(record, show_training)


def _compare(options, printer: _Printer) -> None:
    from mfpipe.comparison import compare
    from mfpipe.models import MODELS
    from mfpipe.pipeline import models_from, quarantine_file
    from mfpipe.store import Store
    from mfpipe.tables import show_comparison, show_timings

    models = models_from(options.model or list(MODELS), _params_of(options))
    if options.record is not None and options.record < 0:
        raise ParameterError(f"--record {options.record}: must be 0 or more")
    data, place = _data(options), _where(options)
    quarantine = quarantine_file(Store(options.store))
    found = compare(data, models, place, options.record, quarantine, log.info).record()
    printer.result(found, show_comparison)
    if not printer.json:
        printer.out.print()
        show_timings(printer.out, found["timings"])


def _evaluate(options, printer: _Printer) -> None:
    from mfpipe.pipeline import evaluate
    from mfpipe.store import Store
    from mfpipe.tables import show_evaluation

    record = evaluate(Store(options.store), options.name, options.ratings, _rules(options))
    printer.result(record, show_evaluation)


def _predict(options, printer: _Printer) -> None:
    from mfpipe.recommend import predict_file
    from mfpipe.store import Store, parse_name

    columns = _columns_of(options)
    fitted = Store(options.store).version(*parse_name(options.name)).load()
    record = predict_file(fitted, options.pairs, options.output, columns)
    printer.result(
        record, lambda out, r: out.print(f"{r['rows']:,} predictions in {options.output}", soft_wrap=True)
    )


def _report(options, printer: _Printer) -> None:
    from mfpipe.report import write_report
    from mfpipe.store import Store, parse_name

    version = Store(options.store).version(*parse_name(options.name))
    write_report(version, options.output)
    printer.out.print(str(options.output), soft_wrap=True)


def _models(options, printer: _Printer) -> None:
    from mfpipe.store import Store

    store = Store(options.store)
    if options.action == "list":
        _list_models(store, options.name, printer)
        return
    if options.name is None:
        raise ParameterError(f"models {options.action}: give NAME or NAME@VERSION")
    _MODEL_ACTIONS[options.action](store, options.name, printer)


def _list_models(store, name: str | None, printer: _Printer) -> None:
    from mfpipe.store import parse_name
    from mfpipe.tables import show_models

    names = store.names() if name is None else [parse_name(name)[0]]
    rows = []
    for each in names:
        current = store.current(each)
        for number in store.numbers(each):
            manifest = store.version(each, number).manifest
            keys = ("name", "version", "model", "created", "test_rmse", "objective")
            rows.append({key: manifest[key] for key in keys} | {"current": number == current})
    printer.result({"models": rows}, lambda out, record: show_models(out, record["models"]))


def _show_model(store, name: str, printer: _Printer) -> None:
    from mfpipe.store import parse_name

    manifest = store.version(*parse_name(name)).manifest
    printer.result(manifest, lambda out, record: print(json.dumps(record, indent=1)))


def _verify_models(store, name: str, printer: _Printer) -> None:
    from mfpipe.errors import StoreError
    from mfpipe.store import parse_name

    name, number = parse_name(name)
    numbers = [number] if number else store.numbers(name)
    if not numbers:
        store.version(name)
    damage = {}
    for each in numbers:
        try:
            damage[each] = store.version(name, each).damage()
        except StoreError as error:
            damage[each] = [str(error)]
    if not number:
        try:
            store.current(name)
        except StoreError as error:
            damage["current"] = [str(error)]

    def show(out: Console, record: dict) -> None:
        for each, found in record["damage"].items():
            out.print(f"{name}@{each}: {'intact' if not found else '; '.join(found)}", soft_wrap=True)

    printer.result({"name": name, "damage": damage}, show)
    broken = [each for each, found in damage.items() if found]
    if broken:
        raise StoreError(f"{name}: damaged: {', '.join(broken)}")


def _rollback_model(store, name: str, printer: _Printer) -> None:
    from mfpipe.store import parse_name

    version = store.rollback(*parse_name(name))
    record = {"name": version.name, "version": version.number}
    printer.result(record, lambda out, r: out.print(f"{r['name']}@{r['version']} is now current"))


def _remove_model(store, name: str, printer: _Printer) -> None:
    from mfpipe.store import parse_name

    name, number = parse_name(name)
    if number is None:
        raise ParameterError(f"models remove {name}: name the version, as {name}@VERSION")
    store.remove(name, number)
    printer.result({"name": name, "version": number}, lambda out, r: out.print(f"{name}@{number} removed"))


_MODEL_ACTIONS = {
    "show": _show_model,
    "verify": _verify_models,
    "rollback": _rollback_model,
    "remove": _remove_model,
}


def _synth(options, printer: _Printer) -> None:
    from mfpipe.synth import Synthetic

    data = Synthetic(options.users, options.items, options.ratings, options.seed)
    data.write(options.output, options.test_output, options.test_fraction)
