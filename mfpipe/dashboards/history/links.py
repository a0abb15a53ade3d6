"""Where a page of the history is: at a server's address, or in a file beside the others."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple
from urllib.parse import urlencode

from markupsafe import Markup, escape

from mfpipe.printable import printable


class Link(NamedTuple):
    """A text that leads somewhere; nowhere without an address."""

    text: str
    href: str | None

    def __html__(self) -> str:
        words = escape(printable(self.text))
        return words if self.href is None else Markup('<a href="{}">{}</a>').format(self.href, words)


class Links:
    """The addresses of a server's pages, relative to each other."""

    index = "./"

    def model(self, name: str) -> str:
        """The page of a model."""
        return "model?" + urlencode({"name": name})

    def compare(self, a: str, b: str) -> str | None:
        """The comparison of two versions, each NAME@VERSION."""
        return "compare?" + urlencode({"a": a, "b": b})

    def report(self, version: str) -> str | None:
        """The report of a version, NAME@VERSION."""
        return "report?" + urlencode({"version": version})


class Files(Links):
    """The names of exported pages.

    Parameters
    ----------
    compared : collection of (str, str)
        Pairs of versions that have a comparison; others have no page, and neither have reports.
    """

    index = "index.html"

    def __init__(self, compared: Collection[tuple[str, str]]):
        self._compared = frozenset(compared)

    def model(self, name: str) -> str:
        """The file of a model's page."""
        return f"model-{name}.html"

    def compare(self, a: str, b: str) -> str | None:
        """The file of a comparison, if there is one."""
        return f"compare-{a}-{b}.html" if (a, b) in self._compared else None

    def report(self, version: str) -> str | None:
        """None: a report is written by `mfpipe report`."""
        return None
