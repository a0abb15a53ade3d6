"""Progress on a terminal: a bar with the objective in it; plain lines elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

log = logging.getLogger(__name__)


def described(record: dict) -> str:
    """An iteration in one line."""
    test = "" if record["test_rmse"] is None else f", test RMSE {record['test_rmse']:.4f}"
    train = f"objective {record['objective']:.6g}, train RMSE {record['train_rmse']:.4f}"
    return f"{train}{test}, {record['seconds']:.3f} s"


@contextmanager
def iterations(total: int, console: Console) -> Iterator[Callable[[dict], None]]:
    """A callback for `fit` that shows each iteration.

    Parameters
    ----------
    total : int
        Iterations at most.
    console : rich.console.Console
        Of standard error; without a terminal the iterations go to the log instead.
    """
    if not console.is_terminal or console.quiet:
        yield lambda record: log.debug("iteration %d/%d: %s", record["iteration"], total, described(record))
        return
    columns = (BarColumn(20), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("starting", total=total)

        def show(record: dict) -> None:
            bar.update(task, completed=record["iteration"], description=described(record))

        yield show
