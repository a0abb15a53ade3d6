"""The command about what is stored: models list, history, show, verify, rollback, remove."""

from __future__ import annotations

import json
from collections.abc import Iterator

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
    if options.name is None and options.action != "verify":
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


def _verify_models(store, name: str | None, printer: Printer) -> None:
    from mfpipe.errors import StoreError
    from mfpipe.store import parse_name

    asked, number = parse_name(name) if name else (None, None)
    names = [asked] if asked else store.names()
    damage = {f"{each}@{version}": found for each in names for version, found in _damage(store, each, number)}

    def show(out: Console, record: dict) -> None:
        for each, found in record["damage"].items():
            out.print(f"{each}: {'intact' if not found else '; '.join(found)}", soft_wrap=True)
        if not record["damage"]:
            out.print(f"no models in {store.path}", soft_wrap=True)

    record: dict
    if asked:  # of one model, by version
        by_version = {each.partition("@")[2]: found for each, found in damage.items()}
        record = {"name": asked, "damage": by_version}
    else:
        record = {"damage": damage}
    printer.result(record, lambda out, _: show(out, {"damage": damage}))
    broken = [each for each, found in damage.items() if found]
    if broken:
        raise StoreError(f"damaged: {', '.join(broken)}")


def _damage(store, name: str, number: str | None) -> Iterator[tuple[str, list[str]]]:
    """What is wrong with one version of a model, or with each and with what says which is current."""
    from mfpipe.errors import StoreError

    numbers = [number] if number else store.numbers(name)
    if not numbers:
        store.version(name)  # says what is missing
    for each in numbers:
        try:
            yield each, store.version(name, each).damage()
        except StoreError as error:
            yield each, [str(error)]
    if number is None:
        try:
            if store.current(name):
                store.version(name)
        except StoreError as error:
            yield "current", [str(error)]


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
