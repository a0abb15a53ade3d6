"""The pages of a store's history; a page is one function and one line in `PAGES`.

A page function takes what was asked for and returns what is to be said and shown; `render` makes HTML of it,
in which every text of the store is text, whatever it looks like.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import bokeh
from bokeh.embed import json_item
from markupsafe import Markup

from mfpipe import report
from mfpipe.dashboards.history import panels, tables
from mfpipe.dashboards.history.links import Link, Links
from mfpipe.dashboards.history.moved import Comparisons
from mfpipe.dashboards.history.reading import History, Snapshot, StoredModel
from mfpipe.errors import StoreError
from mfpipe.page import Panel, templates
from mfpipe.report_data import Stored
from mfpipe.store import parse_name

MOST_WARNINGS = 20
VERIFY = "`mfpipe models verify` names all that is damaged; other versions stay usable."


class Asked(NamedTuple):
    """What a page is made of: the store, the addresses of pages, and what this one's address says."""

    history: History
    comparisons: Comparisons
    links: Links
    given: Mapping[str, str]


class Content(NamedTuple):
    """What a page says and shows; `choices` are the versions to compare, `chosen` two of them."""

    title: str
    said: Sequence[str] = ()
    warnings: Sequence[str] = ()
    panels: Sequence[Mapping[str, Any]] = ()
    tables: Sequence[tables.Table] = ()
    path: Sequence[Link] = ()
    choices: Sequence[str] = ()
    chosen: tuple[str, str] = ("", "")


class Page(NamedTuple):
    """A page: what makes it, and the words that its address must have."""

    make: Callable[[Asked], Content | str]
    needs: tuple[str, ...] = ()


def _models(asked: Asked) -> Content:
    snapshot, path = asked.history.look(), asked.history.store.path
    models = list(snapshot.models.values())
    if not models:
        said = [
            f"There is no model in {path} yet. `mfpipe train RATINGS --name NAME --store {path}` stores one, "
            "and this page shows it as soon as it is there."
        ]
        return Content("Models", said, snapshot.problems, tables=[tables.running(snapshot)])
    return Content(
        "Models",
        [f"All models of {path}."],
        _few([*snapshot.problems, *(problem for model in models for problem in _problems(model))]),
        _drawn(panels.MODELS, models),
        [tables.models(snapshot, asked.links), tables.running(snapshot)],
        choices=_choices(snapshot),
    )


def _model(asked: Asked) -> Content:
    snapshot, name = asked.history.look(), asked.given["name"]
    if name not in snapshot.models:
        known = ", ".join(snapshot.models) or "none"
        raise StoreError(f"{name}: no such model in {asked.history.store.path} (models: {known})")
    model = snapshot.models[name]
    labels = [version.label for version in model.versions]
    return Content(
        name,
        _about(model),
        _few(_problems(model)),
        _drawn(panels.MODEL, model),
        [
            tables.versions(model, asked.links),
            tables.decisions(model),
            tables.running(snapshot, name),
        ],
        choices=_choices(snapshot),
        chosen=(labels[-2], labels[-1]) if len(labels) > 1 else ("", ""),
    )


def _compare(asked: Asked) -> Content:
    snapshot = asked.history.look()
    labels = asked.given["a"], asked.given["b"]
    names = dict.fromkeys(parse_name(label)[0] for label in labels)
    content = Content(
        f"{labels[0]} and {labels[1]}",
        path=[Link(name, asked.links.model(name)) for name in names],
        choices=_choices(snapshot),
        chosen=labels,
    )
    try:
        a, b = (asked.history.store.version(*parse_name(label)) for label in labels)
        content = content._replace(
            said=[_current_of(snapshot, label) for label in labels], tables=tables.comparison(a, b)
        )
        moved = asked.comparisons.of(a, b)
    except StoreError as error:
        return content._replace(warnings=[str(error), VERIFY])
    return content._replace(
        panels=_drawn(panels.COMPARE, moved), tables=[*content.tables, tables.moved(moved, *labels)]
    )


def _report(asked: Asked) -> str:
    return report.render(Stored(asked.history.store.version(*parse_name(asked.given["version"]))))


PAGES = {
    "": Page(_models),
    "model": Page(_model, ("name",)),
    "compare": Page(_compare, ("a", "b")),
    "report": Page(_report, ("version",)),
}


def _about(model: StoredModel) -> list[str]:
    """What is served now and what is being done, in words."""
    said = []
    current = model.version(model.current)
    if not model.versions:
        said.append("Nothing of this model is stored: no challenger has passed the gate yet.")
    elif current is None:
        said.append(f"None is current; say which is, with: mfpipe models rollback {model.name}@VERSION")
    elif current.problem:
        said.append(f"Version {current.number} is current, and damaged.")
    else:
        rmse = "" if current.test_rmse is None else f", test RMSE {current.test_rmse:.4f} stars"
        said.append(f"Version {current.number} is current: {current.model}{rmse}.")
        if "rank" not in current.params:
            said.append(f"A {current.model} has no factors, so there is no rank or λ to show of it.")
    if model.retraining:
        said.append("It is being retrained now.")
    return said


def _current_of(snapshot: Snapshot, label: str) -> str:
    name, number = parse_name(label)
    model = snapshot.models.get(name)
    if number is None:
        return f"{label} stands for its current version."
    return f"{label} is {'the current version' if model and model.current == number else 'not current'}."


def _problems(model: StoredModel) -> list[str]:
    return [*model.problems, *(version.problem for version in model.versions if version.problem)]


def _few(problems: Sequence[str]) -> list[str]:
    more = len(problems) - MOST_WARNINGS
    told = list(problems[:MOST_WARNINGS]) + ([f"and {more:,} more problems"] if more > 0 else [])
    return [*told, VERIFY] if told else []


def _choices(snapshot: Snapshot) -> list[str]:
    return [version.label for model in snapshot.models.values() for version in reversed(model.versions)]


def _drawn(shown: Sequence[Panel], drawn_from: Any) -> list[dict[str, Any]]:
    """Each panel's title and words, and its figure as JSON that cannot end the element it stands in."""
    drawn = []
    for panel in shown:
        plot = None
        if panel.when(drawn_from):
            text = json.dumps(json_item(panel.draw(drawn_from)))
            plot = Markup(text.replace("<", "\\u003c"))
        drawn.append({"title": panel.title, "words": panel.words(drawn_from), "plot": plot})
    return drawn


_TEMPLATES = templates(Path(__file__).parent)


def render(content: Content | str, links: Links, state: str | None = None) -> str:
    """A page as HTML; one with a `state` keeps asking for it, and is loaded anew when it is another."""
    if isinstance(content, str):
        return content
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    template = _TEMPLATES.get_template("history.html")
    return template.render(page=content, links=links, state=state, when=now)


def assets() -> dict[str, bytes]:
    """What pages load from beside them: file name → contents."""
    own = files(__package__)
    static = Path(bokeh.__file__).parent / "server" / "static" / "js"
    return {name: own.joinpath(name).read_bytes() for name in ("history.css", "history.js")} | {
        "bokeh.min.js": static.joinpath("bokeh.min.js").read_bytes()
    }
