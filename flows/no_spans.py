"""A Dask scheduler without spans: `dask scheduler --preload mfpipe_flows.no_spans`.

Spans add up what groups of tasks took, for Dask's dashboard. They live as long as the scheduler, and with
them every group of tasks (https://github.com/dask/distributed/issues/7977): each half-step makes two, so that
a scheduler that fits night after night grows by them, and its workers by the seconds of each span.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Scheduler


class NoSpans:
    """In the place of the scheduler's spans; false, so that Dask does as it does where there are none."""

    def __bool__(self) -> bool:
        return False

    def heartbeat(self, worker: Any, seconds: dict) -> None:
        """Workers send the seconds of each span even so; those of all tasks together are kept elsewhere."""


def dask_setup(scheduler: Scheduler) -> None:
    """Dask's hook for `--preload`."""
    scheduler.extensions["spans"] = NoSpans()
