"""The HTML report of a version: one file that opens offline, rendered from what the store keeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mfpipe.command_line import train_command
from mfpipe.errors import StoreError
from mfpipe.page import Panel, page, write_page
from mfpipe.ratings import Rules
from mfpipe.report_data import FACTORS, Stored
from mfpipe.report_findings import findings
from mfpipe.report_panels import PANELS
from mfpipe.report_words import summary
from mfpipe.similar import Similar
from mfpipe.version import Version

__all__ = ["PANELS", "Panel", "page", "render", "write_page", "write_report"]

POPULAR, NEAREST = 6, 5  # items shown with their neighbours, and how many of these


def write_report(version: Version, path: Path, titles: Mapping[str, str] | None = None) -> None:
    """Write a version's report; `path` appears when it is complete.

    Parameters
    ----------
    version : Version
    path : Path
    titles : mapping of item id to title, optional
        Shows the nearest items of a few popular ones.

    Raises
    ------
    StoreError
        `path` cannot be written, or files of the version are damaged: the report then says so, and shows what
        the others hold.
    """
    stored = Stored(version, titles or {})
    write_page(render(stored), path)
    if stored.damage:
        raise StoreError(f"{path} shows what is left of {stored.label}: {'; '.join(stored.damage.values())}")


def render(stored: Stored) -> str:
    """The report as one HTML text."""
    return page(
        "report.html",
        PANELS,
        stored,
        label=stored.label,
        manifest=stored.manifest,
        summary=summary(stored),
        findings=findings(stored),
        damage=list(stored.damage.values()),
        versions=_versions(stored),
        systems=_systems(stored.systems),
        nearest=_nearest(stored),
        untitled=""
        if stored.titles or not stored.has_factors
        else "No titles were given (--item-titles FILE).",
        command=_command(stored.manifest),
        unlike=_unlike(stored.manifest),
    )


def _number(value: float | None, digits: str = ".4f") -> str:
    return "–" if value is None else f"{value:{digits}}"


def _versions(stored: Stored) -> list[list[str]]:
    """The version, the one before it and the user-item average, side by side."""
    rows = []
    manifests = [(stored.label, stored.manifest, stored.metrics)]
    if stored.before and stored.before.manifest:
        manifests.append((stored.before.label, stored.before.manifest, {}))
    for label, manifest, metrics in manifests:
        rows.append(
            [
                label,
                _number(manifest["test_rmse"]),
                _number(metrics.get("rmse_warm")),
                _number(metrics.get("rmse_cold")),
                _number(manifest["train_rmse"]),
                _number(manifest["objective"], ".6g"),
                str(manifest["n_iter"]),
                f"{manifest['data']['n_ratings']:,}",
            ]
        )
    if stored.diagnosis:
        average = _number(stored.diagnosis["average"]["rmse"])
        rows.append(["user-item average", average, *["–"] * 5, f"{stored.manifest['data']['n_ratings']:,}"])
    return rows


def _systems(systems: list[dict]) -> list[list[str]]:
    """The comparison that the version was made in."""
    return [
        [
            s["label"],
            *(_number(s[key]) for key in ("test_rmse", "test_rmse_warm", "test_rmse_cold")),
            f"{s['objective']:.6g}",
            str(s["n_iter"]),
            *(_number(s["seconds"].get(way), ".3f") for way in ("serial", "threads", "cluster")),
            "yes" if s["identical"] else "NO",
        ]
        for s in systems
    ]


def _nearest(stored: Stored) -> list[list[str]]:
    """Popular items with the items nearest to them, by title where there is one."""
    if not stored.titles or not stored.has_factors or stored.lacks(FACTORS):
        return []
    assert stored.fitted is not None
    fitted, similar = stored.fitted, Similar(stored.fitted)
    popular = np.argsort(-fitted.item_counts, kind="stable")
    popular = popular[similar.directions[popular].any(axis=1)][:POPULAR]
    found = similar.best(popular, NEAREST)
    rows = []
    for at, row in enumerate(popular):
        mine = found.query == at
        near = [
            f"{_title(stored, other)} ({score:.2f})"
            for other, score in zip(found.row[mine], found.score[mine], strict=True)
        ]
        rows.append([_title(stored, row), f"{fitted.item_counts[row]:,}", "; ".join(near)])
    return rows


def _title(stored: Stored, row: int) -> str:
    assert stored.fitted is not None
    item = stored.fitted.items[row]
    return stored.titles.get(item, f"item {item}")


def _unlike(manifest: dict[str, Any]) -> str:
    """Why the command ends elsewhere than this version did; empty where it does not."""
    start = (manifest.get("retrain") or {}).get("start", {}).get("from")
    reasons = [f"it began from the factors of {start}"] if start else []
    if manifest["data"].get("refit"):
        reasons.append("it was refitted on all ratings, the held-out ones included")
    return " and ".join(reasons)


def _command(manifest: dict[str, Any]) -> str:
    """The command that makes this version again."""
    data = manifest["data"]
    return train_command(
        data["inputs"],
        manifest["model"],
        manifest["params"],
        data.get("test", ()),
        data.get("holdout"),
        Rules.of(data["rules"]) if "rules" in data else None,
        name=manifest["name"],
        cluster=manifest["place"]["cluster"],
    )
