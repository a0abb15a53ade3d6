"""What the live page says in words. Whatever comes from outside is escaped here."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Mapping

from mfpipe.dashboards.live.fits import Fits, Seen
from mfpipe.printable import printable
from mfpipe.remaining import duration

STYLE = """
:host { font: 14px/1.5 Helvetica, Arial, sans-serif; color: #222; }
h1 { font-size: 24px; margin: 4px 0; } h1 small { font-weight: normal; color: #555; }
.bk-clearfix { width: 100%; }
p { margin: 4px 0; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); gap: 8px; margin: 8px 0; }
dl div { background: #fff; border: 1px solid #ddd; border-radius: 4px; padding: 6px 10px; }
dt { color: #555; font-size: 12px; } dd { margin: 0; font-size: 18px; }
table { border-collapse: collapse; }
th { text-align: left; font-weight: normal; color: #555; vertical-align: top; }
th, td { padding: 1px 16px 1px 0; } [aria-current] { font-weight: bold; }
"""


def escaped(text: object) -> str:
    """Text as HTML that shows it, whatever it holds."""
    return html.escape(printable(str(text)))


def state(seen: Seen) -> str:
    """Whether it runs, or how it ended."""
    return "running" if seen.ended is None else seen.ended["state"]


def heading(fits: Fits, seen: Seen | None) -> str:
    """What is being fitted, and how it ended."""
    if seen is None:
        return "<h1>No fit yet</h1><p>The next fit on this cluster is shown here as soon as it begins.</p>"
    said = [f"<h1>{escaped(seen.name)} <small>{escaped(seen.about['model'])}, {state(seen)}</small></h1>"]
    if seen.ended:
        said += [f"<p>{escaped(line)}</p>" for line in seen.ended["words"]]
    if not seen.about["iterates"]:
        said.append("<p>A model without factors: it is computed in one pass, with nothing to watch.</p>")
    elif not seen.heard and not seen.ended:
        said.append("<p>The first iteration has not ended yet.</p>")
    return "".join(said)


def figures(fits: Fits, seen: Seen | None) -> str:
    """The newest figures, which the plots show too."""
    if seen is None or not seen.heard:
        return ""
    iterates = seen.about["iterates"]
    shown = {f"iteration of at most {seen.about['max_iter']:,}": f"{seen.iteration:,}"} if iterates else {}
    shown |= {
        "objective": _number(seen.last("objective"), ".8g"),
        "train RMSE (stars)": _number(seen.last("train_rmse"), ".6f"),
        "test RMSE (stars)": _number(seen.last("test_rmse"), ".6f"),
        "seconds an iteration" if iterates else "seconds": _number(seen.last("seconds"), ".3f"),
        "ratings a second": _number(seen.last("ratings_per_second"), ",.0f"),
    }
    if iterates:
        shown["last fall of the objective"] = _number(seen.last("fall"), ".2e")
        shown["time left"] = _left(seen)
    cells = "".join(f"<div><dt>{key}</dt><dd>{value}</dd></div>" for key, value in shown.items())
    return f"<dl>{cells}</dl>" + _table(_shared_out(seen))


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else f"{value:{form}}"


def _left(seen: Seen) -> str:
    if seen.ended:
        return "none"
    return "not known yet" if seen.left is None else f"about {duration(seen.left)}"


def _shared_out(seen: Seen) -> dict[str, str]:
    """How the work is shared out, and what went wrong with workers."""
    imbalance = ", ".join(f"{side}s {value:.2f}" for side, value in seen.imbalance().items())
    lost = f"{seen.workers_lost:,}, and {seen.tasks_again:,} tasks run again" if seen.workers_lost else "none"
    return {"imbalance": f"{imbalance} (seconds of the slowest partition by the mean)", "workers lost": lost}


def description(fits: Fits, seen: Seen | None) -> str:
    """What stays the same during a fit."""
    if seen is None:
        return ""
    about, rows = seen.about, seen.about["rows"]
    shown = {
        "began": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(about["began"])),
        "trained on": f"{about['ratings']:,} ratings, {rows['user']:,} users, {rows['item']:,} items",
        "memory": ", ".join(f"{what} {_bytes(n)}" for what, n in about["bytes"].items()),
        "parameters": escaped(", ".join(f"{key} {value}" for key, value in about["params"].items())),
    }
    if about["report"]:
        shown["report, once stored"] = f"<code>{escaped(about['report'])}</code>"
    return _table({key: value for key, value in shown.items() if value})


def choice(fits: Fits, seen: Seen | None) -> str:
    """All fits to choose from, the last to begin first; nothing where there is no choice."""
    if len(fits) < 2:
        return ""
    rows = []
    for one in reversed(list(fits)):
        here = " aria-current='page'" if one is seen else ""
        cells = (
            f"<a href='?fit={escaped(one.key)}'{here}>{escaped(one.name)}</a>",
            escaped(one.about["model"]),
            time.strftime("%H:%M:%S", time.localtime(one.about["began"])),
            state(one),
        )
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f"<table><caption>All fits</caption>{''.join(rows)}</table>"


def _table(rows: Mapping[str, str]) -> str:
    """A table of two columns; the values are HTML already."""
    body = (f"<tr><th scope='row'>{key}</th><td>{value}</td></tr>" for key, value in rows.items())
    return f"<table>{''.join(body)}</table>"


def _bytes(n: float) -> str:
    for unit in ("B", "kB", "MB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} GB"


TEXTS: dict[str, Callable[[Fits, Seen | None], str]] = {
    "heading": heading,
    "figures": figures,
    "description": description,
    "choice": choice,
}
