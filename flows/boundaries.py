"""What a flow has to do with the world around it: retries, the library's log, and who asked."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

from prefect import get_run_logger
from prefect.context import FlowRunContext
from prefect.states import State
from prefect.tasks import exponential_backoff

BACKOFF = exponential_backoff(2)


def only_after(*errors: type[Exception]) -> Callable[..., bool]:
    """A retry condition: the files, the store or the cluster failed, which may pass; nothing else does."""

    def condition(task, run, state: State) -> bool:
        try:
            state.result()
        except errors:
            return True
        except Exception:
            return False
        return False

    return condition


def show_library_log() -> None:
    """Let mfpipe's log lines through to Prefect, which the deployments tell to collect them."""
    logging.getLogger("mfpipe").setLevel(logging.INFO)
    get_run_logger().debug("mfpipe's log is collected by PREFECT_LOGGING_EXTRA_LOGGERS=mfpipe")


def run_id() -> str | None:
    """The id of this flow run, as that of a run of mfpipe: a retried flow run goes on with its own."""
    context = FlowRunContext.get()
    return f"prefect-{context.flow_run.id}" if context and context.flow_run else None


def due() -> datetime | None:
    """When this run should have started, if a schedule made it; else None."""
    context = FlowRunContext.get()
    if not (context and context.flow_run and context.flow_run.auto_scheduled):
        return None
    return context.flow_run.expected_start_time
