"""What a version's report says of its test records beyond their RMSE; made when it is stored.

Only sums over slices and groups of users are kept: a few ten kilobytes, whatever the number of records.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mfpipe.bootstrap import CONFIDENCE, DRAWS, Bootstrap, paired_difference
from mfpipe.evaluate import rating_groups
from mfpipe.fitted import FittedModel
from mfpipe.gate import user_item_average
from mfpipe.models.base import Factors
from mfpipe.ranking import ranking
from mfpipe.ratings import NO_TIME, TestRatings

FILE = "diagnosis.json"
COUNTS = (0, 1, 3, 6, 11, 21, 51, 101, 201, 501, 1001, 2001, 5001, 10001)  # where slices by count begin
PERIODS = 12
CALIBRATED = 10  # bins of equal numbers of predictions
RANKED = 10  # length of the lists judged
SCORES = 20_000_000  # user × item products that the ranking may take: the users beyond are not drawn


def diagnose(fitted: FittedModel, test: TestRatings, sha256: str) -> dict[str, Any]:
    """Errors by slice with intervals, calibration, and the ranking of a model on its test records.

    Parameters
    ----------
    fitted : FittedModel
        With its training ratings.
    test : TestRatings
    sha256 : str
        Of the test records, so that two versions are held against each other only on the same ones.

    Returns
    -------
    dict
        `test` (sha256, users, and how intervals are made), `all`, `average` (the user-item average's, and the
        `difference` model − average), `by_user_count`, `by_item_count`, `by_rating`, `by_time` (slices as
        `Bootstrap.slices` gives them, with what they are slices of), `calibration`, `predicted` (the least
        and the largest), `ranking`, and `groups` (squared errors and rows of each group of users).
    """
    users, items = fitted.users.rows(test.user), fitted.items.rows(test.item)
    predicted = fitted.model.predict(fitted.factors, users, items, fitted.baseline)
    residual = predicted - test.rating
    boot = Bootstrap(test.user)
    whole = np.zeros(len(test), np.int64)
    average = user_item_average(fitted.baseline, users, items).predicted - test.rating
    rows = boot.by_group(None, whole, 1)[:, 0]
    squares, averages = (boot.by_group(error**2, whole, 1)[:, 0] for error in (residual, average))
    seen = Factors(_counts(fitted.user_counts, users), _counts(fitted.item_counts, items))
    return {
        "test": {
            "sha256": sha256,
            "users": boot.n_users,
            "groups": boot.n_groups,
            "draws": DRAWS,
            "confidence": CONFIDENCE,
        },
        "all": boot.slices(residual, whole, 1)[0],
        "average": boot.slices(average, whole, 1)[0]
        | {"difference": paired_difference(squares, averages, rows)},
        "by_user_count": _by_count(boot, residual, seen.user),
        "by_item_count": _by_count(boot, residual, seen.item),
        "by_rating": _by_rating(boot, residual, test.rating),
        "by_time": _by_time(boot, residual, test.time),
        "calibration": _calibration(boot, predicted, test.rating),
        "predicted": {"least": float(predicted.min()), "largest": float(predicted.max())},
        "ranking": ranking(fitted, test, RANKED, most_users=max(100, SCORES // max(1, len(fitted.items)))),
        "groups": {"squared_error": squares.tolist(), "rows": rows.astype(int).tolist()},
    }


def _counts(counts: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Training ratings of each row; none of row -1."""
    return np.append(counts, 0)[rows]


def _with(slices: list[dict], **columns: Any) -> list[dict]:
    """The slices that hold a record, each with its place in the given columns."""
    rows = ({key: values[at] for key, values in columns.items()} | one for at, one in enumerate(slices))
    return [row for row in rows if row["rows"]]


def _by_count(boot: Bootstrap, residual: np.ndarray, counts: np.ndarray) -> list[dict]:
    """Slices by the number of training ratings of the record's user or item: `first` to `last`."""
    of = np.searchsorted(COUNTS, counts, "right") - 1
    lasts = [*(begin - 1 for begin in COUNTS[1:]), int(counts.max(initial=0))]
    return _with(boot.slices(residual, of, len(COUNTS)), first=COUNTS, last=lasts)


def _by_rating(boot: Bootstrap, residual: np.ndarray, rating: np.ndarray) -> list[dict]:
    centres, of = rating_groups(rating)
    return _with(boot.slices(residual, of, len(centres)), rating=centres.tolist())


def _by_time(boot: Bootstrap, residual: np.ndarray, time: np.ndarray | None) -> list[dict]:
    """Slices of equal length over all times, `begin` and `end` in microseconds since 1970."""
    if time is None or (time == NO_TIME).all():
        return []
    known = time != NO_TIME
    edges = np.linspace(time[known].min(), time[known].max(), PERIODS + 1).astype(np.int64)
    of = np.where(known, np.clip(np.searchsorted(edges, time, "right") - 1, 0, PERIODS - 1), -1)
    return _with(boot.slices(residual, of, PERIODS), begin=edges[:-1].tolist(), end=edges[1:].tolist())


def _calibration(boot: Bootstrap, predicted: np.ndarray, rating: np.ndarray) -> list[dict]:
    """Bins of predictions: the mean `predicted` and the mean `true` rating of each, with its interval."""
    edges = np.unique(np.quantile(predicted, np.linspace(0, 1, CALIBRATED + 1)))
    of = np.clip(np.searchsorted(edges, predicted, "right") - 1, 0, max(0, len(edges) - 2))
    n = max(1, len(edges) - 1)
    rows = np.bincount(of, minlength=n)
    means = np.bincount(of, predicted, n) / np.maximum(rows, 1)
    slices = boot.slices(predicted - rating, of, n)
    found = _with(slices, predicted=means.tolist())
    for row in found:
        row["true"] = row["predicted"] - row["mean_residual"]
        high_low = row["mean_interval"]
        row["true_interval"] = high_low and [row["predicted"] - bound for bound in reversed(high_low)]
    return [
        {key: row[key] for key in ("predicted", "true", "true_interval", "rows", "rmse")} for row in found
    ]
