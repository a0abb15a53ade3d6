"""The tables of the history pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, NamedTuple

from mfpipe.dashboards.history.links import Link, Links
from mfpipe.dashboards.history.moved import Moved
from mfpipe.dashboards.history.reading import Snapshot, StoredModel, StoredVersion
from mfpipe.tables import number
from mfpipe.version import Version


class Table(NamedTuple):
    """Rows of texts and links; the row at `marked` stands out, and cells of a wordy one may wrap."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    said: str = ""
    marked: int | None = None
    wordy: bool = False


_OF_THE_FIT = {
    "test_rmse": "test RMSE, stars",
    "train_rmse": "training RMSE, stars",
    "objective": "objective",
    "n_iter": "iterations",
    "converged": "converged",
}
_OF_THE_TEST = {
    "rmse_warm": "test RMSE of known ids",
    "rmse_cold": "test RMSE of unseen ids",
    "mae": "mean absolute error, stars",
    "rows": "test records",
    "cold": "of them with an unseen id",
}
_OF_THE_DATA = {
    "n_ratings": "ratings",
    "n_users": "users",
    "n_items": "items",
    "global_mean": "mean rating",
    "spread": "standard deviation",
}


def _when(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment else "–"


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.6g}"


def models(snapshot: Snapshot, links: Links) -> Table:
    """A row for each model: its current version and what became of it last."""
    rows = []
    for model in snapshot.models.values():
        current = model.version(model.current)
        last = model.decisions[-1] if model.decisions else None
        rows.append(
            [
                Link(model.name, links.model(model.name)),
                model.current or "none",
                *_figures(current),
                f"{len(model.versions):,}",
                f"{last['decision']} {last['when'][:10]}" if last else "–",
            ]
        )
    columns = ("model", "current", "kind", "stored (UTC)", "test RMSE", "fit, s", "versions", "last decision")
    return Table("Models", columns, rows)


def _figures(version: StoredVersion | None) -> list[str]:
    if version is None:
        return ["–"] * 4
    if version.problem:
        return ["damaged", "–", "–", "–"]
    return [
        version.model or "–",
        _when(version.created),
        number(version.test_rmse),
        number(version.fit_seconds, 3),
    ]


def running(snapshot: Snapshot, name: str | None = None) -> Table:
    """Runs that are in progress or were interrupted, of one model or of all."""
    rows = [
        [
            run["run"],
            run["state"],
            run["name"],
            run["model"],
            run["started"][:16].replace("T", " "),
            number(run["iteration"]),
            _short(run["objective"]),
        ]
        for run in snapshot.runs
        if name in (None, run["name"])
    ]
    columns = ("run", "state", "model", "kind", "started (UTC)", "iteration", "objective")
    said = (
        "As of the last checkpoint. An interrupted one goes on with `mfpipe resume RUN`."
        if rows
        else "No fit is running, and none was interrupted."
    )
    return Table("Runs in progress", columns, rows, said)


def versions(model: StoredModel, links: Links) -> Table:
    """Every version of a model, newest first; the current one is marked."""
    columns = (
        "version", "stored (UTC)", "kind", "rank", "λ", "test RMSE", "training RMSE", "objective",
        "iterations", "ratings", "users", "items", "fit, s", "all, s", "report", "comparison",
    )  # fmt: skip
    rows, marked = [], None
    before = {later.number: earlier.label for earlier, later in pairwise(model.versions)}
    for at, version in enumerate(reversed(model.versions)):
        is_current = version.number == model.current
        marked = at if is_current else marked
        label = version.number + (" (current)" if is_current else "")
        rows.append([label, *_cells(version, links, before.get(version.number))])
    return Table("Versions", columns, rows, marked=marked)


def _cells(version: StoredVersion, links: Links, before: str | None) -> list[Any]:
    if version.problem:
        return ["damaged", *["–"] * 12, "", ""]
    data, params = version.data, version.params
    compared = before and links.compare(before, version.label)
    return [
        _when(version.created),
        version.model,
        number(params.get("rank")),
        _short(params.get("regularization")),
        number(version.test_rmse),
        number(version.train_rmse),
        _short(version.objective),
        number(version.n_iter) + ("" if version.converged else ", not converged"),
        *(number(data[f"n_{what}"]) for what in ("ratings", "users", "items")),
        number(version.fit_seconds, 3),
        number(version.all_seconds, 3),
        _link(f"report of {version.number}", links.report(version.label)),
        _link(f"compare {version.number} with the one before", compared),
    ]


def _link(text: str, href: str | None) -> Link | str:
    return Link(text, href) if href else ""


def decisions(model: StoredModel) -> Table:
    """What became of each retrain and of each version trained by hand, newest first."""
    columns = ("when (UTC)", "decision", "version", "RMSE", "champion", "its RMSE", "why")
    rows, marked = [], None
    for at, row in enumerate(reversed(model.decisions)):
        if row["version"] is not None and row["version"] == model.current:
            marked = at
        rows.append(
            [
                row["when"][:16].replace("T", " "),
                row["decision"] + (", forced" if row["forced"] else ""),
                row["version"] or "–",
                number(row["rmse"]),
                row["champion"] or "–",
                number(row["champion_rmse"]),
                row["words"],
            ]
        )
    said = "" if rows else "Nothing has been decided about this model yet."
    return Table("Decisions", columns, rows, said, marked, wordy=True)


def comparison(a: Version, b: Version) -> list[Table]:
    """Parameters, metrics and data of two versions, side by side."""
    columns = ("", *(f"{version.name}@{version.number}" for version in (a, b)), "change")
    params = _side_by_side(*({"model": v.manifest["model"]} | v.manifest["params"] for v in (a, b)))
    same = [f"{row[0]} {row[1]}" for row in params if not row[3]]
    said = ("The same in both: " + ", ".join(same) + ".") if same else "All differ."
    metrics, data = (_side_by_side(of(a), of(b)) for of in (_metrics, _data))
    return [
        Table("Parameters", columns, [row for row in params if row[3]], said, wordy=True),
        Table("Metrics", columns, metrics, _tested_on(a, b)),
        Table("Data", columns, data, _trained_on(a, b), wordy=True),
    ]


def _side_by_side(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[list[str]]:
    """A row for each thing: its name, both values, and how they differ; an empty text where they do not."""
    rows = []
    for what in dict.fromkeys((*a, *b)):
        mine, theirs = a.get(what), b.get(what)
        rows.append([what.replace("_", " "), _text(mine), _text(theirs), _change(mine, theirs)])
    return rows


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return number(value) if value is None or isinstance(value, int) else str(value)


def _change(a: Any, b: Any) -> str:
    if a == b:
        return ""
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in (a, b)):
        return "differs"
    return f"{b - a:+.6g}" + (f" ({(b - a) / a:+.2%})" if a else "")


def _metrics(version: Version) -> dict[str, Any]:
    manifest = version.manifest
    found = version.json("metrics.json") if "metrics.json" in manifest["files"] else {}
    seconds = {f"seconds of {stage}": s for stage, s in manifest.get("timings", {}).items()}
    return (
        {words: manifest.get(key) for key, words in _OF_THE_FIT.items()}
        | {words: found.get(key) for key, words in _OF_THE_TEST.items()}
        | {what: seconds.get(what) for what in ("seconds of fit", "seconds of total")}
    )


def _data(version: Version) -> dict[str, Any]:
    manifest, data = version.manifest, version.manifest["data"]
    time = data.get("time") or {}
    return {words: data.get(key) for key, words in _OF_THE_DATA.items()} | {
        "earliest rating": _moment(time.get("earliest")),
        "latest rating": _moment(time.get("latest")),
        "read from": ", ".join(data.get("inputs", ())) or None,
        "tested on": ", ".join(data.get("test", ())) or data.get("holdout"),
        "sha256": data.get("sha256") and f"{data['sha256'][:16]}…",
        "stored (UTC)": manifest["created"],
        "by mfpipe": manifest.get("mfpipe"),
    }


def _moment(microseconds: int | None) -> str | None:
    """A rating's time in words; years that a calendar does not have stay numbers."""
    if microseconds is None:
        return None
    try:
        return _when(datetime.fromtimestamp(microseconds / 1e6, UTC))
    except (ValueError, OverflowError, OSError):
        return f"{microseconds / 1e6:.0f} s since 1970"


def _trained_on(a: Version, b: Version) -> str:
    sums = [version.manifest["data"].get("sha256") for version in (a, b)]
    if None in sums:
        return "At least one of them does not say which ratings it was trained on."
    same = sums[0] == sums[1]
    return "Both were trained on the same ratings." if same else "They were trained on different ratings."


def _tested_on(a: Version, b: Version) -> str:
    sums = [(version.manifest.get("retrain") or {}).get("test", {}).get("sha256") for version in (a, b)]
    if None in sums:
        return "RMSEs compare only where both were tested on the same records, which is not recorded here."
    if sums[0] == sums[1]:
        return "Both were tested on the same records."
    return "They were tested on different records, so that their RMSEs compare only roughly."


def moved(found: Moved, a: str, b: str) -> Table:
    """The pairs whose predictions moved most."""
    rows = [
        [row["user"], row["item"], _short(row["rating"]), *(f"{row[key]:.4f}" for key in ("a", "b")),
         f"{row['b'] - row['a']:+.4f}"]
        for row in found.most
    ]  # fmt: skip
    return Table("Predictions that moved most", ("user", "item", "rating", a, b, "change"), rows)
