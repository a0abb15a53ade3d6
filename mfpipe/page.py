"""A page of panels, each a figure with words and a table that say the same, in a file that opens offline."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from bokeh.document import Document
from bokeh.embed import components
from bokeh.models import ColumnDataSource, HoverTool
from bokeh.models.renderers import GlyphRenderer
from bokeh.plotting import figure
from bokeh.resources import Resources
from bokeh.themes import Theme
from jinja2 import ChoiceLoader, Environment, FileSystemLoader, FunctionLoader
from markupsafe import Markup

from mfpipe.errors import StoreError
from mfpipe.files import replace
from mfpipe.printable import printable

MOST_ROWS = 200  # of a figure's table; of more points every k-th is listed
LOOK = Theme(  # colours that the page's script knows, on the page's own background
    json={
        "attrs": {
            "Plot": {"background_fill_color": None, "border_fill_color": None, "outline_line_color": None},
            "Axis": {
                "axis_label_text_color": "#1c1c1c",
                "major_label_text_color": "#1c1c1c",
                "axis_line_color": "#555555",
                "major_tick_line_color": "#555555",
                "minor_tick_line_color": None,
                "axis_label_text_font_style": "normal",
            },
            "Grid": {"grid_line_color": "#cccccc"},
            "Legend": {
                "label_text_color": "#1c1c1c",
                "background_fill_color": None,
                "border_line_color": None,
            },
        }
    }
)
_COLUMN = re.compile(r"@\{?(\w+)")


class Panel(NamedTuple):
    """A figure of a page: its title, what it says in words, and how it is drawn.

    Where `when` is false there is nothing to show. `lacks` says in words why a figure that belongs on the
    page cannot be drawn; None where it can. Panels of the same `section` stand together.
    """

    title: str
    words: Callable[[Any], str]
    draw: Callable[[Any], figure]
    when: Callable[[Any], Any] = lambda drawn_from: True
    lacks: Callable[[Any], str | None] = lambda drawn_from: None
    section: str = ""


class Table(NamedTuple):
    """The figures behind a plot: names of columns, rows of texts, and how many points there are."""

    columns: list[str]
    rows: list[list[str]]
    points: int


def table_of(plot: figure) -> Table:
    """What the pointer shows of each point of a plot, as a table."""
    hover = next(tool for tool in plot.tools if isinstance(tool, HoverTool))
    assert isinstance(hover.tooltips, list)
    tips = [(label, "".join(_COLUMN.findall(tip))) for label, tip in hover.tooltips]
    glyphs = (renderer for renderer in plot.renderers if isinstance(renderer, GlyphRenderer))
    points: list[tuple] = []
    for source in {glyph.data_source.id: glyph.data_source for glyph in glyphs}.values():
        if isinstance(source, ColumnDataSource) and all(column in source.data for _, column in tips):
            points += zip(*(list(source.data[column]) for _, column in tips), strict=True)
    step = -(-len(points) // MOST_ROWS) or 1
    rows = [[shown(value) for value in point] for point in points[::step]]
    return Table([label for label, _ in tips], rows, len(points))


def shown(value: Any) -> str:
    """A value of a table as text; a dash where there is none."""
    if isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    if value is None or value != value:
        return "–"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.4f}" if 0.01 <= abs(value) < 1000 else f"{value:.4g}"


def page(
    template: str, panels: Sequence[Panel], drawn_from: Any, folder: Path | None = None, **context: Any
) -> str:
    """A page of those panels that have something to show, with all that it needs inside it.

    Parameters
    ----------
    template : str
        File of mfpipe, or of `folder`, that extends `page.html`.
    panels : sequence of Panel
    drawn_from : object
        Given to the functions of each panel.
    folder : Path, optional
    **context
        For the template.
    """
    lacking = {panel.title: words for panel in panels if (words := panel.lacks(drawn_from))}
    panels = [panel for panel in panels if panel.title not in lacking and panel.when(drawn_from)]
    plots = [panel.draw(drawn_from) for panel in panels]
    document = Document(theme=LOOK)
    with document.models.freeze():  # without it, Bokeh goes through all plots again after each is added
        for plot in plots:
            document.add_root(plot)
    script, divs = components(plots) if plots else ("", ())
    shown_panels = [
        {
            "title": panel.title,
            "section": panel.section,
            "words": panel.words(drawn_from),
            "table": table_of(plot),
            "div": Markup(div),
        }
        for panel, plot, div in zip(panels, plots, divs, strict=True)
    ]
    return templates(folder).get_template(template).render(
        sections=[(name, list(of)) for name, of in groupby(shown_panels, lambda panel: panel["section"])],
        lacking=lacking,
        bokeh=Markup(Resources(mode="inline", components=["bokeh"]).render_js() if plots else ""),
        script=Markup(script),
        **context,
    )  # fmt: skip


def templates(folder: Path | None) -> Environment:
    """Mfpipe's templates and those of a folder; every text in them is shown as text, whatever is in it."""
    ours = FunctionLoader(lambda name: files("mfpipe").joinpath(name).read_text(encoding="utf-8"))
    loaders = ([FileSystemLoader(folder)] if folder else []) + [ours]
    environment = Environment(autoescape=True, loader=ChoiceLoader(loaders), finalize=_plain)
    environment.filters |= {"shown": shown, "anchor": anchor}
    return environment


def _plain(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def anchor(title: str) -> str:
    """The id of a panel or a section on its page."""
    return re.sub(r"\W+", "-", title.lower()).strip("-")


def write_page(html: str, path: Path) -> None:
    """Write a page; `path` appears when it is complete. StoreError if it cannot be written."""
    try:
        replace(path, html.encode())
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror or error})") from error
