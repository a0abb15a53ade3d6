"""Bokeh figures that only the report of a version draws; see `mfpipe.plots` for those it shares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from bokeh.models import ColumnDataSource, HoverTool
from bokeh.models.annotations import Span
from bokeh.plotting import figure

from mfpipe.plots import BLUE, GREEN, SIDE_COLOURS, VERMILION, axes, legend_above

INTERVAL = "95 % interval"


def _bounds(rows: Sequence[dict], key: str) -> dict[str, list]:
    """Ends of intervals and their texts; NaN and a dash where there is none."""
    ends = [row[key] or (np.nan, np.nan) for row in rows]
    texts = [f"{low:.4f} to {high:.4f}" if low == low else "–" for low, high in ends]
    return {"low": [low for low, _ in ends], "high": [high for _, high in ends], "interval": texts}


def _intervals(plot: figure, source: ColumnDataSource, x: str, colour: str) -> None:
    """A line from the lower to the upper end; a glyph and not a Whisker, which would not widen the axis."""
    plot.segment(x, "low", x, "high", source=source, color=colour, line_width=2)


def _level(plot: figure, value: float) -> None:
    plot.add_layout(Span(location=value, dimension="width", line_dash="dashed", line_color="#555555"))


def slices(rows: Sequence[dict], labels: Sequence[str], what: str, overall: float, column: str) -> figure:
    """RMSE of each slice of the test records with its interval; dashed, that of all.

    Parameters
    ----------
    rows : sequence of dict
        As `mfpipe.bootstrap.Bootstrap.slices` gives them.
    labels : sequence of str
        What each is called.
    what : str
        What they are slices by.
    overall : float
        In stars.
    column : str
        Heading of the labels.
    """
    plot = axes(what, "RMSE (stars)", x_range=list(labels))
    source = ColumnDataSource(
        {
            "label": list(labels),
            "rmse": [row["rmse"] for row in rows],
            "mean": [row["mean_residual"] for row in rows],
            "rows": [row["rows"] for row in rows],
        }
        | _bounds(rows, "rmse_interval")
    )
    _intervals(plot, source, "label", VERMILION)
    plot.scatter("label", "rmse", source=source, size=8, color=VERMILION)
    _level(plot, overall)
    plot.xaxis.major_label_orientation = 0.6 if max(map(len, labels)) * len(labels) > 60 else "horizontal"
    tips = [("RMSE", "@rmse"), (INTERVAL, "@interval"), ("mean residual", "@mean"), ("test records", "@rows")]
    plot.add_tools(HoverTool(tooltips=[(column, "@label"), *tips]))
    return plot


def calibration(rows: Sequence[dict]) -> figure:
    """The mean true rating over the mean prediction of ten bins; dashed, where both are equal."""
    plot = axes("mean prediction (stars)", "mean true rating (stars)")
    columns = {key: [row[key] for row in rows] for key in ("predicted", "true", "rows")}
    source = ColumnDataSource(columns | _bounds(rows, "true_interval"))
    ends = [min(columns["predicted"] + columns["true"]), max(columns["predicted"] + columns["true"])]
    plot.line(ends, ends, line_dash="dashed", color="#555555")
    _intervals(plot, source, "predicted", BLUE)
    plot.scatter("predicted", "true", source=source, size=8, color=BLUE)
    tips = [
        ("predicted", "@predicted"),
        ("true", "@true"),
        (INTERVAL, "@interval"),
        ("test records", "@rows"),
    ]
    plot.add_tools(HoverTool(tooltips=tips))
    return plot


def ranking(rows: Sequence[dict]) -> figure:
    """Metrics of lists with their intervals; each row has `name`, `value` and `interval`."""
    names = [row["name"] for row in rows]
    plot = axes("", "mean over users", x_range=names)
    source = ColumnDataSource(
        {"name": names, "value": [row["value"] for row in rows]} | _bounds(rows, "interval")
    )
    _intervals(plot, source, "name", GREEN)
    plot.scatter("name", "value", source=source, size=10, color=GREEN)
    plot.y_range.update(start=0)
    plot.add_tools(HoverTool(tooltips=[("metric", "@name"), ("value", "@value"), (INTERVAL, "@interval")]))
    return plot


def decrease(objectives: Sequence[float], tol: float) -> figure:
    """By which share each iteration after the first lowered the objective; dashed, the tolerance."""
    plot = axes("iteration", "share of the objective", y_axis_type="log")
    before = np.array(objectives[:-1])
    shares = (before - np.array(objectives[1:])) / before
    source = ColumnDataSource(
        {
            "iteration": list(range(2, len(objectives) + 1)),
            "share": shares.tolist(),
            "drawn": [share if share > 0 else None for share in shares.tolist()],
        }
    )
    plot.line("iteration", "drawn", source=source, color=BLUE, line_width=2)
    plot.scatter("iteration", "drawn", source=source, color=BLUE, size=5)
    if tol > 0:
        _level(plot, tol)
    plot.add_tools(HoverTool(tooltips=[("iteration", "@iteration"), ("lowered by the share", "@share")]))
    return plot


def components(norms: dict[str, np.ndarray], zeros: dict[str, np.ndarray]) -> figure:
    """The Euclidean norm of each factor's column on both sides, the strongest factor first.

    Parameters
    ----------
    norms : dict of ndarray, shape (rank,)
        By side, in the order they are drawn.
    zeros : dict of ndarray, shape (rank,)
        The share of zeros in each of these columns, for whoever points at or reads them.
    """
    plot = axes("factor, the strongest first", "norm of its column")
    source = ColumnDataSource(
        {"factor": list(range(1, len(norms["user"]) + 1))}
        | {side: values.tolist() for side, values in norms.items()}
        | {f"{side}_zeros": values.tolist() for side, values in zeros.items()}
    )
    for side, marker in (("user", "circle"), ("item", "triangle")):
        colour, legend = SIDE_COLOURS[side], f"{side}s"
        plot.scatter("factor", side, source=source, marker=marker, color=colour, size=7, legend_label=legend)
    plot.y_range.update(start=0)
    tips = [("norm of users", "@user"), ("norm of items", "@item")]
    tips += [("zeros of users", "@user_zeros"), ("zeros of items", "@item_zeros")]
    plot.add_tools(HoverTool(tooltips=[("factor", "@factor"), *tips]))
    return legend_above(plot)


def stages(seconds: dict[str, float]) -> figure:
    """Seconds of each stage, in the order they came."""
    names = list(seconds)
    plot = axes("seconds", "", y_range=names[::-1])
    source = ColumnDataSource({"stage": names, "seconds": list(seconds.values())})
    plot.hbar("stage", right="seconds", height=0.7, color=BLUE, source=source)
    plot.x_range.update(start=0)
    plot.ygrid.grid_line_color = None
    plot.add_tools(HoverTool(tooltips=[("stage", "@stage"), ("seconds", "@seconds")]))
    return plot


def efficiency(shares: dict[str, list[float]]) -> figure:
    """The share of all threads' time that went into rows, by half-step and iteration."""
    plot = axes("iteration", "parallel efficiency")
    sides = list(shares)
    source = ColumnDataSource({"iteration": list(range(1, len(shares[sides[0]]) + 1)), **shares})
    for side in sides:
        colour, legend = SIDE_COLOURS[side], f"{side} half-step"
        plot.line("iteration", side, source=source, color=colour, line_width=2, legend_label=legend)
        plot.scatter("iteration", side, source=source, color=colour, size=5, legend_label=legend)
    plot.y_range.update(start=0, end=1.05)
    tips = [(f"{side} half-step", f"@{side}") for side in sides]
    plot.add_tools(HoverTool(tooltips=[("iteration", "@iteration"), *tips]))
    return legend_above(plot)
