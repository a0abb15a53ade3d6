"""The HTML report of a run: all tables, and figures of what depends on something."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any

from bokeh.models import ColumnDataSource, HoverTool
from bokeh.plotting import figure

from benchmarks.page import summary
from benchmarks.tables import name_of, tables
from mfpipe.page import Panel, page, write_page
from mfpipe.plots import BLUE, GREEN, ORANGE, SIZE, VERMILION

COLOURS = (BLUE, VERMILION, GREEN, ORANGE, "#CC79A7", "#56B4E9", "#F0E442", "#000000")
Points = list[tuple[float, float]]


def write_report(results: dict, path: Path) -> None:
    """Write the report; `path` appears when it is complete."""
    write_page(render(results), path)


def render(results: dict) -> str:
    """The report as one HTML text that opens offline."""
    return page(
        "report_of_benchmark.html",
        PANELS,
        results["sections"],
        Path(__file__).parent,
        summary=summary(results),
        tables=[table for table in tables(results) if table.rows],
        stages=results["seconds"],
    )


def lines(curves: dict[str, Points], x: str, y: str, **axes: Any) -> figure:
    """One line with markers for each curve, with its legend."""
    plot = figure(x_axis_label=x, y_axis_label=y, **(SIZE | {"height": 380} | axes))
    for (name, points), colour in zip(curves.items(), cycle(COLOURS), strict=False):
        ordered = sorted(points)
        source = ColumnDataSource({"x": [p[0] for p in ordered], "y": [p[1] for p in ordered]})
        source.data["name"] = [name] * len(ordered)
        plot.line("x", "y", source=source, legend_label=name, color=colour, line_width=2)
        plot.scatter("x", "y", source=source, legend_label=name, color=colour, size=6)
    plot.add_tools(HoverTool(tooltips=[("", "@name"), (x, "@x"), (y, "@y")]))
    plot.add_layout(plot.legend[0], "below")
    plot.legend.click_policy = "hide"
    return plot


LOG = {"x_axis_type": "log", "y_axis_type": "log"}


def by_rank(sections: dict) -> dict[str, Points]:
    """Seconds an iteration over the rank, for every system and set."""
    curves: dict[str, Points] = {}
    for row in sections.get("peers") or []:
        if row.get("seconds"):
            name = f"{name_of(row)}, {row['set']}"
            curves.setdefault(name, []).append((row["rank"], row["seconds"]["median"]))
    return {name: points for name, points in curves.items() if min(y for _, y in points) > 0}


def by_seconds(sections: dict) -> dict[str, Points]:
    """Held-out RMSE over the seconds of fit."""
    return {
        f"{name_of(row)}, {row['set']}, rank {row['rank']}": [
            (at["seconds"], at["held_out_rmse"]) for at in row["reached"]
        ]
        for row in sections.get("reach") or []
        if row.get("reached")
    }


def cost(sections: dict, section: str, what: str) -> dict[str, Points]:
    """Seconds or peak memory over what the section varies."""
    sizes = {row["name"]: row["training"] for row in sections.get("sets") or []}
    curves: dict[str, Points] = {}
    for row in sections.get("cost") or []:
        if row["section"] != section or not row.get("seconds"):
            continue
        at = {
            "cost by ratings": sizes.get(row["set"], 0),
            "cost by rank": row["rank"],
            "cost by partitions": int(row["options"].get("partitions", 0)),
        }[section]
        height = row["seconds"]["median"] if what == "seconds" else row["peak"]["max"] / 1e6
        curves.setdefault(row["options"].get("cluster", "threads"), []).append((at, height))
    return curves


def _cost_panel(section: str, x: str, what: str) -> Panel:
    y = "seconds an iteration" if what == "seconds" else "peak MB above the loaded ratings"
    return Panel(
        f"{section.capitalize()}: {what}",
        lambda sections: "als, float32; the figures are in the table of the same name.",
        lambda sections: lines(cost(sections, section, what), x, y, **LOG),
        lambda sections: bool(cost(sections, section, what)),
    )


PANELS = [
    Panel(
        "Seconds an iteration by rank",
        lambda sections: "Every system on the same triples and cores.",
        lambda sections: lines(by_rank(sections), "rank", "seconds an iteration", **LOG),
        lambda sections: bool(by_rank(sections)),
    ),
    Panel(
        "Held-out RMSE by seconds of fit",
        lambda sections: "Where a package tells nothing of its iterations, each point is a fit of its own.",
        lambda sections: lines(
            by_seconds(sections), "seconds of fit", "held-out RMSE (stars)", x_axis_type="log"
        ),
        lambda sections: bool(by_seconds(sections)),
    ),
    *(
        _cost_panel(section, x, what)
        for section, x in (
            ("cost by ratings", "training ratings"),
            ("cost by rank", "rank"),
            ("cost by partitions", "partitions"),
        )
        for what in ("seconds", "memory")
    ),
]
