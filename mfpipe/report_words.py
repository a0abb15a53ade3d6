"""The summary of a report: what was trained on what, how good it is, how sure that is, and against what."""

from __future__ import annotations

from typing import Any

import numpy as np

from mfpipe.models.base import flag
from mfpipe.report_data import Stored

WHOM = (  # in the order of `mfpipe.fitted.SOURCES`
    "known users and items",
    "users it was not trained on",
    "items it was not trained on",
    "users and items it was not trained on",
)


def interval(ends: list[float] | None, digits: str = ".4f") -> str:
    return (
        f"95 % interval {ends[0]:{digits}} to {ends[1]:{digits}}" if ends else "too few users for an interval"
    )


def difference(found: dict[str, Any], other: str) -> str:
    """A difference of RMSEs, this version's less another system's, as a sentence."""
    by, ends = found["rmse"], found["interval"]
    if by == 0:
        return f"Its RMSE is that of {other}, to the last digit."
    sides = "better" if by < 0 else "worse"
    if ends is None:
        return f"It is {abs(by):.4f} stars {sides} than {other}; {interval(ends)}."
    if ends[0] <= 0 <= ends[1]:
        by_how = f"the difference is {by:+.4f} stars, {interval(ends, '+.4f')}"
        return f"It cannot be told apart from {other}: {by_how}."
    nearer, farther = sorted(map(abs, ends))
    return f"It is {abs(by):.4f} stars {sides} than {other}, {interval([nearer, farther])}."


def summary(stored: Stored) -> list[str]:
    """Paragraphs."""
    return [part for part in (_trained(stored), _good(stored), _against(stored), _ranked(stored)) if part]


def _trained(stored: Stored) -> str:
    manifest = stored.manifest
    data, params = manifest["data"], manifest["params"]
    which = ", ".join(f"{flag(key)[2:]} {value}" for key, value in params.items() if value is not False)
    words = (
        f"{manifest['model']}{f' ({which})' if which else ''} trained on {data['n_ratings']:,} ratings of "
        f"{data['n_users']:,} users and {data['n_items']:,} items{_times(data)}, "
        f"stored {manifest['created']}."
    )
    if stored.has_factors:
        how = "converged" if manifest["converged"] else "did not converge"
        words += f" It {how} in {manifest['n_iter']} iterations; objective {manifest['objective']:.6g}."
    start = (manifest.get("retrain") or {}).get("start", {})
    if start.get("from"):
        words += f" It began from the factors of {start['from']}."
    if data.get("refit"):
        words += (
            " It was refitted on all ratings; what follows was measured before, without the held-out ones."
        )
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
        users = f"{found['test']['users']:,} users"
        if found["test"]["groups"] < found["test"]["users"]:
            users += f", in {found['test']['groups']:,} groups"
        words += f", {interval(found['all']['rmse_interval'])} over resamples of their {users}"
    by_source = [(whom, of) for whom, of in zip(WHOM, metrics["sources"].values(), strict=True) if of["rows"]]
    if len(by_source) == 1:
        words += f", all of {by_source[0][0]}"
    else:
        words += ": " + ", ".join(f"{of['rmse']:.4f} over {of['rows']:,} of {whom}" for whom, of in by_source)
    return f"{words}. The mean absolute error is {metrics['mae']:.4f}."


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
        least = f"{found['relevant']:.4g} stars or more"
        return f"Lists were not judged: no known user has a test record of {least}."
    whom = f"{found['users']:,} users"
    if found["drawn_from"]:
        whom += f" drawn at random from {found['drawn_from']:,}; mfpipe evaluate --ranking judges all"
    return (
        f"In lists of {found['n']} from all items they have not rated, {100 * found['recall']:.2f} % of what "
        f"people went on to like is found (NDCG {found['ndcg']:.4f}, MRR {found['mrr']:.4f}; {whom}), and "
        f"{100 * found['catalogue']:.1f} % of the items are in some of these lists."
    )


def count_label(row: dict[str, Any]) -> str:
    """What a slice by number of training ratings is called."""
    first, last = row["first"], row["last"]
    return f"{first:,}" if first == last else f"{first:,} to {last:,}"
