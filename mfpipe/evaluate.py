"""Holdouts, and how far predictions are from ratings that were not trained on."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from mfpipe.arrow import to_arrow
from mfpipe.errors import ParameterError, RatingsError
from mfpipe.fitted import SOURCES, FittedModel
from mfpipe.kernels import readonly
from mfpipe.kernels.pairs import uniform_pairs
from mfpipe.ratings import NO_TIME, Ratings, TestRatings

PAIRS = 2**15  # drawn at a time: their numbers stay in the cache
HOLDOUTS = "random:FRACTION, last:COUNT or time:FRACTION"


@dataclass(frozen=True)
class Holdout:
    """Which ratings are kept from training.

    `random:0.1` takes the pairs whose keyed hash of (user id, item id) falls below 0.1: the same pairs
    whatever else is in the files. `last:1` takes each user's latest rating (of those with more than
    that many). `time:0.1` takes the latest tenth of all ratings.
    """

    kind: str
    amount: float

    @classmethod
    def parse(cls, text: str) -> Holdout:
        """Read a --holdout value; ParameterError if it is not one of `HOLDOUTS`."""
        match = re.fullmatch(r"(random|time):(0?\.\d+)|(last):([1-9]\d{0,8})", text, re.ASCII)
        if not match or (match[2] and float(match[2]) == 0):
            raise ParameterError(
                f"--holdout {text!r}: must be {HOLDOUTS}, a fraction between 0 and 1 and a count from 1"
            )
        return cls(match[1] or match[3], float(match[2] or match[4]))

    def __str__(self) -> str:
        return f"{self.kind}:{self.amount:g}"

    def mask(self, ratings: Ratings) -> np.ndarray:
        """True for the ratings held out; bool, shape (n,)."""
        if self.kind == "random":
            inputs = (ratings.user, ratings.item, ratings.users.hashes, ratings.items.hashes)
            users, items, user_hashes, item_hashes = readonly(*inputs)
            drawn, numbers = np.empty(len(ratings), dtype=bool), np.empty(PAIRS)
            for begin in range(0, len(ratings), PAIRS):
                at = slice(begin, begin + PAIRS)
                few = numbers[: len(users[at])]
                uniform_pairs(users[at], items[at], user_hashes, item_hashes, few)
                np.less(few, self.amount, out=drawn[at])
            return drawn
        time = self._times(ratings)
        if self.kind == "time":
            return time > np.sort(time)[max(0, math.ceil((1 - self.amount) * len(time)) - 1)]
        order = np.lexsort((ratings.item, time, ratings.user))
        counts = np.bincount(ratings.user)
        from_end = np.empty(len(time), np.int64)
        from_end[order] = np.cumsum(counts)[ratings.user[order]] - np.arange(len(time))
        return (from_end <= self.amount) & (counts[ratings.user] > self.amount)

    def _times(self, ratings: Ratings) -> np.ndarray:
        if ratings.time is None:
            raise RatingsError(
                f"--holdout {self}: these ratings have no time column; name it with --time-column"
            )
        unreadable = np.flatnonzero(ratings.time == NO_TIME)
        if len(unreadable):
            at = unreadable[0]
            raise RatingsError(
                f"--holdout {self}: {len(unreadable)} ratings have a time that is neither ISO 8601 nor epoch "
                f"seconds, the first of user {ratings.users[ratings.user[at]]!r}, "
                f"item {ratings.items[ratings.item[at]]!r}; correct them, or hold out at random"
            )
        return ratings.time

    def split(self, ratings: Ratings, newer_than: int | None = None) -> tuple[Ratings, TestRatings]:
        """The training ratings, and those held out as test records.

        Parameters
        ----------
        ratings : Ratings
        newer_than : int, optional
            Hold out only ratings with a later time than this one, in microseconds since 1970.

        Raises
        ------
        RatingsError
            Nothing is left to train on, nothing is held out, or the times it needs are missing.
        """
        held_out = self.mask(ratings)
        if newer_than is not None:
            held_out &= self._times(ratings) > newer_than
        if held_out.all() or not held_out.any():
            raise RatingsError(
                f"--holdout {self} leaves {int((~held_out).sum())} of {len(ratings)} ratings to train on and "
                f"{int(held_out.sum())} to test with; give more ratings, another --holdout, or --test FILE"
            )
        test = TestRatings(
            ratings.users.texts.take(to_arrow(ratings.user[held_out])),
            ratings.items.texts.take(to_arrow(ratings.item[held_out])),
            ratings.rating[held_out],
            np.flatnonzero(held_out),
            None if ratings.time is None else ratings.time[held_out],
        )
        return ratings.subset(~held_out), test


def seen_in_training(test: TestRatings, ratings: Ratings) -> int:
    """How many test records are pairs that were trained on."""
    users, items = ratings.users.rows(test.user).astype(np.int64), ratings.items.rows(test.item)
    known = (users >= 0) & (items >= 0)
    pairs = (users * len(ratings.items) + items)[known]
    trained = ratings.user.astype(np.int64) * len(ratings.items) + ratings.item
    at = np.minimum(np.searchsorted(trained, pairs), len(trained) - 1)
    return int((trained[at] == pairs).sum())


def evaluate(fitted: FittedModel, test: TestRatings) -> dict:
    """Errors on test records, all and by what was known of them, with the residuals' distribution.

    Returns
    -------
    dict
        `rmse`, `mae` in stars, `rows`, `warm` and `cold` (counts), `rmse_warm`, `rmse_cold`, `coverage`
        (the share of warm rows), `sources` (rows and rmse by `SOURCES`), `by_rating` (rows, mean residual
        and rmse for each of up to 20 rating bins) and `residuals` (counts and edges of a histogram).
        A figure over no rows is None.
    """
    predicted, source = fitted.predict(test.user, test.item)
    residual = predicted - test.rating
    warm = source == 0
    return {
        "rmse": rmse(residual),
        "mae": float(np.abs(residual).mean()),
        "rows": len(test),
        "warm": int(warm.sum()),
        "cold": int((~warm).sum()),
        "rmse_warm": rmse(residual[warm]),
        "rmse_cold": rmse(residual[~warm]),
        "coverage": float(warm.mean()),
        "sources": {
            str(name): {"rows": int((source == at).sum()), "rmse": rmse(residual[source == at])}
            for at, name in enumerate(SOURCES)
        },
        "by_rating": _by_rating(test.rating, residual),
        "residuals": _histogram(residual),
    }


def rmse(residual: np.ndarray) -> float | None:
    """Root mean square in the residuals' unit; None of nothing."""
    return float(np.sqrt(np.mean(residual**2))) if len(residual) else None


def rating_groups(rating: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rating values, or the centres of ten bins if there are over 20, and which is each record's."""
    values = np.unique(rating)
    if len(values) <= 20:
        return values, np.searchsorted(values, rating)
    edges = np.linspace(values[0], values[-1], 11)
    return (edges[:-1] + edges[1:]) / 2, np.clip(np.searchsorted(edges, rating, "right") - 1, 0, 9)


def _by_rating(rating: np.ndarray, residual: np.ndarray) -> list[dict]:
    centres, group = rating_groups(rating)
    return [
        {
            "rating": float(centre),
            "rows": int(of.sum()),
            "mean_residual": float(residual[of].mean()),
            "rmse": rmse(residual[of]),
        }
        for centre, of in ((centre, group == at) for at, centre in enumerate(centres))
        if of.any()
    ]


def _histogram(residual: np.ndarray) -> dict:
    counts, edges = np.histogram(residual, bins=40)
    return {"counts": counts.tolist(), "edges": edges.tolist()}
