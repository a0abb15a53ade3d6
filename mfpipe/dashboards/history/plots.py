"""Bokeh figures of a store's history. Each takes what `reading` gives and returns one figure.

Series differ by marker and dash as well as by colour, which is Okabe and Ito's. Colours of text, lines and
ground are left to the page's style sheet, which knows whether it is dark.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import cycle
from operator import attrgetter
from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, DataRange1d, HoverTool
from bokeh.models.annotations import Span
from bokeh.plotting import figure

from mfpipe.dashboards.history.reading import StoredModel, StoredVersion
from mfpipe.plots import BLUE, GREEN, ORANGE, SIZE, VERMILION

PURPLE, SKY, GREY = "#CC79A7", "#56B4E9", "#808080"
LOOKS = (
    (BLUE, "circle", "solid"),
    (VERMILION, "triangle", "dashed"),
    (GREEN, "square", "dotted"),
    (ORANGE, "diamond", "dotdash"),
    (PURPLE, "inverted_triangle", "dashdot"),
    (SKY, "plus", "solid"),
    (GREY, "cross", "dashed"),
)
DAY, NARROWEST = 86_400_000, 5_000  # milliseconds
# A legend is drawn before it is on the page, where it would see the page's colours.
_LEGEND = (
    ":host { background: transparent !important; } .bk-label { color: var(--text, #1c1c1c) !important; }"
)
MOST_SHARE = 3  # of a limit that is drawn; a date of another year would leave the rest a flat line
MOST_NAMES = 6  # models with a line of their own; the rest share the last look


def _over_time(y: str, **options: Any) -> figure:
    spread = DataRange1d(default_span=DAY, min_interval=NARROWEST, range_padding=0.05)
    plot = figure(x_axis_type="datetime", y_axis_label=y, x_range=spread, **(SIZE | options))
    plot.xgrid.grid_line_color = None
    return plot


def _times(times: Sequence[datetime | None]) -> np.ndarray:
    return np.array([time.replace(tzinfo=None) if time else None for time in times], "datetime64[ms]")


def _floats(values: Sequence[float | None]) -> np.ndarray:
    return np.array([math.nan if value is None else value for value in values], float)


def _draw(plot: figure, columns: Mapping[str, Any], name: str, legend: str, look: tuple, join=True) -> None:
    colour, marker, dash = look
    source = ColumnDataSource(dict(columns))
    if join:
        plot.line(
            "when", name, source=source, legend_label=legend, color=colour, line_dash=dash, line_width=2
        )
    plot.scatter(
        "when", name, source=source, legend_label=legend, color=colour, marker=marker, size=8, line_width=2,
        name="points",
    )  # fmt: skip


def _finished(plot: figure, tooltips: list[tuple[str, str]]) -> figure:
    plot.add_tools(
        HoverTool(
            tooltips=[*tooltips, ("when", "@when{%F %R}")],
            formatters={"@when": "datetime"},
            renderers=plot.select(name="points"),  # type: ignore[arg-type]
        )
    )
    legend = plot.legend[0]
    legend.update(
        click_policy="hide",
        ncols=2,
        label_text_font_size="9pt",
        border_line_color=None,
        stylesheets=[_LEGEND],
    )
    plot.add_layout(legend, "above")
    return plot


def _columns(versions: Sequence[StoredVersion], **figures: Sequence[float | None]) -> dict[str, Any]:
    return {
        "when": _times([version.created for version in versions]),
        "version": [version.label for version in versions],
        **{name: _floats(values) for name, values in figures.items()},
    }


def _lines(versions: Sequence[StoredVersion], y: str, series: Mapping[str, Sequence], **options) -> figure:
    """One line for each series of figures of the same versions."""
    plot = _over_time(y, **options)
    for (legend, values), look in zip(series.items(), LOOKS, strict=False):
        _draw(plot, _columns(versions, value=values), "value", legend, look)
    return _finished(plot, [("version", "@version"), (y, "@value")])


def models_rmse(models: Sequence[StoredModel]) -> figure:
    """Test RMSE of every version of every model; models beyond `MOST_NAMES` share one look."""
    return _of_models(models, "test RMSE (stars)", lambda version: version.test_rmse)


def models_seconds(models: Sequence[StoredModel]) -> figure:
    """Seconds of every version's fit."""
    return _of_models(models, "seconds of the fit", lambda version: version.fit_seconds, y_axis_type="log")


def _of_models(models: Sequence[StoredModel], y: str, of, **options) -> figure:
    """The models that were published last have lines of their own."""
    models = [model for model in models if model.intact()]
    recent = sorted(models, key=_last_stored, reverse=True)
    own = recent[:MOST_NAMES]
    plot = _over_time(y, **options)
    for model, look in zip(own, LOOKS, strict=False):
        versions = model.intact()
        _draw(plot, _columns(versions, value=[of(v) for v in versions]), "value", model.name[:24], look)
    rest = [version for model in recent[MOST_NAMES:] for version in model.intact()]
    if rest:
        label = f"{len(recent) - len(own)} others"
        _draw(plot, _columns(rest, value=[of(v) for v in rest]), "value", label, LOOKS[-1], join=False)
    return _finished(plot, [("version", "@version"), (y, "@value")])


def _last_stored(model: StoredModel) -> Any:
    return max(map(attrgetter("created"), model.intact()))


def rmse(model: StoredModel) -> figure:
    """RMSE of a model's versions, with a ring around the current one, and of what was refused."""
    versions = model.intact()
    plot = _over_time("RMSE (stars)")
    for legend, of, look in (("test", "test_rmse", LOOKS[0]), ("training", "train_rmse", LOOKS[1])):
        _draw(plot, _columns(versions, value=[getattr(v, of) for v in versions]), "value", legend, look)
    current = [version for version in versions if version.number == model.current]
    if current:
        source = ColumnDataSource(_columns(current, value=[v.test_rmse for v in current]))
        plot.scatter(
            "when", "value", source=source, size=17, fill_alpha=0, line_width=3, color=GREEN,
            legend_label="current",
        )  # fmt: skip
    refused = [row for row in model.decisions if row["decision"] == "refused" and row["rmse"] is not None]
    if refused:
        columns = {
            "when": _times([datetime.fromisoformat(row["when"]) for row in refused]),
            "version": ["refused"] * len(refused),
            "value": _floats([row["rmse"] for row in refused]),
        }
        _draw(plot, columns, "value", "refused", (VERMILION, "x", "solid"), join=False)
    return _finished(plot, [("version", "@version"), ("RMSE", "@value")])


def seconds(model: StoredModel) -> figure:
    """Seconds of a model's fits, and of all stages."""
    versions = model.intact()
    series = {
        "the fit": [version.fit_seconds for version in versions],
        "all stages": [version.all_seconds for version in versions],
    }
    return _lines(versions, "seconds", series)


def data(model: StoredModel) -> figure:
    """Ratings, users and items that a model's versions were trained on."""
    versions = model.intact()
    series = {what: [v.data[f"n_{what}"] for v in versions] for what in ("ratings", "users", "items")}
    return _lines(versions, "number", series, y_axis_type="log")


def drift(judged: Sequence[Mapping[str, Any]]) -> figure:
    """How far each retrain's data was from the champion's, as shares of what is allowed."""
    plot = _over_time(f"share of the limit (at most {MOST_SHARE})")
    when = _times([datetime.fromisoformat(row["when"]) for row in judged])
    for what, look in zip(judged[0]["drift"], cycle(LOOKS), strict=False):
        shares = [share_of_limit(what, row["drift"][what], row["limits"]) for row in judged]
        columns = {
            "when": when,
            "what": [what.replace("_", " ")] * len(judged),
            "drift": _floats([row["drift"][what] for row in judged]),
            "value": np.minimum(_floats(shares), MOST_SHARE),
            "share": _floats(shares),
        }
        _draw(plot, columns, "value", what.replace("_", " "), look)
    plot.add_layout(Span(location=1, dimension="width", line_dash="dashed", line_color=GREY, line_width=2))
    return _finished(plot, [("", "@what"), ("drift", "@drift"), ("share of the limit", "@share")])


def share_of_limit(what: str, value: float | None, limits: Mapping[str, float]) -> float | None:
    """A figure of `mfpipe.drift.drift` over its limit, multiples by their logarithms; beyond 1 is too far.

    None where there is no figure, or no limit to compare it with.
    """
    if value is None:
        return None
    try:
        if what in ("ratings", "users", "items"):
            return math.log(value) / math.log(limits["most" if value >= 1 else "fewest"])
        if what == "spread":
            return abs(math.log(value)) / math.log(limits["spread"])
        return max(abs(value) if what == "mean" else value, 0.0) / limits[what]
    except (ZeroDivisionError, ValueError):
        return None


def gate(judged: Sequence[Mapping[str, Any]]) -> figure:
    """By how much each challenger's RMSE exceeded the champion's, with its interval, and the margin."""
    plot = _over_time("RMSE above the champion's (stars)")
    looks = {"published": LOOKS[0], "refused": (VERMILION, "x", "solid")}
    columns = [
        {
            "when": datetime.fromisoformat(row["when"]),
            "decision": "refused" if row["decision"] == "refused" or row["forced"] else "published",
            "words": row["decision"] + (", forced" if row["forced"] else ""),
            "value": row["difference"]["rmse"],
            "low": row["difference"]["interval"][0],
            "high": row["difference"]["interval"][1],
            "margin": row["difference"]["margin"],
        }
        for row in judged
    ]
    for decision, look in looks.items():
        rows = [row for row in columns if row["decision"] == decision]
        if rows:
            made = _gate_columns(rows)
            _draw(plot, made, "value", decision, look, join=False)
            source = ColumnDataSource(made)
            plot.segment("when", "low", "when", "high", source=source, color=look[0], line_width=2)
    _draw(plot, _gate_columns(columns), "margin", "margin", LOOKS[-1])
    return _finished(plot, [("", "@words"), ("difference", "@value (@low to @high)"), ("margin", "@margin")])


def _gate_columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {name: _floats([row[name] for row in rows]) for name in
                            ("value", "low", "high", "margin")}  # fmt: skip
    return made | {"when": _times([row["when"] for row in rows]), "words": [row["words"] for row in rows]}


def moved(counts: Sequence[int], edges: Sequence[float]) -> figure:
    """How many predictions moved by how much."""
    plot = figure(x_axis_label="change of the prediction (stars)", y_axis_label="pairs", **SIZE)
    plot.xgrid.grid_line_color = None
    source = ColumnDataSource({"count": list(counts), "left": edges[:-1], "right": edges[1:]})
    plot.quad(top="count", bottom=0, left="left", right="right", color=BLUE, source=source)
    plot.add_tools(HoverTool(tooltips=[("from", "@left"), ("to", "@right"), ("pairs", "@count")]))
    plot.y_range.update(start=0)
    return plot
