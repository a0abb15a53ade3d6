"""The live page: the fits of a cluster as they go, drawn with Bokeh on the scheduler's dashboard."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.resources import files
from typing import Any

from bokeh.models.widgets import Div
from distributed.dashboard.components import add_periodic_callback
from distributed.dashboard.components.scheduler import BOKEH_THEME, env

from mfpipe.dashboards.live import words
from mfpipe.dashboards.live.fits import LONGEST, Fits, Seen
from mfpipe.dashboards.live.panels import PANELS, Sources, iteration_columns, partition_columns

LOOK_MS = 500  # between two looks at whether there is anything new; drawing it takes about 3 ms


def page(fits: Fits) -> Callable[..., None]:
    """The page as Dask's dashboard wants one: called for each visitor with a document to fill."""
    return partial(_page, fits)


def _page(fits: Fits, scheduler: Any, extra: dict, doc: Any) -> None:
    asked = doc.session_context.request.arguments.get("fit", [b""])[0].decode(errors="replace")
    view = View(fits, asked)
    view.update()
    for root in view.roots():
        doc.add_root(root)
    doc.title = "mfpipe: live"
    template = files(__package__).joinpath("live.html").read_text(encoding="utf-8")
    doc.template = env.from_string(template)
    doc.template_variables.update(extra, panels=list(PANELS), texts=list(view.texts))
    doc.theme = BOKEH_THEME
    add_periodic_callback(doc, view, LOOK_MS)


class View:
    """What one visitor sees: the fit asked for, or the one that runs.

    Parameters
    ----------
    fits : Fits
    asked : str
        Key of a fit; where there is none of it, the last to have begun of those that run is shown.
    """

    def __init__(self, fits: Fits, asked: str = ""):
        self.fits, self.asked = fits, asked
        self.sources = Sources.empty()
        self.texts = {
            name: Div(name=name, disable_math=True, sizing_mode="stretch_width", stylesheets=[words.STYLE])
            for name in words.TEXTS
        }
        self.plots = [draw(self.sources) for draw in PANELS.values()]
        for number, (title, plot) in enumerate(zip(PANELS, self.plots, strict=True)):
            plot.update(name=f"panel_{number}", title=title)
        self.shown: Seen | None = None
        self.heard = 0
        self.changes = -1

    def roots(self) -> list[Any]:
        return [*self.texts.values(), *self.plots]

    def update(self) -> None:
        """Bring everything up to date with what has been heard since the last time."""
        if self.fits.changes == self.changes:
            return
        self.changes = self.fits.changes
        seen = self.fits.chosen(self.asked)
        if seen is not self.shown:
            self.shown, self.heard = seen, 0
            self.sources.iterations.data = dict(Sources.empty().iterations.data)
        for plot in self.plots:
            plot.visible = seen is not None and seen.about["iterates"] and seen.heard > 0
        if seen is not None and seen.heard > self.heard:
            new: dict[str, Any] = iteration_columns(seen, self.heard)
            self.sources.iterations.stream(new, rollover=LONGEST)
            self.heard = seen.heard
            self.sources.partitions.data = partition_columns(seen)
        for name, text in words.TEXTS.items():
            self.texts[name].text = text(self.fits, seen)
