"""The live page's place on a Dask scheduler: takes the events of fits, and serves `/mfpipe`.

Installed by a driver that fits, or from the start with
`dask scheduler --preload mfpipe.dashboards.live.plugin`.
Bokeh is imported only on a scheduler that has a dashboard.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from distributed import SchedulerPlugin

from mfpipe.dashboards.live.fits import Fits
from mfpipe.watching import TOPIC

if TYPE_CHECKING:
    from distributed import Scheduler

log = logging.getLogger(__name__)

BESIDE = "status"  # the page of Dask's after which the navigation names this one


class LivePage(SchedulerPlugin):
    """Keeps what the fits of a cluster have told, and shows it at `/mfpipe` of its dashboard."""

    name = "mfpipe-live"
    idempotent = True

    def __init__(self) -> None:
        self.fits = Fits()
        self.trouble = ""

    async def start(self, scheduler: Scheduler) -> None:
        """Add the page to the dashboard; what keeps it from that is its `trouble`, and no error of Dask's."""
        if self.name in scheduler.plugins:
            return
        try:
            self._serve(scheduler)
        except (ImportError, RuntimeError) as error:
            self.trouble = f"{type(error).__name__}: {error}"

    def _serve(self, scheduler: Scheduler) -> None:
        from distributed.dashboard.core import BokehApplication
        from distributed.dashboard.scheduler import template_variables
        from tornado.ioloop import IOLoop

        from mfpipe.dashboards.live.page import page

        applications = scheduler.http_application.applications
        dashboard = next((one for one in applications if hasattr(one, "app_paths")), None)
        if dashboard is None:
            raise RuntimeError("the scheduler was started without a dashboard")
        shared = template_variables(scheduler)  # of every page, and read whenever one is opened
        if TOPIC not in shared["pages"]:
            shared["pages"].insert(shared["pages"].index(BESIDE) + 1, TOPIC)
        pages = {f"/{TOPIC}": page(self.fits)}
        made = BokehApplication(pages, scheduler, prefix=dashboard.prefix, template_variables=shared)
        scheduler.http_application.add_application(made)
        made.initialize(IOLoop.current())
        made.start()

    def log_event(self, topic: str, msg: Any) -> None:
        if topic == TOPIC:
            self.fits.take(msg)
        elif topic == "all" and msg.get("action") == "remove-worker" and not msg["expected"]:
            again = len(msg["processing-tasks"]) + len(msg["lost-computed-tasks"])
            self.fits.worker_lost(again)

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        self.fits.client_gone(client)


def trouble(dask_scheduler: Scheduler) -> str:
    """Why a scheduler that has the plugin has no page; nothing where it has."""
    return dask_scheduler.plugins[LivePage.name].trouble  # type: ignore[attr-defined]


async def dask_setup(scheduler: Scheduler) -> None:
    """Dask's hook for `--preload`."""
    plugin = LivePage()
    await scheduler.register_scheduler_plugin(plugin, idempotent=True)
    if plugin.trouble:
        log.warning("no live page (%s)", plugin.trouble)
