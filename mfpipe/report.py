"""The HTML report of a version: one file that opens offline, rendered from what the store keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from bokeh.embed import components
from bokeh.plotting import figure
from bokeh.resources import Resources
from jinja2 import Environment, FunctionLoader

from mfpipe import plots
from mfpipe.command_line import train_command
from mfpipe.errors import StoreError
from mfpipe.files import replace
from mfpipe.fitted import FittedModel
from mfpipe.models import FactorModel
from mfpipe.store import Version


class Stored(NamedTuple):
    """All that a panel may draw from."""

    version: Version
    fitted: FittedModel
    history: dict[str, list]
    timings: dict
    metrics: dict
    systems: list[dict]


class Panel(NamedTuple):
    """A figure of the report: its title, what it says in words, and how it is drawn."""

    title: str
    words: Callable[[Any], str]
    draw: Callable[[Any], figure]
    when: Callable[[Any], bool] = lambda drawn_from: True


def _has_factors(stored: Stored) -> bool:
    return isinstance(stored.fitted.model, FactorModel)


def _iterated(stored: Stored) -> bool:
    return _has_factors(stored) and bool(stored.history["iteration"])


def _between(values: list[float], digits: str = ".6g") -> str:
    return f"from {values[0]:{digits}} to {values[-1]:{digits}}"


PANELS = [
    Panel(
        "Every system on the same test records",
        lambda s: "; ".join(f"{row['label']} {row['test_rmse']:.4f}" for row in s.systems) + " stars.",
        lambda s: plots.systems(s.systems),
        lambda s: bool(s.systems),
    ),
    Panel(
        "Objective",
        lambda s: f"It went {_between(s.history['objective'])} in {len(s.history['iteration'])} iterations.",
        lambda s: plots.objective(s.history),
        _iterated,
    ),
    Panel(
        "RMSE by iteration",
        lambda s: (
            f"On training ratings {_between(s.history['train_rmse'], '.4f')} stars, "
            f"on test records {_between(s.history['test_rmse'], '.4f')}."
        ),
        lambda s: plots.rmse(s.history),
        _iterated,
    ),
    Panel(
        "Seconds by half-step",
        lambda s: f"The fit took {s.timings['stages']['fit']:.3f} s.",
        lambda s: plots.half_steps(s.history),
        _iterated,
    ),
    Panel(
        "Seconds by partition",
        lambda s: "The median over all iterations; cut to equal numbers of ratings.",
        lambda s: plots.partitions(s.timings["iterations"]),
        lambda s: bool(s.timings["iterations"]),
    ),
    Panel(
        "Residuals of the test records",
        lambda s: f"RMSE {s.metrics['rmse']:.4f} and mean absolute error {s.metrics['mae']:.4f} stars.",
        lambda s: plots.residuals(s.metrics["residuals"]),
    ),
    Panel(
        "Errors by true rating",
        lambda s: (
            "; ".join(f"{row['rating']:g} stars: RMSE {row['rmse']:.3f}" for row in s.metrics["by_rating"])
            + "."
        ),
        lambda s: plots.by_rating(s.metrics["by_rating"]),
    ),
    Panel(
        "Norms of user factors",
        lambda s: _zeros(s, "user"),
        lambda s: plots.norms(_factors(s, "user"), "user"),
        _has_factors,
    ),
    Panel(
        "Norms of item factors",
        lambda s: _zeros(s, "item"),
        lambda s: plots.norms(_factors(s, "item"), "item"),
        _has_factors,
    ),
]


def _factors(stored: Stored, side: str) -> np.ndarray:
    """One side's factors without its biases."""
    return getattr(stored.fitted.factors, side)[:, -stored.version.manifest["params"]["rank"] :]


def _zeros(stored: Stored, side: str) -> str:
    return f"{100 * (_factors(stored, side) == 0).mean():.1f} % of the {side} factors are exactly zero."


def write_report(version: Version, path: Path) -> None:
    """Write a version's report; `path` appears when it is complete.

    Raises
    ------
    StoreError
        The version is damaged, or `path` cannot be written.
    """
    write_page(render(version), path)


def write_page(html: str, path: Path) -> None:
    """Write a page; `path` appears when it is complete. StoreError if it cannot be written."""
    try:
        replace(path, html.encode())
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror or error})") from error


def render(version: Version) -> str:
    """The report of a version as one HTML text."""
    stored = Stored(
        version,
        version.load(),
        version.table("history.parquet").to_pydict(),
        version.json("timings.json"),
        version.json("metrics.json"),
        _systems(version),
    )
    return page(
        "report.html",
        PANELS,
        stored,
        manifest=version.manifest,
        metrics=stored.metrics,
        systems=stored.systems,
        stages=stored.timings["stages"],
        command=_command(version.manifest),
    )


def _systems(version: Version) -> list[dict]:
    """The comparison that the version was made in, if any; older ones call a system by its model."""
    if "systems.json" not in version.manifest["files"]:
        return []
    return [{"label": row["model"]} | row for row in version.json("systems.json")]


def page(template: str, panels: Sequence[Panel], drawn_from: Any, **context: Any) -> str:
    """A page of those panels that have something to show, with all that it needs inside it."""
    panels = [panel for panel in panels if panel.when(drawn_from)]
    script, divs = components([panel.draw(drawn_from) for panel in panels])
    shown = [
        {"title": panel.title, "words": panel.words(drawn_from), "div": div}
        for panel, div in zip(panels, divs, strict=True)
    ]
    templates = FunctionLoader(lambda name: files("mfpipe").joinpath(name).read_text(encoding="utf-8"))
    resources = Resources(mode="inline", components=["bokeh"])
    return (
        Environment(autoescape=True, loader=templates)
        .get_template(template)
        .render(panels=shown, bokeh=resources.render_js(), script=script, **context)
    )


def _command(manifest: dict[str, Any]) -> str:
    """The command that makes this version again."""
    data = manifest["data"]
    return train_command(
        data["inputs"],
        manifest["model"],
        manifest["params"],
        data.get("test", ()),
        data.get("holdout"),
        name=manifest["name"],
        cluster=manifest["place"]["cluster"],
    )
