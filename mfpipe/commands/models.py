"""The command about what is stored: models list, history, show, verify, rollback, remove."""

from __future__ import annotations

import json

from rich.console import Console

from mfpipe.arguments import add_json, add_store
from mfpipe.errors import ParameterError
from mfpipe.printer import Printer


def register(command) -> None:
    models = command("models", _models, "what is stored, and whether it is intact", add_store, add_json)
    models.add_argument("action", nargs="?", default="list", choices=["list", *_MODEL_ACTIONS])
    models.add_argument("name", nargs="?", metavar="NAME[@VERSION]")


def _models(options, printer: Printer) -> None:
    from mfpipe.store import Store

    store = Store(options.store)
    if options.action == "list":
        _list_models(store, options.name, printer)
        return
    if options.name is None:
        raise ParameterError(f"models {options.action}: give NAME or NAME@VERSION")
    _MODEL_ACTIONS[options.action](store, options.name, printer)


def _list_models(store, name: str | None, printer: Printer) -> None:
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


def _history_of_model(store, name: str, printer: Printer) -> None:
    from mfpipe.decision_tables import show_history
    from mfpipe.decisions import history
    from mfpipe.store import parse_name

    name, number = parse_name(name)
    if number:
        raise ParameterError(f"models history {name}@{number}: the history is of all versions; give {name}")
    record = {"name": name, "current": store.current(name), "history": history(store, name)}
    printer.result(record, show_history)


def _show_model(store, name: str, printer: Printer) -> None:
    from mfpipe.store import parse_name

    manifest = store.version(*parse_name(name)).manifest
    printer.result(manifest, lambda out, record: print(json.dumps(record, indent=1)))


def _verify_models(store, name: str, printer: Printer) -> None:
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
            if store.current(name):
                store.version(name)
        except StoreError as error:
            damage["current"] = [str(error)]

    def show(out: Console, record: dict) -> None:
        for each, found in record["damage"].items():
            out.print(f"{name}@{each}: {'intact' if not found else '; '.join(found)}", soft_wrap=True)

    printer.result({"name": name, "damage": damage}, show)
    broken = [each for each, found in damage.items() if found]
    if broken:
        raise StoreError(f"{name}: damaged: {', '.join(broken)}")


def _rollback_model(store, name: str, printer: Printer) -> None:
    from mfpipe.store import parse_name

    version = store.rollback(*parse_name(name))
    record = {"name": version.name, "version": version.number}
    printer.result(record, lambda out, r: out.print(f"{r['name']}@{r['version']} is now current"))


def _remove_model(store, name: str, printer: Printer) -> None:
    from mfpipe.store import parse_name

    name, number = parse_name(name)
    if number is None:
        raise ParameterError(f"models remove {name}: name the version, as {name}@VERSION")
    store.remove(name, number)
    printer.result({"name": name, "version": number}, lambda out, r: out.print(f"{name}@{number} removed"))


_MODEL_ACTIONS = {
    "history": _history_of_model,
    "show": _show_model,
    "verify": _verify_models,
    "rollback": _rollback_model,
    "remove": _remove_model,
}
