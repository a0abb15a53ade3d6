"""The best items of users' rows, exactly: a matrix product finds candidates, `predict` decides.

A product rounds differently in another block shape or another BLAS. So it only narrows the items down to
those that can be among the n best whatever the rounding, and the few that are left are scored by the
model's own `predict`: scores, ranks and ties are the same in any block, and equal to predictions.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np

from mfpipe.errors import ParameterError
from mfpipe.fitted import FittedModel
from mfpipe.kernels import readonly
from mfpipe.kernels.topn import best_columns, diversify
from mfpipe.models import FactorModel
from mfpipe.models.base import Baseline, Factors

BLOCK_SCORES = 1 << 21  # scores a thread holds at a time
MOST = 100_000  # that can be asked for of one query
POOL = 10  # with diversity, chosen from this many times n of the best


class Ranked(NamedTuple):
    """The best of several queries, one after the other, best first.

    `query` is each one's position among the queries, `row` the row found, `rank` counts from 1 within
    a query, and `score` is float64.
    """

    query: np.ndarray
    row: np.ndarray
    score: np.ndarray
    rank: np.ndarray


class Candidates(NamedTuple):
    """Rows that may be among the n best of each query; query q's are those from starts[q] on."""

    query: np.ndarray
    row: np.ndarray


class Search:
    """Finds the rows of `right` with the largest products, among those given.

    Parameters
    ----------
    right : ndarray, shape (n, width)
    rows : ndarray of int32, shape (m,), optional
        Ascending; only these can be found. All by default.
    """

    def __init__(self, right: np.ndarray, rows: np.ndarray | None = None):
        self.rows = rows
        self.position = None
        if rows is not None:
            self.position = np.full(len(right), -1, np.int32)
            self.position[rows] = np.arange(len(rows), dtype=np.int32)
            right = right[rows]
        self.right = np.ascontiguousarray(right)
        self.largest = _norms(self.right).max(initial=0.0)

    def __len__(self) -> int:
        return len(self.right)

    def candidates(self, left, offset, n: int, indptr, excluded) -> Candidates:
        """Rows among which the n best of each query are, whatever the rounding of products.

        Parameters
        ----------
        left : ndarray, shape (queries, width)
        offset : ndarray of float64, shape (queries,)
            What the exact score adds to the product; only its rounding matters here.
        n : int
        indptr, excluded : ndarray
            Rows to leave out, by query.
        """
        if self.position is not None:
            excluded = self.position[excluded]
        scores = left @ self.right.T
        size = _norms(left) * self.largest
        off = (left.shape[1] + 4) * np.finfo(scores.dtype).eps * size + 4 * np.finfo(float).eps * abs(offset)
        margins = np.where(size > 0, 2 * off, 0.0).astype(scores.dtype)
        starts = np.empty(len(left) + 1, np.int64)
        room = np.empty(len(left) * (min(n, len(self)) + 16), np.int32)
        inputs = readonly(indptr, excluded.astype(np.int32, copy=False))
        found = best_columns(scores, margins, n, *inputs, room, starts)[: starts[-1]]
        query = np.repeat(np.arange(len(left), dtype=np.int32), np.diff(starts))
        return Candidates(query, found if self.rows is None else self.rows[found])

    def block_rows(self) -> int:
        """Queries to ask at a time, so that their scores stay within `BLOCK_SCORES`."""
        return max(1, BLOCK_SCORES // max(1, len(self)))


def _norms(rows: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("nk,nk->n", rows, rows, dtype=np.float64))


class TopN:
    """The n best items for rows of users.

    Parameters
    ----------
    fitted : FittedModel
    n : int
    items : ndarray of int32, optional
        Ascending rows of the items that may be recommended; all by default.
    diversity : float
        0 ranks by score alone; see `mfpipe.kernels.topn.diversify`. Chosen from the `POOL`·n best.

    Raises
    ------
    ParameterError
    """

    def __init__(self, fitted: FittedModel, n: int = 10, items=None, diversity: float = 0.0):
        require_count(n)
        if diversity and not isinstance(fitted.model, FactorModel):
            raise ParameterError(f"--diversity: {fitted.model.name} has no factors to tell items apart by")
        self.fitted, self.n, self.diversity = fitted, int(n), float(diversity)
        linear = self._linear(fitted.factors.user[:0])
        self.search = Search(linear.right, items)
        self.directions = directions(fitted, "item") if diversity else None

    def of(self, n: int) -> TopN:
        """The same for another n."""
        require_count(n)
        other = copy.copy(self)
        other.n = n
        return other

    @property
    def items(self) -> np.ndarray:
        """Rows of the items that may be recommended."""
        rows = self.search.rows
        return np.arange(len(self.search), dtype=np.int32) if rows is None else rows

    def _linear(self, user_factors: np.ndarray):
        return self.fitted.model.linear(
            Factors(user_factors, self.fitted.factors.item), self.fitted.baseline.global_mean
        )

    def best(self, user_factors: np.ndarray, indptr: np.ndarray, excluded: np.ndarray) -> Ranked:
        """The n best items of each row of user factors, best first, ties by item row.

        Parameters
        ----------
        user_factors : ndarray, shape (users, columns)
            Not only of users in the model: any rows of its shape.
        indptr, excluded : ndarray of int64 and int32
            Items to leave out, by user, in CSR form.
        """
        linear = self._linear(user_factors)
        wanted = self.n * POOL if self.diversity else self.n
        near = self.search.candidates(linear.left, linear.offset, wanted, indptr, excluded)
        scores = exact_scores(self.fitted, user_factors[near.query], near.row)
        return self.ranked(near, scores, len(user_factors))

    def ranked(self, near: Candidates, scores: np.ndarray, n_queries: int) -> Ranked:
        """The n best of candidates with their exact scores."""
        found = in_order(near, scores, self.n * POOL if self.diversity else self.n)
        if self.directions is None:
            return found
        starts = np.searchsorted(found.query, np.arange(n_queries + 1)).astype(np.int64)
        order, kept = np.empty(len(found.row), np.int64), np.empty(n_queries, np.int64)
        inputs = readonly(found.row, found.score, starts, self.directions)
        diversify(*inputs, self.diversity, self.n, order, kept)
        rank = _within(kept)
        chosen = order[np.repeat(starts[:-1], kept) + rank]
        return Ranked(found.query[chosen], found.row[chosen], found.score[chosen], rank + np.int32(1))


def require_count(n: int) -> None:
    """ParameterError unless n is a number of rows that can be asked for."""
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or not 1 <= n <= MOST:
        raise ParameterError(f"-n {n!r}: must be an integer from 1 to {MOST}")


def exact_scores(fitted: FittedModel, user_factors: np.ndarray, items: np.ndarray) -> np.ndarray:
    """What `predict` says of pairs of a row of user factors and an item row; float64, shape (n,)."""
    at = np.arange(len(items), dtype=np.int32)
    unused = np.zeros(len(items))
    pairs = Factors(user_factors, fitted.factors.item[items])
    return fitted.model.predict(pairs, at, at, Baseline(fitted.baseline.global_mean, unused, unused))


def in_order(near: Candidates, scores: np.ndarray, n: int) -> Ranked:
    """The n best of each query by score, ties by row."""
    order = np.lexsort((near.row, -scores, near.query))
    query = near.query[order]
    rank = np.arange(len(query), dtype=np.int32) - np.searchsorted(query, query).astype(np.int32)
    order, rank = order[rank < n], rank[rank < n]
    return Ranked(near.query[order], near.row[order], scores[order], rank + np.int32(1))


def _within(counts: np.ndarray) -> np.ndarray:
    """0, 1, … within each of consecutive groups of these sizes."""
    total = np.cumsum(counts)
    return (np.arange(total[-1] if len(total) else 0) - np.repeat(total - counts, counts)).astype(np.int32)


def directions(fitted: FittedModel, side: str) -> np.ndarray:
    """Factors of one side, without biases, scaled to length one; float64. Zero rows stay zero."""
    assert isinstance(fitted.model, FactorModel)
    rows = getattr(fitted.factors, side)[:, -fitted.model.rank :].astype(np.float64)
    # Scaled first, so that the squares of huge or tiny factors neither overflow nor vanish.
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)
    rows = np.divide(rows, largest, out=rows, where=largest > 0)
    norms = _norms(rows)[:, None]
    return np.divide(rows, norms, out=rows, where=norms > 0)
