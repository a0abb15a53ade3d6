"""How the predictions of two versions differ, on pairs that one of them was trained on."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from mfpipe import rated
from mfpipe.errors import StoreError
from mfpipe.fitted import FittedModel
from mfpipe.version import Version

MOST_PAIRS = 1_000_000
SHOWN = 20
_GRID = 700  # most-rated users and items each, where no ratings were kept
_KEPT = 32  # comparisons, a few kilobytes each


class Moved(NamedTuple):
    """Predictions of version `a` and of version `b` for the same pairs.

    Parameters
    ----------
    pairs, of : int
        Number of pairs compared, and of those they stand for.
    what : str
        What the pairs are, in words.
    rms : float
        Root mean square of the change, in stars.
    counts, edges : list
        Histogram of the change, b's prediction less a's.
    most : list of dict
        `user, item, rating, a, b` of the pairs that moved most; a rating is None where none was kept.
    """

    pairs: int
    of: int
    what: str
    rms: float
    counts: list[int]
    edges: list[float]
    most: list[dict[str, Any]]


class Comparisons:
    """Comparisons made one at a time, so that only two versions are ever in memory; the last are kept."""

    def __init__(self):
        self._lock = threading.Lock()
        self._made: OrderedDict[tuple[str, str], Moved] = OrderedDict()

    def of(self, a: Version, b: Version) -> Moved:
        """How the predictions differ.

        Raises
        ------
        StoreError
            A file of one of them is missing or damaged.
        """
        key = _identity(a), _identity(b)
        with self._lock:
            if key not in self._made:
                self._made[key] = moved(a, b)
                pa.default_memory_pool().release_unused()
                while len(self._made) > _KEPT:
                    self._made.popitem(last=False)
            self._made.move_to_end(key)
            return self._made[key]


def _identity(version: Version) -> str:
    return f"{version.path} {version.manifest['files']}"


def moved(a: Version, b: Version) -> Moved:
    """How the predictions of two versions differ on the newer one's training pairs.

    Of more than `MOST_PAIRS` every k-th in the order of users is taken. Where neither version keeps its
    ratings, the pairs are those of the most-rated users and items of `b`.
    """
    before, now = a.load(), b.load()
    for version, known in ((b, now), (a, before)):
        if rated.FILE in version.manifest["files"]:
            users, items, rating, total = _rated_pairs(version, known)
            what = f"ratings that {version.name}@{version.number} was trained on"
            break
    else:
        known = now
        users, items = _grid(now)
        rating, total = None, len(users)
        what = f"pairs of {b.name}'s most-rated users and items, as neither version keeps its ratings"
    first, second = (_predictions(fitted, known, users, items) for fitted in (before, now))
    change = second - first
    order = np.argsort(-np.abs(change), kind="stable")[:SHOWN]
    counts, edges = np.histogram(change, bins=40)
    most = [
        {
            "user": known.users[users[at]],
            "item": known.items[items[at]],
            "rating": None if rating is None else float(rating[at]),
            "a": float(first[at]),
            "b": float(second[at]),
        }
        for at in order.tolist()
    ]
    rms = float(np.sqrt(np.mean(change**2)))
    return Moved(len(users), total, what, rms, counts.tolist(), edges.tolist(), most)


def _rated_pairs(version: Version, fitted: FittedModel) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Rows and ratings of at most `MOST_PAIRS` training pairs, evenly spread, and how many there are."""
    table = version.table(rated.FILE)
    step = -(-len(table) // MOST_PAIRS)
    users, items, rating = (table[name].to_numpy()[::step].copy() for name in ("user", "item", "rating"))
    for name, rows, ids in (("user", users, fitted.users), ("item", items, fitted.items)):
        if not (rows.min() >= 0 and rows.max() < len(ids)):
            raise StoreError(
                f"{version.path / rated.FILE}: {name} rows beyond {len(ids)}; the file is damaged"
            )
    return users, items, rating, len(table)


def _grid(fitted: FittedModel) -> tuple[np.ndarray, np.ndarray]:
    most = [np.argsort(-n, kind="stable")[:_GRID] for n in (fitted.user_counts, fitted.item_counts)]
    users, items = np.meshgrid(*most, indexing="ij")
    return users.ravel(), items.ravel()


def _predictions(fitted: FittedModel, known: FittedModel, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """What a model predicts for pairs of another one's rows; an id that it does not have is a stranger."""
    if fitted is not known:
        users = fitted.users.rows(known.users.texts)[users]
        items = fitted.items.rows(known.items.texts)[items]
    return np.asarray(fitted.model.predict(fitted.factors, users, items, fitted.baseline), np.float64)
