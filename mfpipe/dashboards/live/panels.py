"""The plots of the live page. A panel is one function here and one line in `PANELS`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from bokeh.models import ColumnDataSource, HoverTool, NumeralTickFormatter
from bokeh.plotting import figure
from bokeh.transform import dodge

from mfpipe.dashboards.live.fits import Seen
from mfpipe.models.base import SIDES
from mfpipe.plots import BLUE, GREEN, SIDE_COLOURS, VERMILION, axes, legend_above
from mfpipe.watching import COLUMNS

GREY = "#555555"
TOOLS = "pan,wheel_zoom,box_zoom,save,reset,help"  # Bokeh's default


class Sources(NamedTuple):
    """What the panels draw from.

    `iterations` has the columns of `mfpipe.watching.COLUMNS` and the tolerance, one row an iteration;
    `partitions` one row a partition, with the mean and the last seconds and the ratings of each side.
    """

    iterations: ColumnDataSource
    partitions: ColumnDataSource

    @classmethod
    def empty(cls) -> Sources:
        return cls(
            ColumnDataSource({key: [] for key in (*COLUMNS, "tol")}),
            ColumnDataSource(partition_columns(None)),
        )


def iteration_columns(seen: Seen, heard: int) -> dict[str, list]:
    """New rows of `Sources.iterations`."""
    columns = seen.since(heard)
    tol = seen.about["tol"] or math.nan
    return columns | {"tol": [tol] * len(columns.get("iteration", ()))}


def partition_columns(seen: Seen | None) -> dict[str, list]:
    """All rows of `Sources.partitions`."""
    partitions = seen.partitions if seen else {}
    n = max((len(of["mean"]) for of in partitions.values()), default=0)
    columns: dict[str, list] = {"partition": list(range(n))}
    for side in SIDES:
        for key in ("mean", "last", "ratings"):
            values = partitions.get(side, {}).get(key, [])
            columns[f"{side}_{key}"] = values + [math.nan] * (n - len(values))
    return columns


def _figure(x: str, y: str, **options: Any) -> figure:
    return axes(x, y, height=250, tools=TOOLS, **options)


def _lines(sources: Sources, y: str, series: dict[str, tuple[str, str]], **options: Any) -> figure:
    """Lines over iterations: for each column its legend and colour."""
    plot = _figure("iteration", y, **options)
    plot.xaxis.formatter = NumeralTickFormatter(format="0,0")
    for name, (legend, colour) in series.items():
        source = sources.iterations
        plot.line("iteration", name, source=source, legend_label=legend, color=colour, line_width=2)
        plot.scatter("iteration", name, source=source, legend_label=legend, color=colour, size=4)
    tips = [(legend, f"@{name}{{0.000000}}") for name, (legend, _) in series.items()]
    plot.add_tools(HoverTool(tooltips=[("iteration", "@iteration"), *tips], mode="vline"))
    return _legend_above(plot)


def _legend_above(plot: figure) -> figure:
    plot.legend.update(click_policy="hide", padding=0, margin=2, border_line_color=None)
    plot.legend.background_fill_color = None
    return legend_above(plot)


def objective(sources: Sources) -> figure:
    """The objective after each half-step."""
    series = {"item_objective": ("after items", SIDE_COLOURS["item"]), "objective": ("after users", BLUE)}
    return _lines(sources, "objective", series, y_axis_type="log")


def rmse(sources: Sources) -> figure:
    """RMSE on training and test ratings."""
    return _lines(sources, "stars", {"train_rmse": ("train", BLUE), "test_rmse": ("test", VERMILION)})


def fall(sources: Sources) -> figure:
    """The share by which an iteration lowered the objective, and the tolerance that it stops at."""
    series = {"fall": ("share", BLUE), "tol": ("tolerance", GREY)}
    return _lines(sources, "share", series, y_axis_type="log")


def half_steps(sources: Sources) -> figure:
    """Seconds of each half-step."""
    series = {f"{side}_seconds": (f"{side} half-step", SIDE_COLOURS[side]) for side in ("item", "user")}
    return _lines(sources, "seconds", series)


def speed(sources: Sources) -> figure:
    """Ratings that the half-steps of an iteration went through, by their seconds."""
    plot = _lines(sources, "ratings a second", {"ratings_per_second": ("ratings a second", GREEN)})
    plot.yaxis.formatter = NumeralTickFormatter(format="0,0")
    return plot


def partitions(sources: Sources) -> figure:
    """Mean seconds of each partition so far, and those of the last iteration as points."""
    plot = _figure("partition", "seconds")
    source, tips = sources.partitions, [("partition", "@partition")]
    for side, shift in (("item", -0.2), ("user", 0.2)):
        at = dodge("partition", shift)
        how: dict[str, Any] = {"color": SIDE_COLOURS[side], "legend_label": f"{side}s"}
        plot.vbar(at, top=f"{side}_mean", width=0.38, source=source, alpha=0.6, **how)
        plot.scatter(at, f"{side}_last", source=source, size=6, **how)
        tips += [(f"{side}s, {key}", f"@{side}_{key}") for key in ("mean", "last", "ratings")]
    plot.add_tools(HoverTool(tooltips=tips, mode="vline"))
    plot.y_range.update(start=0)
    return _legend_above(plot)


PANELS: dict[str, Callable[[Sources], figure]] = {
    "Objective": objective,
    "RMSE": rmse,
    "Fall of the objective": fall,
    "Seconds by half-step": half_steps,
    "Ratings a second": speed,
    "Seconds by partition": partitions,
}
