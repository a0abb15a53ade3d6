"""Fold-in: the rows of new users or items from their ratings, by the kernel that trained the others."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from mfpipe.errors import NumericError
from mfpipe.fitted import FittedModel
from mfpipe.ids import hashes_of
from mfpipe.models.base import OTHER, Block, Model
from mfpipe.ratings import Ratings


class Folded(NamedTuple):
    """Rows that were folded in.

    `ids` are pyarrow strings, shape (n,); `rows` has a row for each, as in the model's factors (see
    `Model.columns`); `block` holds the ratings they are made from, and `left_out` counts those of ids
    that the model does not know.
    """

    ids: pa.StringArray
    rows: np.ndarray
    block: Block
    left_out: int


def fold_in(fitted: FittedModel, ratings: Ratings, side: str = "user") -> Folded:
    """The rows of one side of some ratings, with the other side of the model fixed; see `fold_in_rows`."""
    other = OTHER[side]
    mine, others = getattr(ratings, side), getattr(ratings, other)
    known = getattr(fitted, other + "s").rows(getattr(ratings, other + "s").texts)
    return fold_in_rows(fitted, getattr(ratings, side + "s").texts, mine, known[others], ratings.rating, side)


def fold_in_rows(
    fitted: FittedModel,
    ids: pa.StringArray,
    mine: np.ndarray,
    others: np.ndarray,
    rating: np.ndarray,
    side: str = "user",
) -> Folded:
    """The rows of new users (or items) with the items (or users) of the model fixed.

    A row is what an exact half-step would give it, to the last bit: the same kernel, the same order of its
    ratings, the same N and μ as in training (N is not raised by the new ratings; it matters for `uniform`
    weighting alone). A new row has nowhere to take a few steps from, so `--solver cg` is left aside. Models
    whose exact rows depend on where they were start here from the stored row of an id they know, and from
    the start that its seed keys to a new one.

    Parameters
    ----------
    fitted : FittedModel
    ids : pyarrow.StringArray, shape (n,)
        Whose rows to make; distinct.
    mine : ndarray of int, shape (m,)
        Position in `ids` of each rating.
    others : ndarray of int32, shape (m,)
        Row of the other side of each rating, -1 where unknown; a pair is given at most once.
    rating : ndarray of float64, shape (m,)
        In stars.
    side : {'user', 'item'}
        Whose rows are made.

    Returns
    -------
    Folded
        A row none of whose ratings is of a known id is zero.

    Raises
    ------
    NumericError
        A row is not finite, as with ratings too large for the model's type.
    """
    known = np.flatnonzero(others >= 0)
    order = known[np.lexsort((others[known], mine[known]))]
    indptr = np.zeros(len(ids) + 1, np.int64)
    np.cumsum(np.bincount(mine[order], minlength=len(ids)), out=indptr[1:])
    block = Block(0, indptr, others[order].astype(np.int32), _stored(rating[order], fitted))
    fixed = getattr(fitted.factors, OTHER[side])
    model = fitted.model.exact()
    rows = model.update(side, block, own_rows(fitted, model, ids, side), fixed, fitted.totals).rows
    if not np.isfinite(rows).all():
        wrong = ids[int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])].as_py()
        raise NumericError(
            f"fold-in of {side} {wrong!r}: not finite in {fitted.model.storage}; are the ratings?"
        )
    return Folded(ids, rows, block, len(others) - len(known))


def own_rows(fitted: FittedModel, model: Model, ids: pa.StringArray, side: str) -> np.ndarray:
    """The rows that an update of these ids starts from; none for a model that does not look at them."""
    factors = getattr(fitted.factors, side)
    if not model.warm_starts:
        return factors[:0]
    rows = getattr(fitted, side + "s").rows(ids)
    own = model.start(side, hashes_of(ids))
    own[rows >= 0] = factors[rows[rows >= 0]]
    return own


def _stored(rating: np.ndarray, fitted: FittedModel) -> np.ndarray:
    with np.errstate(over="ignore"):  # the row shows it
        return rating.astype(fitted.model.storage)
