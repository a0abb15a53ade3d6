"""Results to standard output, progress to standard error."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console
from rich.segment import Segment

from mfpipe.printable import printable


class SafeConsole(Console):
    """A console on which no text of a file, an id or a path acts as markup or as a terminal's escape."""

    def __init__(self, **options: Any):
        super().__init__(highlight=False, emoji=False, markup=False, **options)

    def render(self, *arguments: Any, **options: Any) -> Iterable[Segment]:
        """What is shown, piece by piece; only rich's own control codes stay what they are."""
        for segment in super().render(*arguments, **options):
            yield segment if segment.control else segment._replace(text=printable(segment.text, keep="\n"))


class Printer:
    """Results to standard output, as text or as one JSON object; the rest to standard error."""

    def __init__(self, options: argparse.Namespace):
        self.json = getattr(options, "json", False)
        self.out = SafeConsole()
        self.err = SafeConsole(stderr=True, quiet=options.quiet)

    def result(self, record: Any, show: Callable[..., None], *more: Any) -> None:
        if self.json:
            print(json.dumps(record, indent=1, allow_nan=False))
        else:
            show(self.out, record, *more)
