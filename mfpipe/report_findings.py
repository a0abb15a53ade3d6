"""What a reader of a report should look at: a finding is one function and one line of `LOOKS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mfpipe.report_data import FACTORS, Stored
from mfpipe.report_words import count_label, interval

MANY_COLD = 0.05  # share of test records
OVERFITTED = 1.25  # test RMSE over train RMSE
IMBALANCED = 1.5  # slowest partition over the mean
INEFFICIENT = 0.5
SHORT = 1.0  # seconds of a fit, below which how they were spent is nobody's concern


class Finding(NamedTuple):
    """Something to look at, and the panel that shows it, if one does."""

    words: str
    panel: str = ""


def findings(stored: Stored) -> list[Finding]:
    """What a reader should look at; empty if nothing stands out."""
    return [finding for look in LOOKS if (finding := look(stored))]


def _not_better_than_average(stored: Stored) -> Finding | None:
    if not stored.diagnosis or stored.manifest["model"] == "user-item-mean":
        return None
    found = stored.diagnosis["average"]["difference"]
    if found["rmse"] < 0 and (found["interval"] is None or found["interval"][1] < 0):
        return None
    return Finding("It is not clearly better than the user-item average, which needs no training.")


def _worse_than_before(stored: Stored) -> Finding | None:
    before = stored.before
    ends = before and before.difference and before.difference["interval"]
    if not before or not ends or ends[0] <= 0:
        return None
    return Finding(f"It is worse than {before.label} on the same test records.")


def _forced(stored: Stored) -> Finding | None:
    retrain = stored.manifest.get("retrain") or {}
    return (
        Finding(f"The gate refused it, and it was published all the same: {retrain['words']}.")
        if retrain.get("forced")
        else None
    )


def _seen(stored: Stored) -> Finding | None:
    seen = stored.manifest["data"].get("test_seen_in_training")
    return (
        Finding(f"{seen:,} test records are also in the training ratings; the RMSE flatters.")
        if seen
        else None
    )


def _rejected(stored: Stored) -> Finding | None:
    report = stored.manifest["data"].get("ingest") or {}
    if not report.get("rejected"):
        return None
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in report.get("reasons", {}).items())
    where = f", listed in {report['quarantine']}" if report.get("quarantine") else ""
    share = f"{report['rejected']:,} of {report['rows']:,} lines"
    return Finding(f"{share} of the input were left out ({reasons}){where}.")


def _cold(stored: Stored) -> Finding | None:
    metrics = stored.metrics
    if not metrics or metrics["cold"] <= MANY_COLD * metrics["rows"]:
        return None
    share = 100 * metrics["cold"] / metrics["rows"]
    return Finding(f"{share:.1f} % of the test records are of users or items that it was not trained on.")


def _overfitted(stored: Stored) -> Finding | None:
    train, warm = stored.manifest["train_rmse"], stored.metrics.get("rmse_warm")
    if not stored.has_factors or not warm or warm <= OVERFITTED * train:
        return None
    return Finding(
        f"On known users and items its RMSE is {warm:.4f} stars in the test and {train:.4f} in training: "
        "more regularization or a lower rank may do better.",
        "RMSE by iteration",
    )


def _rising(stored: Stored) -> Finding | None:
    curve = [value for value in stored.history.get("test_rmse", ()) if value is not None]
    if len(curve) < 3 or min(curve) > 0.995 * curve[-1]:
        return None
    best = int(np.argmin(curve)) + 1
    return Finding(
        f"The test RMSE was lowest after iteration {best}, {min(curve):.4f} stars, and ended at "
        f"{curve[-1]:.4f}.",
        "RMSE by iteration",
    )


def _biased(stored: Stored) -> Finding | None:
    whole = stored.diagnosis.get("all", {})
    ends = whole.get("mean_interval")
    if not ends or ends[0] <= 0 <= ends[1]:
        return None
    side = "high" if ends[0] > 0 else "low"
    return Finding(
        f"Predictions are too {side} by {abs(whole['mean_residual']):.4f} stars on average, "
        f"{interval(sorted(map(abs, ends)))}.",
        "Calibration",
    )


def _miscalibrated(stored: Stored) -> Finding | None:
    rows = [row for row in stored.diagnosis.get("calibration", ()) if row["true_interval"]]
    off = [row for row in rows if not row["true_interval"][0] <= row["predicted"] <= row["true_interval"][1]]
    if not off:
        return None
    worst = max(off, key=lambda row: abs(row["predicted"] - row["true"]))
    return Finding(
        f"Where it predicts {worst['predicted']:.2f} stars, true ratings are {worst['true']:.2f} on average.",
        "Calibration",
    )


def _weak_slice(stored: Stored) -> Finding | None:
    worst = None
    for side in ("user", "item"):
        for row in stored.diagnosis.get(f"by_{side}_count", ()):
            surely = row["rmse_interval"] and row["rmse_interval"][0] > stored.diagnosis["all"]["rmse"]
            if surely and row["first"] and (worst is None or row["rmse"] > worst[1]["rmse"]):
                worst = side, row
    if worst is None:
        return None
    side, row = worst
    return Finding(
        f"For {side}s with {count_label(row)} training ratings the RMSE is {row['rmse']:.4f} stars.",
        f"RMSE by number of ratings of the {side}",
    )


def _zero_rows(stored: Stored) -> Finding | None:
    if not stored.has_factors or stored.lacks(FACTORS):
        return None
    zero = {side: int((~rows.any(axis=1)).sum()) for side, rows in stored.factors.items()}
    if not any(zero.values()):
        return None
    return Finding(
        f"The factors of {zero['user']:,} users and {zero['item']:,} items are all zero: to the factors, "
        "these are all alike.",
        "Norms of user factors",
    )


def _one_sided(stored: Stored) -> Finding | None:
    if not stored.timings.get("iterations"):
        return None
    side, ratio = max(stored.imbalance.items(), key=lambda of: of[1])
    if ratio <= IMBALANCED or stored.timings["stages"]["fit"] < SHORT:
        return None
    return Finding(
        f"The slowest {side} partition takes {ratio:.1f} times as long as the mean.", "Seconds by partition"
    )


def _idle(stored: Stored) -> Finding | None:
    if not stored.timings.get("threads") or not stored.timings.get("iterations"):
        return None
    shares = np.concatenate(list(stored.efficiency.values()))
    share = float(np.median(shares))
    if share >= INEFFICIENT or stored.timings["stages"]["fit"] < SHORT:
        return None
    return Finding(f"The threads solved rows for {100 * share:.0f} % of their time.", "Parallel efficiency")


LOOKS: list[Callable[[Stored], Finding | None]] = [
    _not_better_than_average,
    _worse_than_before,
    _forced,
    _seen,
    _rejected,
    _cold,
    _overfitted,
    _rising,
    _biased,
    _miscalibrated,
    _weak_slice,
    _zero_rows,
    _one_sided,
    _idle,
]
