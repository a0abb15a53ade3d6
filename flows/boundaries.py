"""What a flow has to do with the world around it: retries, the library's log, and who asked."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from prefect import get_client, get_run_logger
from prefect.context import FlowRunContext
from prefect.states import State
from prefect.tasks import exponential_backoff
from rich.console import Console

log = logging.getLogger(__name__)

BACKOFF = exponential_backoff(2)
CLUSTER_BACKOFF = exponential_backoff(10)  # one that is started again takes half a minute on a busy machine
PATIENCE = 600  # seconds that a run whose work is done waits for a server to report it to
LOOK_SECONDS = 2.0


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


@contextmanager
def told_at_the_end() -> Iterator[None]:
    """Work that goes on without Prefect, and then waits until there is a server to hear how it ended.

    Without that, the last state of a run that outlived its server is lost after a minute, and the run is
    taken for one that crashed. A cancelled one does not wait.
    """
    Console.on_broken_pipe = _say_no_more
    try:
        yield
    except Exception:
        _wait_for_prefect()
        raise
    _wait_for_prefect()


def _say_no_more(console: Console) -> None:
    # The worker reads what this process prints. With the worker gone, rich would end the process.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)


def _wait_for_prefect() -> None:
    until, error = time.monotonic() + PATIENCE, _why_unreachable()
    if error:
        log.warning("%s; waiting up to %d s to report what has become of this run", error, PATIENCE)
    while error and time.monotonic() < until:
        time.sleep(LOOK_SECONDS)
        error = _why_unreachable()
    if error:
        log.error("%s; nobody is told what has become of this run", error)


def _why_unreachable() -> str | None:
    # A client of its own: the flow's has been connected, and would try again by itself, ever more rarely.
    with get_client(httpx_settings={"timeout": 5.0}, sync_client=True) as client:
        error = client.api_healthcheck()
        return error and f"Prefect does not answer at {client.api_url} ({error})"
