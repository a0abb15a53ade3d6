"""The publishing gate: whether a challenger may take the champion's place, on the same held-out rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mfpipe.errors import ParameterError
from mfpipe.models.base import Baseline, known_or


@dataclass(frozen=True)
class GateRules:
    """When a challenger is good enough.

    Parameters
    ----------
    margin : float
        By how much its RMSE may exceed the champion's, as a share of the champion's.
    confidence : float, in (0, 1)
        Of the bootstrap's interval of the difference; its upper end must not exceed the margin.
    draws : int
        Of the bootstrap.
    seed : int
        Of the bootstrap: the same figures give the same decision.
    """

    margin: float = 0.01
    confidence: float = 0.95
    draws: int = 1000
    seed: int = 0

    def __post_init__(self):
        if not 0 <= self.margin < math.inf:
            raise ParameterError(f"--margin {self.margin}: must be a finite number, 0 or more")
        if not 0 < self.confidence < 1:
            raise ParameterError(f"--confidence {self.confidence}: must lie between 0 and 1")
        if self.draws < 1:
            raise ParameterError(f"--draws {self.draws}: must be 1 or more")


@dataclass(frozen=True)
class Judged:
    """A system on the held-out rows.

    Parameters
    ----------
    predicted : ndarray of float64, shape (n,)
        In stars.
    warm : ndarray of bool, shape (n,)
        Whether both ids were trained on.
    """

    predicted: np.ndarray
    warm: np.ndarray

    def figures(self, rating: np.ndarray) -> dict[str, float | None]:
        """RMSE in stars of all, warm and cold rows, and the share of warm ones; None of nothing."""
        squared = (self.predicted - rating) ** 2

        def root(rows: np.ndarray) -> float | None:
            return float(np.sqrt(rows.mean())) if len(rows) and np.isfinite(rows).all() else None

        return {
            "rmse": root(squared),
            "rmse_warm": root(squared[self.warm]),
            "rmse_cold": root(squared[~self.warm]),
            "coverage": float(self.warm.mean()),
        }


def user_item_average(baseline: Baseline, users: np.ndarray, items: np.ndarray) -> Judged:
    """The average of the user's and the item's mean rating, as `user-item-mean` predicts it."""
    by_user = known_or(baseline.user_means, users, baseline.global_mean)
    by_item = known_or(baseline.item_means, items, baseline.global_mean)
    return Judged((by_user + by_item) / 2, (users >= 0) & (items >= 0))


def paired_bootstrap(
    users: pa.Array, champion: np.ndarray, challenger: np.ndarray, rules: GateRules
) -> tuple[float, float]:
    """An interval of the difference of RMSEs, challenger − champion, in stars.

    Users are drawn with replacement, each with all of its rows, because a user's errors depend on each
    other; both systems are judged on the same draw, because most of what is hard is hard for both.

    Parameters
    ----------
    users : pyarrow array, shape (n,)
        The id of each held-out row's user.
    champion, challenger : ndarray of float64, shape (n,)
        Squared errors, in squared stars.
    rules : GateRules

    Returns
    -------
    (float, float)
        The percentile interval of `rules.confidence`.

    References
    ----------
    Efron, Tibshirani: An Introduction to the Bootstrap, 1993, chapters 8 (units) and 13 (percentiles).
    """
    code = users.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    counts = np.bincount(code).astype(np.float64)
    sums = np.stack([np.bincount(code, squares) for squares in (champion, challenger)])
    rng = np.random.default_rng(rules.seed)
    differences = np.empty(rules.draws)
    for draw in range(rules.draws):
        times = np.bincount(rng.integers(0, len(counts), len(counts)), minlength=len(counts))
        before, after = np.sqrt(sums @ times / (counts @ times))
        differences[draw] = after - before
    tail = (1 - rules.confidence) / 2
    low, high = np.quantile(differences, (tail, 1 - tail))
    return float(low), float(high)


def judge(
    users: pa.Array,
    rating: np.ndarray,
    challenger: Judged,
    average: Judged,
    champion: Judged | None,
    rules: GateRules,
    collapsed: bool = False,
    is_average: bool = False,
) -> dict:
    """Judge a challenger.

    Parameters
    ----------
    users, rating
        Of the held-out rows, which neither system trained on.
    challenger, average, champion : Judged
        `average` is the user-item average of the challenger's training ratings; without a champion the
        challenger would be the first version, and the average alone is the bar.
    collapsed : bool
        Whether all factors of the challenger are zero in effect.
    is_average : bool
        Whether the challenger is the user-item average itself, which cannot be better than it.

    Returns
    -------
    dict
        `passed`, `checks` (a `check`, whether it `passed`, and its figures in `words`), `systems` (the
        figures of each), `difference` (challenger − champion, its `interval` and the `margin`, in stars;
        None without a champion) and the `rules`.
    """
    systems = {"user-item average": average.figures(rating)}
    systems |= {"champion": champion.figures(rating)} if champion else {}
    systems["challenger"] = mine = challenger.figures(rating)
    finite = bool(np.isfinite(challenger.predicted).all())
    checks = [
        _check("finite", finite, "every prediction is finite" if finite else "predictions are not finite"),
        _check("not collapsed", not collapsed, "all factors are zero" if collapsed else "factors are used"),
    ]
    difference = None
    if finite:
        checks.append(_better_than_average(mine["rmse"], systems["user-item average"]["rmse"], is_average))
    if finite and champion:
        difference = _difference(users, rating, champion, challenger, rules)
        low, high = difference["interval"]
        checks.append(
            _check(
                "not worse than the champion",
                high <= difference["margin"],
                f"RMSE {difference['rmse']:+.5f} stars, {low:+.5f} to {high:+.5f} with "
                f"{rules.confidence:.0%} confidence, against a margin of {difference['margin']:.5f}",
            )
        )
        before, now = systems["champion"]["coverage"], mine["coverage"]
        words = f"{100 * now:.2f} % of the rows are of known users and items, {100 * before:.2f} % before"  # type: ignore[operator]
        checks.append(_check("coverage not lower", now >= before, words))  # type: ignore[operator]
    return {
        "passed": all(check["passed"] for check in checks),
        "checks": checks,
        "systems": systems,
        "difference": difference,
        "rules": dict(vars(rules)),
    }


def _check(check: str, passed: bool, words: str) -> dict:
    return {"check": check, "passed": bool(passed), "words": words}


def _better_than_average(mine, average, is_average: bool) -> dict:
    if is_average:
        return _check("better than the user-item average", True, "it is the user-item average")
    words = f"RMSE {mine:.5f} stars against {average:.5f}"
    return _check("better than the user-item average", mine < average, words)


def _difference(users, rating, champion: Judged, challenger: Judged, rules: GateRules) -> dict:
    theirs, mine = ((each.predicted - rating) ** 2 for each in (champion, challenger))
    before, now = (float(np.sqrt(each.mean())) for each in (theirs, mine))
    interval = paired_bootstrap(users, theirs, mine, rules)
    return {"rmse": now - before, "interval": list(interval), "margin": rules.margin * before}
