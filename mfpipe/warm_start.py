"""Starting factors for a retrain: the champion's rows, and what new ratings touch solved first."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mfpipe.fit import starting_factors
from mfpipe.fitted import FittedModel
from mfpipe.models import FactorModel, Model
from mfpipe.models.base import OTHER, Block, Factors, Totals
from mfpipe.ratings import Ratings
from mfpipe.regularization import with_all_directions


class Start(NamedTuple):
    """Starting factors, and for each side how many rows are `new` and `touched` by new ratings."""

    factors: Factors
    new: dict[str, int]
    touched: dict[str, int]


def fits(champion: Model, challenger: Model) -> bool:
    """Whether the rows of one model can start the other."""
    return (
        isinstance(challenger, FactorModel)
        and champion.name == challenger.name
        and champion.columns() == challenger.columns()
    )


def warm_start(champion: FittedModel, model: FactorModel, ratings: Ratings) -> Start:
    """The champion's rows for the ids it has, and the model's keyed start for the others.

    Directions that have vanished from the champion are taken from the keyed start too, or no retrain
    could find them again; see `with_all_directions`.
    """
    keyed = starting_factors(model, ratings)
    known = Factors(champion.users.rows(ratings.users.texts), champion.items.rows(ratings.items.texts))
    whole = [
        np.where(rows[:, None] >= 0, had[rows], fresh).astype(model.storage)
        for rows, had, fresh in zip(known, champion.factors, keyed, strict=True)
    ]
    if not model.signed:
        whole = [_nonnegative(rows, model.rank) for rows in whole]
    factors = with_all_directions(model, Factors(*whole), keyed)
    changed = {side: touched(champion, ratings, side) for side in ("user", "item")}
    new = {side: int((getattr(known, side) < 0).sum()) for side in ("user", "item")}
    return Start(factors, new, {side: int(rows.sum()) for side, rows in changed.items()})


def _nonnegative(rows: np.ndarray, rank: int) -> np.ndarray:
    """A champion may have been allowed signs that the challenger is not."""
    rows[:, -rank:] = np.maximum(rows[:, -rank:], 0)
    return rows


def touched(champion: FittedModel, ratings: Ratings, side: str) -> np.ndarray:
    """Which rows of a side have other ratings than when the champion was trained; bool, shape (rows,).

    Told by what a version keeps of each row: its number of ratings and their mean, in float64. Ratings
    that changed and left both as they were go unnoticed, and are solved with all others.
    """
    if side == "user":
        ids, mine, counts = ratings.users, ratings.user, champion.user_counts
        known, means = champion.users, champion.baseline.user_means
    else:
        ids, mine, counts = ratings.items, ratings.item, champion.item_counts
        known, means = champion.items, champion.baseline.item_means
    rows = known.rows(ids.texts)
    now = np.bincount(mine, minlength=len(ids))
    mean = np.bincount(mine, ratings.rating, len(ids)) / now
    return (rows < 0) | (counts[rows] != now) | (means[rows] != mean)


def solve_touched(champion: FittedModel, model: FactorModel, ratings: Ratings, start: Start) -> Factors:
    """The start with its touched rows solved: items against known users, then users against all items.

    An item's ratings by users that are new are left out at first, because their rows are random still.
    Everything is only a start: full iterations follow, to the same tolerance as a cold fit.
    """
    totals = Totals(len(ratings), ratings.mean)
    factors, model = start.factors, model.exact()
    for side in ("item", "user"):
        rows = touched(champion, ratings, side)
        usable = np.ones(len(ratings), bool)
        if side == "item":
            usable = (champion.users.rows(ratings.users.texts) >= 0)[ratings.user]
        solved, block = _compact(ratings, side, rows, usable, model.storage)
        if not len(solved):
            continue
        own = getattr(factors, side)
        update = model.update(side, block, own[solved], getattr(factors, OTHER[side]), totals)
        whole = own.copy()
        whole[solved] = update.rows
        factors = factors._replace(**{side: whole})
    return factors


def _compact(
    ratings: Ratings, side: str, rows: np.ndarray, usable: np.ndarray, dtype: np.dtype
) -> tuple[np.ndarray, Block]:
    """The rows asked for that have usable ratings, and a block of just these."""
    mine, others = (ratings.user, ratings.item) if side == "user" else (ratings.item, ratings.user)
    at = np.flatnonzero(rows[mine] & usable)
    if side == "item":
        at = at[np.argsort(mine[at], kind="stable")]
    counts = np.bincount(mine[at], minlength=len(rows))
    solved = np.flatnonzero(counts)
    indptr = np.concatenate(([0], np.cumsum(counts[solved])))
    return solved, Block(0, indptr, others[at], ratings.rating[at].astype(dtype))
