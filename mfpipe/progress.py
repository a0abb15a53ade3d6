"""Progress on a terminal: a bar with the objective in it; plain lines elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from mfpipe.remaining import duration, seconds_left

log = logging.getLogger(__name__)

LINE_SECONDS = 10.0  # between two plain lines, unless every iteration is asked for


class _Course:
    """The iterations so far, each in one line with an estimate of the time that is left."""

    def __init__(self, total: int, tol: float):
        self.total, self.tol = total, tol
        self.objectives: list[float] = []
        self.seconds: list[float] = []

    def described(self, record: dict) -> str:
        self.objectives.append(record["objective"])
        self.seconds.append(record["seconds"])
        test = "" if record["test_rmse"] is None else f", test {record['test_rmse']:.4f}"
        left = seconds_left(self.objectives, self.seconds, self.tol, self.total)
        words = f"objective {record['objective']:.6g}, RMSE {record['train_rmse']:.4f}{test}"
        waiting = "" if left is None else f", {duration(left)} left"
        return f"{words}, {record['seconds']:.3f} s{waiting}"


@contextmanager
def iterations(params: Mapping[str, Any], console: Console) -> Iterator[Callable[[dict], None]]:
    """A callback for `fit` that shows each iteration.

    Parameters
    ----------
    params : mapping
        Of the model: `max_iter` and `tol` bound its iterations, and one without them makes one.
    console : rich.console.Console
        Of standard error. Where it is no terminal, or one that shall have no colours, lines go to the log
        instead: every iteration as a detail, and one every `LINE_SECONDS` as news.
    """
    course = _Course(params.get("max_iter", 1), params.get("tol", 0.0))
    if not console.is_terminal or console.is_dumb_terminal or console.no_color or console.quiet:
        yield _lines(course)
        return
    words = TextColumn("{task.description}", markup=False)
    with Progress(BarColumn(None), MofNCompleteColumn(), words, console=console, expand=True) as bar:
        task = bar.add_task("starting", total=course.total)

        def show(record: dict) -> None:
            bar.update(task, completed=record["iteration"], description=course.described(record))

        yield show


def _lines(course: _Course) -> Callable[[dict], None]:
    last = time.monotonic()

    def tell(record: dict) -> None:
        nonlocal last
        news = time.monotonic() - last >= LINE_SECONDS
        if news:
            last = time.monotonic()
        level = logging.INFO if news else logging.DEBUG
        log.log(level, "iteration %d/%d: %s", record["iteration"], course.total, course.described(record))

    return tell
