"""The history of a store as files that open offline: the same pages, at one moment."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from mfpipe import files
from mfpipe.dashboards.history.links import Files
from mfpipe.dashboards.history.moved import Comparisons
from mfpipe.dashboards.history.pages import PAGES, Asked, assets, render
from mfpipe.dashboards.history.reading import History, StoredModel
from mfpipe.errors import StoreError
from mfpipe.store import Store

COMPARED = 5  # of each model's last versions, with the one before


def export(store: Store, directory: Path) -> Path:
    """Write all pages of a store, and what they load, into a directory; the path of the first one.

    A file is replaced in one step, so that a copy that is being looked at can be written again.

    Raises
    ------
    StoreError
        The store cannot be read, or the directory cannot be written.
    """
    history = History(store)
    models = history.look().models
    compared = [pair for model in models.values() for pair in _compared(model)]
    links = Files(compared)
    asked: list[tuple[str, dict[str, str], str]] = [("", {}, links.index)]
    asked += [("model", {"name": name}, links.model(name)) for name in models]
    asked += [("compare", {"a": a, "b": b}, str(links.compare(a, b))) for a, b in compared]
    comparisons = Comparisons()
    try:
        files.make_directory(directory)
        for name, contents in assets().items():
            files.replace(directory / name, contents)
        for page, given, file in asked:
            made = PAGES[page].make(Asked(history, comparisons, links, given))
            files.replace(directory / file, render(made, links).encode())
    except OSError as error:
        raise StoreError(f"{directory}: cannot be written ({error.strerror or error})") from error
    return directory / links.index


def _compared(model: StoredModel) -> list[tuple[str, str]]:
    """The last versions with those before them, and the current one with the last."""
    pairs = [(earlier.label, later.label) for earlier, later in pairwise(model.versions)][-COMPARED:]
    current, last = model.version(model.current), model.versions[-1] if model.versions else None
    if current and last and current is not last and (current.label, last.label) not in pairs:
        pairs.append((current.label, last.label))
    return pairs
