"""Ratings of pairs in any order → sorted by user and item, each pair once; and grouped by either side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from mfpipe.cores import available_cores, in_order
from mfpipe.errors import RatingsError
from mfpipe.ids import IdMap
from mfpipe.kernels import readonly
from mfpipe.kernels.grouping import add_by_row, count_rows, place

RATINGS_A_THREAD = 1 << 18
Sorted = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]
_NO_TIMES = np.empty(0, np.int64)


class Piece(NamedTuple):
    """Some ratings: the rows to group by, the other side's, values, and times (or none at all)."""

    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    times: np.ndarray

    def part(self, begin: int, end: int) -> Piece:
        return Piece(*(array[begin:end] for array in self))


def grouped(pieces: Sequence[Piece], n_rows: int) -> tuple[np.ndarray, Piece]:
    """Ratings by rows ascending, and within a row in the order given.

    Parameters
    ----------
    pieces : sequence of Piece
        All with times, or all without.
    n_rows : int
        Over the largest row.

    Returns
    -------
    indptr : ndarray of int64, shape (n_rows + 1,)
    piece : Piece
        All ratings; its `rows` are left empty, as `indptr` says them.
    """
    shares = _shares(pieces)
    counts = np.zeros((len(shares), n_rows), np.int64)

    def count(share: int) -> None:
        for piece in shares[share]:
            count_rows(*readonly(piece.rows), counts[share])

    _each(count, len(shares))
    # A share's ratings of a row come after those of the shares before it.
    ends = np.cumsum(counts.T, dtype=np.int64).reshape(n_rows, len(shares)).T
    places = ends - counts
    indptr = np.concatenate(([0], ends[-1]))
    first = pieces[0]
    n_times = sum(len(piece.times) for piece in pieces)
    sizes = (indptr[-1], indptr[-1], n_times)
    out = [np.empty(size, like.dtype) for size, like in zip(sizes, first[1:], strict=True)]

    def fill(share: int) -> None:
        for piece in shares[share]:
            place(*readonly(*piece), places[share], *out)

    _each(fill, len(shares))
    return indptr, Piece(first.rows[:0], *out)


def counted(rows: np.ndarray, n_rows: int) -> np.ndarray:
    """How often each row occurs; int64, shape (n_rows,)."""
    counts = np.zeros(n_rows, np.int64)
    count_rows(*readonly(rows), counts)
    return counts


def summed(rows: np.ndarray, values: np.ndarray, n_rows: int) -> np.ndarray:
    """The sum of each row's values, in the order given; float64, shape (n_rows,)."""
    sums = np.zeros(n_rows)
    add_by_row(*readonly(rows, values), sums)
    return sums


def _shares(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """The pieces cut into runs of equal length, one for each thread that pays."""
    total = sum(len(piece.rows) for piece in pieces)
    number = max(1, min(available_cores(), total // RATINGS_A_THREAD))
    bounds = np.linspace(0, total, number + 1).astype(np.int64)
    return [list(_between(pieces, begin, end)) for begin, end in pairwise(bounds.tolist())]


def _between(pieces: Sequence[Piece], begin: int, end: int) -> Iterator[Piece]:
    start = 0
    for piece in pieces:
        stop = start + len(piece.rows)
        if start < end and begin < stop:
            yield piece.part(max(begin - start, 0), min(end, stop) - start)
        start = stop


def _each(work, number: int) -> None:
    for _ in in_order(work, range(number), number):
        pass


def expanded(indptr: np.ndarray) -> np.ndarray:
    """The row of each rating; int32."""
    return np.repeat(np.arange(len(indptr) - 1, dtype=np.int32), np.diff(indptr))


def sort_pairs(pieces: list[tuple], users: IdMap, items: IdMap, policy: str) -> Sorted:
    """Sort by user and item, and make one rating of those that share a pair.

    `latest` keeps the latest time; ties, and files without times, are averaged in the order of their
    values, so that the order of lines never matters.

    Parameters
    ----------
    pieces : list of (user, item, rating, time)
        Rows, values in stars, and times or None. Emptied, to free memory early.
    users, items : IdMap
        Named in errors.
    policy : {'latest', 'mean', 'error'}

    Returns
    -------
    user, item : ndarray of int32
    rating : ndarray of float64
    time : ndarray of int64, or None

    Raises
    ------
    RatingsError
        A pair twice, and the policy is `error`.
    """
    timed = pieces[0][3] is not None
    by_item = [Piece(item, user, rating, time if timed else _NO_TIMES) for user, item, rating, time in pieces]
    pieces.clear()
    indptr, piece = grouped(by_item, len(items))
    del by_item
    piece = Piece(piece.columns, expanded(indptr), piece.values, piece.times)
    indptr, piece = grouped([piece], len(users))
    user, item, rating = expanded(indptr), piece.columns, piece.values
    time = piece.times if timed else None
    again = (user[1:] == user[:-1]) & (item[1:] == item[:-1])
    if not again.any():
        return user, item, rating, time
    if policy == "error":
        at = 1 + int(np.argmax(again))
        raise RatingsError(
            f"user {users[user[at]]}, item {items[item[at]]}: rated more than once; "
            "remove the repetition, or choose --duplicates latest or mean"
        )
    return _each_once(user, item, rating, time, policy, again)


def _each_once(user, item, rating, time, policy: str, again: np.ndarray) -> Sorted:
    """One rating of each pair; `again` is true where the next is of the same pair, shape (n - 1,)."""
    first = np.concatenate(([True], ~again))
    shared = np.concatenate((again, [False])) | ~first
    at = np.flatnonzero(shared)
    group = np.cumsum(first[at]) - 1
    when = np.zeros(len(at), np.int64) if time is None else time[at]
    order = np.lexsort((rating[at], when, group))
    values, when = rating[at][order], when[order]
    last = np.concatenate((np.flatnonzero(first[at])[1:], [len(at)])) - 1
    counted = when == when[last][group] if policy == "latest" else np.ones(len(at), dtype=bool)
    sums = np.bincount(group, weights=np.where(counted, values, 0.0))
    rating = rating[first] + 0.0  # so that no pair keeps a -0, as sums from 0 have none
    rating[shared[first]] = sums / np.bincount(group, weights=counted)
    if time is not None:
        time = time[first]
        time[shared[first]] = when[last]
    return user[first], item[first], rating, time
