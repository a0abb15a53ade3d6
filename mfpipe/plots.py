"""Bokeh figures from what a version stores. Each takes plain data and returns one figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, FactorRange, HoverTool, VSpan
from bokeh.plotting import figure

# Okabe and Ito's palette, told apart by colour-blind readers too.
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SIDE_COLOURS = {"item": ORANGE, "user": BLUE}
# No tools but the tooltips that are added: dragging would move the plot where a phone is to scroll the page.
SIZE: dict[str, Any] = {"height": 300, "sizing_mode": "stretch_width", "toolbar_location": None, "tools": ""}


def axes(x: str, y: str, **options: Any) -> figure:
    """An empty figure with these labels."""
    made = figure(x_axis_label=x, y_axis_label=y, **(SIZE | options))
    made.xgrid.grid_line_color = None
    return made


def legend_above(plot: figure) -> figure:
    """Move a figure's legend out of it, to its top."""
    plot.legend.orientation = "horizontal"
    plot.add_layout(plot.legend[0], "above")
    return plot


def _lines(plot: figure, data: Mapping[str, Sequence], x: str, series: dict[str, tuple[str, str]]) -> figure:
    """Lines with markers: one for each column of `series`, with its legend and colour."""
    source = ColumnDataSource(dict(data))
    for name, (legend, colour) in series.items():
        plot.line(x, name, source=source, legend_label=legend, color=colour, line_width=2)
        plot.scatter(x, name, source=source, legend_label=legend, color=colour, size=5)
    plot.add_tools(
        HoverTool(tooltips=[(x, f"@{x}")] + [(legend, f"@{name}") for name, (legend, _) in series.items()])
    )
    plot.legend.click_policy = "hide"
    return legend_above(plot)


def objective(history: dict[str, list]) -> figure:
    """The objective after each half-step."""
    plot = axes("iteration", "objective", y_axis_type="log")
    series = {f"{side}_objective": (f"after {side}s", SIDE_COLOURS[side]) for side in ("item", "user")}
    return _lines(plot, history, "iteration", {k: v for k, v in series.items() if k in history})


def rmse(history: dict[str, list]) -> figure:
    """RMSE on training and test ratings after each iteration."""
    plot = axes("iteration", "RMSE (stars)")
    return _lines(
        plot, history, "iteration", {"train_rmse": ("train", BLUE), "test_rmse": ("test", VERMILION)}
    )


def half_steps(history: dict[str, list]) -> figure:
    """Seconds of each half-step."""
    plot = axes("iteration", "seconds")
    series = {f"{side}_seconds": (f"{side} half-step", SIDE_COLOURS[side]) for side in ("item", "user")}
    return _lines(plot, history, "iteration", {k: v for k, v in series.items() if k in history})


def partitions(iterations: list[dict]) -> figure:
    """The median seconds each partition took, beside its number of ratings in the tooltip."""
    groups: dict[tuple[str, str], list[float]] = {}
    ratings = {}
    for iteration in iterations:
        for half in iteration["half_steps"]:
            for part in half["partitions"]:
                key = (half["side"], str(part["partition"]))
                groups.setdefault(key, []).append(part["seconds"])
                ratings[key] = part["ratings"]
    source = ColumnDataSource(
        {
            "partition": list(groups),
            "seconds": [float(np.median(values)) for values in groups.values()],
            "ratings": [ratings[key] for key in groups],
            "colour": [SIDE_COLOURS[side] for side, _ in groups],
        }
    )
    plot = axes("partition", "median seconds", x_range=FactorRange(factors=list(groups)))
    plot.vbar("partition", top="seconds", width=0.8, color="colour", source=source)
    plot.add_tools(
        HoverTool(tooltips=[("partition", "@partition"), ("seconds", "@seconds"), ("ratings", "@ratings")])
    )
    plot.xaxis.major_label_text_font_size = "0pt" if len(groups) > 40 else "9pt"
    plot.y_range.update(start=0)
    return plot


def systems(rows: list[dict]) -> figure:
    """Test RMSE of every system."""
    names = [row["label"] for row in rows]
    source = ColumnDataSource({"system": names, "rmse": [row["test_rmse"] for row in rows]})
    plot = axes("", "test RMSE (stars)", x_range=names)
    plot.vbar("system", top="rmse", width=0.6, color=BLUE, source=source)
    if max(map(len, names)) > 15:
        plot.xaxis.major_label_orientation = 0.6
    plot.add_tools(HoverTool(tooltips=[("system", "@system"), ("test RMSE", "@rmse")]))
    plot.y_range.update(start=0)
    return plot


def _bars(counts, edges, x: str, colour: str, y: str = "rows") -> figure:
    source = ColumnDataSource({"count": counts, "left": edges[:-1], "right": edges[1:]})
    plot = axes(x, y)
    plot.quad(
        top="count", bottom=0, left="left", right="right", color=colour, line_color="#cccccc", source=source
    )
    plot.add_tools(HoverTool(tooltips=[("from", "@left"), ("to", "@right"), (y, "@count")]))
    return plot


def residuals(histogram: dict) -> figure:
    """The distribution of predicted minus true test ratings."""
    return _bars(histogram["counts"], histogram["edges"], "predicted − true (stars)", GREEN, "test records")


def norms(rows: np.ndarray, side: str) -> figure:
    """The distribution of the Euclidean norms of one side's factors."""
    counts, edges = np.histogram(np.linalg.norm(rows, axis=1), bins=40)
    return _bars(counts.tolist(), edges.tolist(), f"norm of {side} factors", SIDE_COLOURS[side], f"{side}s")


def _by_lambda(
    rows: list[dict], best: float, y: str, series: dict[str, tuple[str, str]], **options: Any
) -> figure:
    """Figures of a regularization path over λ, on a logarithmic axis, with the chosen λ dashed."""
    data = {key: [row[key] for row in rows] for key in ("regularization", *series)}
    plot = axes("λ", y, x_axis_type="log", **options)
    _lines(plot, data, "regularization", series)
    plot.add_glyph(ColumnDataSource({"best": [best]}), VSpan(x="best", line_dash="dashed"))
    return plot


def path_rmse(rows: list[dict], best: float) -> figure:
    """RMSE on training and validation ratings at each λ."""
    series = {"train_rmse": ("train", BLUE), "validation_rmse": ("validation", VERMILION)}
    return _by_lambda(rows, best, "RMSE (stars)", series)


def path_zeros(rows: list[dict], best: float) -> figure:
    """The share of factors that are exactly zero at each λ."""
    return _by_lambda(rows, best, "share of zeros", {"sparsity": ("zeros", GREEN)}, y_range=(-0.02, 1.02))


def path_norms(rows: list[dict], best: float) -> figure:
    """The Euclidean norm of all factors of each side at each λ."""
    series = {f"{side}_norm": (f"{side} factors", colour) for side, colour in SIDE_COLOURS.items()}
    return _by_lambda(rows, best, "norm", series)


MARKERS = {"uniform": ("circle", BLUE), "count": ("triangle", VERMILION)}


def _candidate_columns(rows: list[dict]) -> dict[str, list]:
    """What a tooltip says of each candidate."""
    return {key: [row[key] for row in rows] for key in ("rank", "weighting", "regularization")} | {
        "rmse": [row["rungs"][-1]["validation_rmse"] for row in rows],
        "iterations": [row["rungs"][-1]["n_iter"] for row in rows],
    }


TOOLTIPS = [
    ("weighting", "@weighting"),
    ("rank", "@rank"),
    ("λ", "@regularization"),
    ("iterations", "@iterations"),
    ("validation RMSE", "@rmse"),
]


def rungs(rows: list[dict]) -> figure:
    """Validation RMSE of every candidate at each rung; the thick line is the winner's."""
    plot = axes("iterations", "validation RMSE (stars)", x_axis_type="log")
    for weighting, (marker, colour) in MARKERS.items():
        of = [row for row in rows if row["weighting"] == weighting]
        if of:
            source = ColumnDataSource(
                _candidate_columns(of)
                | {
                    "x": [[rung["iterations"] for rung in row["rungs"]] for row in of],
                    "y": [[rung["validation_rmse"] for rung in row["rungs"]] for row in of],
                    "width": [4 if row["place"] == 1 else 1 for row in of],
                    "end": [row["rungs"][-1]["iterations"] for row in of],
                }
            )
            plot.multi_line("x", "y", source=source, color=colour, line_width="width", legend_label=weighting)
            plot.scatter(
                "end", "rmse", source=source, marker=marker, color=colour, size=6, legend_label=weighting
            )
    return _told_apart(plot)


def candidates(rows: list[dict]) -> figure:
    """Validation RMSE of every candidate when it was last judged, over its λ."""
    plot = axes("λ", "validation RMSE (stars)", x_axis_type="log")
    for weighting, (marker, colour) in MARKERS.items():
        of = [row for row in rows if row["weighting"] == weighting]
        if of:
            source = ColumnDataSource(
                _candidate_columns(of) | {"size": [14 if row["place"] == 1 else 6 for row in of]}
            )
            plot.scatter(
                "regularization",
                "rmse",
                source=source,
                marker=marker,
                color=colour,
                size="size",
                legend_label=weighting,
            )
    return _told_apart(plot)


def _told_apart(plot: figure) -> figure:
    plot.add_tools(HoverTool(tooltips=TOOLTIPS))
    return legend_above(plot)
