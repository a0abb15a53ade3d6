"""The report in words: what was trained on what, how good, how sure, against what, and what to look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mfpipe.models.base import flag
from mfpipe.report_data import FACTORS, Stored

MANY_COLD = 0.05  # share of test records
OVERFITTED = 1.25  # test RMSE over train RMSE
IMBALANCED = 1.5  # slowest partition over the mean
INEFFICIENT = 0.5
SHORT = 1.0  # seconds of a fit, below which how they were spent is nobody's concern


def interval(ends: list[float] | None, digits: str = ".4f") -> str:
    return f"95 % interval {ends[0]:{digits}} to {ends[1]:{digits}}" if ends else "too few users for an interval"


def difference(found: dict[str, Any], other: str) -> str:
    """A difference of RMSEs, this version's less another system's, as a sentence."""
    by, ends = found["rmse"], found["interval"]
    sides = "better" if by < 0 else "worse"
    if ends is None:
        return f"It is {abs(by):.4f} stars {sides} than {other}; {interval(ends)}."
    if ends[0] <= 0 <= ends[1]:
        return f"It cannot be told apart from {other}: the difference is {by:+.4f} stars, {interval(ends, '+.4f')}."
    nearer, farther = sorted(map(abs, ends))
    return f"It is {abs(by):.4f} stars {sides} than {other}, {interval([nearer, farther])}."


def summary(stored: Stored) -> list[str]:
    """Paragraphs."""
    return [
        part for part in (_trained(stored), _good(stored), _against(stored), _ranked(stored)) if part
    ]


def _trained(stored: Stored) -> str:
    manifest = stored.manifest
    data, params = manifest["data"], manifest["params"]
    which = ", ".join(f"{flag(key)[2:]} {value}" for key, value in params.items() if value is not False)
    words = (
        f"{manifest['model']}{f' ({which})' if which else ''} trained on {data['n_ratings']:,} ratings of "
        f"{data['n_users']:,} users and {data['n_items']:,} items{_times(data)}, stored {manifest['created']}."
    )
    if stored.has_factors:
        how = "converged" if manifest["converged"] else "did not converge"
        words += f" It {how} in {manifest['n_iter']} iterations, at an objective of {manifest['objective']:.6g}."
    start = (manifest.get("retrain") or {}).get("start", {})
    if start.get("from"):
        words += f" It began from the factors of {start['from']}."
    if data.get("refit"):
        words += " It was refitted on all ratings; what follows was measured before, without the held-out ones."
    return words


def _times(data: dict[str, Any]) -> str:
    if not data.get("time"):
        return ""
    first, last = (day(data["time"][end]) for end in ("earliest", "latest"))
    return f" from {first} to {last}"


def day(microseconds: int) -> str:
    return str(np.datetime64(microseconds, "us").astype("datetime64[D]"))


def _good(stored: Stored) -> str:
    metrics, found = stored.metrics, stored.diagnosis
    if not metrics:
        return ""
    data = stored.manifest["data"]
    how = f"held out ({data['holdout']})" if data.get("holdout") else "from files of their own"
    words = f"On {metrics['rows']:,} test records, {how}, its RMSE is {metrics['rmse']:.4f} stars"
    if found:
        words += f", {interval(found['all']['rmse_interval'])} over resamples of their {found['test']['users']:,} users"
    parts = [
        f"{of['rmse']:.4f} over {of['rows']:,} {source}" for source, of in metrics["sources"].items() if of["rows"]
    ]
    return f"{words}: {', '.join(parts)}. The mean absolute error is {metrics['mae']:.4f}."


def _against(stored: Stored) -> str:
    words = []
    if stored.diagnosis and stored.manifest["model"] != "user-item-mean":
        average = stored.diagnosis["average"]
        other = f"the user-item average ({average['rmse']:.4f})"
        words.append(difference(average["difference"], other))
    before = stored.before
    if before is None:
        words.append("There is no version before it.")
    elif before.difference:
        words.append(difference(before.difference, before.label))
    else:
        had = f" ({before.manifest['test_rmse']:.4f} there)" if before.manifest else ""
        words.append(f"Against the version before there is no figure: {before.why_not}{had}.")
    return " ".join(words)


def _ranked(stored: Stored) -> str:
    found = stored.diagnosis.get("ranking")
    if not found:
        return ""
    if not found["users"]:
        return f"Lists were not judged: no known user has a test record of {found['relevant']:.4g} stars or more."
    whom = f"{found['users']:,} users"
    if found["drawn_from"]:
        whom += f", drawn at random from {found['drawn_from']:,} so that it stays cheap (mfpipe evaluate --ranking judges all)"
    return (
        f"In lists of {found['n']} from all items they have not rated, {100 * found['recall']:.2f} % of what "
        f"people went on to like is found (NDCG {found['ndcg']:.4f}, MRR {found['mrr']:.4f}; {whom}), and "
        f"{100 * found['catalogue']:.1f} % of the items are in some list."
    )


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
    found = stored.before and stored.before.difference
    if not found or found["interval"] is None or found["interval"][0] <= 0:
        return None
    return Finding(f"It is worse than {stored.before.label} on the same test records.")  # type: ignore[union-attr]


def _forced(stored: Stored) -> Finding | None:
    retrain = stored.manifest.get("retrain") or {}
    return Finding(f"The gate refused it, and it was published all the same: {retrain['words']}.") if retrain.get("forced") else None


def _seen(stored: Stored) -> Finding | None:
    seen = stored.manifest["data"].get("test_seen_in_training")
    return Finding(f"{seen:,} test records are also in the training ratings; the RMSE flatters.") if seen else None


def _rejected(stored: Stored) -> Finding | None:
    report = stored.manifest["data"].get("ingest") or {}
    if not report.get("rejected"):
        return None
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in report.get("reasons", {}).items())
    where = f", listed in {report['quarantine']}" if report.get("quarantine") else ""
    return Finding(f"{report['rejected']:,} of {report['rows']:,} lines of the input were left out ({reasons}){where}.")


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
        f"Known users and items have an RMSE of {warm:.4f} stars in the test, and {train:.4f} in training: more "
        "regularization or a lower rank may do better.",
        "RMSE by iteration",
    )


def _rising(stored: Stored) -> Finding | None:
    curve = [value for value in stored.history.get("test_rmse", ()) if value is not None]
    if len(curve) < 3 or min(curve) > 0.995 * curve[-1]:
        return None
    best = int(np.argmin(curve)) + 1
    return Finding(
        f"The test RMSE was lowest after iteration {best}, {min(curve):.4f} stars, and rose to {curve[-1]:.4f}.",
        "RMSE by iteration",
    )


def _biased(stored: Stored) -> Finding | None:
    whole = stored.diagnosis.get("all")
    ends = whole and whole["mean_interval"]
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
        f"Where it predicts {worst['predicted']:.2f} stars, the mean of the true ratings is {worst['true']:.2f}.",
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
        f"{side.capitalize()}s with {count_label(row)} training ratings have an RMSE of {row['rmse']:.4f} stars.",
        f"RMSE by number of ratings of the {side}",
    )


def count_label(row: dict[str, Any]) -> str:
    """What a slice by number of training ratings is called."""
    first, last = row["first"], row["last"]
    return f"{first:,}" if first == last else f"{first:,} to {last:,}"


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
