"""Results to standard output, progress to standard error."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from rich.console import Console


class Printer:
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
