"""What a run leaves to be read in Prefect: tables, a picture, Markdown, and progress while it fits."""

from __future__ import annotations

import base64
import logging
import math
import shlex
import time
from contextvars import copy_context
from html import escape
from pathlib import Path
from threading import Thread
from typing import Any

from httpx import HTTPError
from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from mfpipe.decision_tables import start_in_words
from mfpipe.fit import Fit
from mfpipe.report import write_report
from mfpipe.store import Store

log = logging.getLogger(__name__)

UPDATE_SECONDS = 2.0
SHOWN = 200  # half-steps of a table or picture: of a longer fit, evenly chosen ones and the last
_MARKDOWN = str.maketrans({sign: "\\" + sign for sign in "\\`*_{}[]()#+-.!|~$"})


def escaped(text: Any) -> str:
    """A text as itself in Markdown: no markup, no HTML, one line."""
    return escape(" ".join(str(text).split()), quote=False).translate(_MARKDOWN)


class Progress:
    """A progress artifact that follows a fit, at most every two seconds, and never keeps it waiting.

    It is sent from a thread of its own: where the server is gone or its database locked, Prefect's client
    waits for a minute before it raises.
    """

    def __init__(self, name: str, max_iter: int | None):
        self.max_iter = max_iter or 50
        self.artifact = create_progress_artifact(0.0, key="retrain-progress", description=f"Fit of {name}")
        self._due = time.monotonic() + UPDATE_SECONDS
        self._sender: Thread | None = None

    def __call__(self, record: dict) -> None:
        """Take note of an iteration."""
        busy = self._sender is not None and self._sender.is_alive()
        if busy or time.monotonic() < self._due:
            return
        percent = min(99.0, 100 * record["iteration"] / self.max_iter)
        self._due = time.monotonic() + UPDATE_SECONDS
        self._sender = Thread(target=copy_context().run, args=(self._show, percent), daemon=True)
        self._sender.start()

    def done(self) -> None:
        """Nothing is left to do."""
        self._show(100.0)

    def _show(self, percent: float) -> None:
        try:
            update_progress_artifact(self.artifact, percent)
        except HTTPError as error:
            log.warning("the progress is not shown in Prefect (%s: %s)", type(error).__name__, error)


def leave(record: dict, fit: Fit | None) -> None:
    """The artifacts of a retrain.

    Parameters
    ----------
    record : dict
        See `mfpipe.retraining.retrain`.
    fit : Fit, optional
        Without one, ended before it.
    """
    create_markdown_artifact(decision(record), key="retrain-decision", description=f"{record['name']}")
    if record["gate"]:
        create_table_artifact(
            systems(record), key="retrain-systems", description="RMSE in stars on the same held-out ratings"
        )
    stages = [{"stage": stage, "seconds": round(s, 3)} for stage, s in record["timings"].items()]
    create_table_artifact(stages, key="retrain-seconds", description="Where the time went")
    if fit is None or not fit.history:
        return
    create_table_artifact(half_steps(fit), key="retrain-half-steps", description="Each half-step")
    create_table_artifact(
        partitions(fit), key="retrain-partitions", description="Each partition, all iterations"
    )
    create_image_artifact(
        picture(fit.objectives), key="retrain-convergence", description="Objective after each half-step"
    )


def leave_report(name: str, version: str, store: str, key: str) -> Path:
    """Write a version's HTML report beside the store, and an artifact that says where.

    It is no link: browsers follow none from a web page to a file. Reports of versions that are no longer
    stored are deleted.
    """
    directory = Path(store).resolve() / "reports"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}-{version}.html"
    write_report(Store(store).version(name, version), path)
    stored = Store(store).numbers(name)
    for other in directory.glob(f"{name}-*.html"):
        number = other.stem.removeprefix(f"{name}-")
        if number.isdigit() and number not in stored:
            other.unlink(missing_ok=True)
    command = shlex.join(("mfpipe", "report", f"{name}@{version}", "--store", store, "-o", "report.html"))
    text = (
        f"A file of the machine that the run was on:\n\n    {path}\n\nAnew from the store:\n\n    {command}\n"
    )
    create_markdown_artifact(text, key=key, description=f"report of {name}@{version}")
    return path


def systems(record: dict) -> list[dict]:
    """The table of systems: what is published and what was tried, beside the user-item average."""
    names = {"champion": record["judged_by"] or "", "challenger": record["version"] or "not published"}
    return [
        {
            "system": system,
            "version": str(names.get(system, "")),
            **{key: found[key] for key in ("rmse", "rmse_warm", "rmse_cold", "coverage")},
        }
        for system, found in record["gate"]["systems"].items()
    ]


def thinned(records: list, most: int) -> list:
    """At most so many of them: the first, the last, and those at even distances between."""
    if len(records) <= most:
        return records
    last = len(records) - 1
    return [records[round(at * last / (most - 1))] for at in range(most)]


def half_steps(fit: Fit) -> list[dict]:
    """A row for each half-step."""
    return [
        {
            "iteration": each["iteration"],
            "side": half["side"],
            "objective": half["objective"],
            "seconds": round(half["seconds"], 4),
        }
        for each in thinned(fit.history, SHOWN // 2)
        for half in each["half_steps"]
    ]


def partitions(fit: Fit) -> list[dict]:
    """A row for each partition of each side, with its seconds over all iterations."""
    rows: dict[tuple[str, int], dict] = {}
    for each in fit.history:
        for half in each["half_steps"]:
            for part in half["partitions"]:
                side, number = half["side"], part["partition"]
                row = rows.setdefault(
                    (side, number),
                    {"side": side, "partition": number, "ratings": part["ratings"], "seconds": 0.0},
                )
                row["seconds"] = round(row["seconds"] + part["seconds"], 4)
                row["last worker"] = part["worker"]
    return list(rows.values())


def decision(record: dict) -> str:
    """The decision in Markdown; every name, id and message is escaped."""
    version = f"@{record['version']}" if record["version"] else ""
    lines = [
        f"## {escaped(record['name'] + version)}: {record['decision']}",
        "",
        escaped(record["words"]),
        "",
    ]
    data, test = record["data"], record["test"]
    facts = {
        "champion": record["champion"] and f"{record['name']}@{record['champion']}",
        "model": record["model"],
        "start": start_in_words(record["start"]),
        "trained on": f"{data['n_ratings']:,} ratings, {data['n_users']:,} users, {data['n_items']:,} items",
        "held out": f"{test['rows']:,} ratings of {test['users']:,} users, {test['holdout']}",
        "fingerprint of these": test["sha256"],
        "run": record["run"],
        "forced": "yes" if record["forced"] else "no",
    }
    lines += [
        "| | |",
        "|---|---|",
        *(f"| {key} | {escaped(value or 'none')} |" for key, value in facts.items()),
    ]
    if record["gate"]:
        lines += ["", "| check | passed | |", "|---|---|---|"]
        lines += [
            f"| {escaped(c['check'])} | {'yes' if c['passed'] else '**no**'} | {escaped(c['words'])} |"
            for c in record["gate"]["checks"]
        ]
    if record["drift"]:
        lines += ["", "| the ratings against the champion's | |", "|---|---|"]
        lines += [
            f"| {key.replace('_', ' ')} | {'not known' if value is None else format(value, '.4g')} |"
            for key, value in record["drift"].items()
        ]
    return "\n".join(lines)


def picture(objectives: list[float], width: int = 720, height: int = 300) -> str:
    """The objective after each half-step, on a logarithmic scale, as the address of an SVG."""
    numbers = thinned(list(range(len(objectives))), SHOWN)
    shown = [math.log10(objectives[at]) if objectives[at] > 0 else 0.0 for at in numbers]
    low, high = min(shown), max(shown)
    reach, left, top = (high - low) or 1.0, 90, 30
    across = (width - left - 20) / max(1, len(objectives) - 1)
    points = [
        (left + at * across, top + (high - value) / reach * (height - 2 * top))
        for at, value in zip(numbers, shown, strict=True)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="#1f5fa8"/>' for x, y in points)
    style = 'font-family="sans-serif" font-size="13" fill="#333"'
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">'
        f'<rect width="{width}" height="{height}" fill="#fff"/>'
        f'<polyline points="{line}" fill="none" stroke="#1f5fa8" stroke-width="2"/>{dots}'
        f'<text x="8" y="{top + 4}" {style}>{max(objectives):.5g}</text>'
        f'<text x="8" y="{height - top + 4}" {style}>{min(objectives):.5g}</text>'
        f'<text x="{left}" y="{height - 6}" {style}>half-steps from the start (0) to {len(objectives) - 1}; '
        f"objective, logarithmic</text></svg>"
    )
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
