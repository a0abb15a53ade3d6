"""What a fitted estimator can be asked: recommend, similar, fold in, explain. Ids in, ids out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sklearn.utils.validation import check_is_fitted

from mfpipe.errors import ParameterError, RatingsError
from mfpipe.explain import explain
from mfpipe.fitted import FittedModel
from mfpipe.folding import Folded, fold_in
from mfpipe.ids import IdMap
from mfpipe.inputs import id_array, id_columns, ids_of
from mfpipe.ratings import encode
from mfpipe.recommend import SOURCES, Recommended, Recommender, Rules
from mfpipe.similar import Similar

if TYPE_CHECKING:
    import pandas as pd

NOBODY = "\0"  # no id of a file: those have no control characters


class _Table:
    """A NamedTuple of equally long arrays that can be a frame."""

    def frame(self) -> pd.DataFrame:
        """The same as a pandas DataFrame, a column for each array."""
        import pandas as pd

        return pd.DataFrame(self._asdict())  # type: ignore[attr-defined]


class _Recommendations(NamedTuple):
    user: np.ndarray
    rank: np.ndarray
    item: np.ndarray
    score: np.ndarray
    source: np.ndarray


class Recommendations(_Table, _Recommendations):
    """Recommendations, user after user in the order asked for, best first.

    `user` and `item` are ids, `rank` counts from 1, `score` is a prediction in stars, and `source` says how
    it was made: `known`, `folded in`, or for a user who is not in the model `biases` (the model's own)
    or `popularity` (the item's damped mean).
    """


class _Neighbours(NamedTuple):
    of: np.ndarray
    rank: np.ndarray
    id: np.ndarray
    score: np.ndarray


class Neighbours(_Table, _Neighbours):
    """Similar items or users: `of` what was asked for, the `id` found, `rank` from 1, `score` the cosine."""


class _Shares(NamedTuple):
    item: np.ndarray
    rating: np.ndarray
    weight: np.ndarray
    share: np.ndarray


class Shares(_Table, _Shares):
    """The user's own ratings in a prediction, largest share first; see `mfpipe.explain`."""


class Reasons(NamedTuple):
    """A prediction in stars, its `parts` (means, biases, shrinkage), and the `shares` of own ratings.

    Σ parts + Σ shares + unexplained = prediction; `unexplained` is rounding.
    """

    prediction: float
    parts: dict[str, float]
    shares: Shares
    unexplained: float


class FoldedIn:
    """New users or items with their factors, from their ratings alone.

    Attributes
    ----------
    ids : ndarray, shape (n,)
    factors : ndarray, shape (n, rank)
    biases : ndarray, shape (n,)
        Only of a model that has biases.
    left_out : int
        Ratings of ids that the model does not know.
    """

    def __init__(self, fitted: FittedModel, folded: Folded, side: str, ids: np.ndarray, items: np.ndarray):
        self._fitted, self._folded, self._side, self._items = fitted, folded, side, items
        self.ids, self.left_out = ids, folded.left_out
        biased = fitted.model.columns()[0] == "bias"
        self.factors = folded.rows[:, 1:] if biased else folded.rows
        if biased:
            self.biases = folded.rows[:, 0]

    def recommend(self, n: int = 10, **rules: Any) -> Recommendations:
        """Recommendations for the users folded in; the rules are those of `recommend`.

        What they rated counts as seen.
        """
        if self._side != "user":
            raise ParameterError("items were folded in; only users can be recommended to")
        recommender = Recommender(self._fitted, n, _rules(**rules))
        return _recommendations(self._items, self.ids, recommender.for_folded(self._folded))


class Answers:
    """The questions; mixed into every estimator."""

    fitted_: FittedModel
    items_: np.ndarray

    def recommend(self, users, n: int = 10, **rules: Any) -> Recommendations:
        """The n best items of each user by predicted rating; ties go to the first item in `items_`.

        Parameters
        ----------
        users : id, or sequence of ids
            Integers or text. One who was not trained on gets recommendations too, marked in `source`.
        n : int
        include_seen : bool, default False
            Whether items that a user rated in training may be recommended to them.
        allow, deny : sequence of item ids, optional
            The only ones that may be recommended; ones that may not.
        min_support : int, default 0
            Training ratings an item must have.
        diversity : float, default 0
            From 0 to 1: choose from the 10·n best one after the other, by (1 - diversity)·relevance -
            diversity·(largest cosine with those chosen).

        Returns
        -------
        Recommendations
            Arrays; `.frame()` is a DataFrame. A user gets fewer than n where fewer are left.

        Raises
        ------
        ParameterError, RatingsError
            Both are ValueErrors.
        """
        self._fitted_model()
        asked, texts = ids_of(users, "user")
        found = self._recommender(n, rules).for_users(texts)
        return _recommendations(self.items_, asked, found)

    def similar_items(self, items, n: int = 10) -> Neighbours:
        """The n items whose factors have the largest cosine with each item's.

        Raises
        ------
        ParameterError
            An item was not trained on or has only zero factors, or the model has no factors.
        """
        return self._similar("item", items, n)

    def similar_users(self, users, n: int = 10) -> Neighbours:
        """The n users whose factors have the largest cosine with each user's; see `similar_items`."""
        return self._similar("user", users, n)

    def fold_in(self, ratings, *, side: str = "user") -> FoldedIn:
        """Factors of new users (or items) from their ratings, by the kernel that trained the others.

        The rows are what a half-step with the other side fixed would give, to the last bit.

        Parameters
        ----------
        ratings : dict, frame, or tuple (X, y)
            For one, a dict of the other side's ids to ratings; for several, a frame with the columns user,
            item and rating in this order, or (user, item) ids and ratings as in `fit`.
        side : {'user', 'item'}
            Who is new.
        """
        fitted = self._fitted_model()
        if side not in ("user", "item"):
            raise ParameterError(f"side {side!r}: must be 'user' or 'item'")
        users, items, rating = _columns(ratings, side)
        if not np.isfinite(rating).all():
            raise RatingsError(f"rating {np.flatnonzero(~np.isfinite(rating))[0]} is not finite; remove it")
        encoded = encode([users], [items], rating, duplicates="mean")
        ids = id_array(IdMap(getattr(encoded, side + "s").texts))
        return FoldedIn(fitted, fold_in(fitted, encoded, side), side, ids, self.items_)

    def explain(self, user, item) -> Reasons:
        """What one prediction is made of: biases, and the share of each of the user's own ratings.

        Raises
        ------
        ParameterError
            The model has no factors.
        """
        fitted = self._fitted_model()
        row = int(fitted.users.rows(ids_of(user, "user")[1])[0])
        found = explain(fitted, row, int(fitted.items.rows(ids_of(item, "item")[1])[0]))
        shares = Shares(self.items_[found.item], found.rating, found.weight, found.share)
        return Reasons(found.prediction, found.parts, shares, found.unexplained)

    def _fitted_model(self) -> FittedModel:
        check_is_fitted(self, "fitted_")
        return self.fitted_

    def _recommender(self, n: int, rules: dict[str, Any]) -> Recommender:
        """The one of the last question, if that was asked in the same way: it has matrices in order."""
        asked = (n, tuple(sorted(rules.items()))) if not {"allow", "deny"} & rules.keys() else None
        kept = self.__dict__.get("_kept_recommender")
        if asked is None or kept is None or kept[0] != asked or kept[1].fitted is not self.fitted_:
            kept = (asked, Recommender(self.fitted_, n, _rules(**rules)))
            self._kept_recommender = kept
        return kept[1]

    def __getstate__(self):
        state: dict = super().__getstate__()  # type: ignore[assignment]
        return {name: value for name, value in state.items() if name != "_kept_recommender"}

    def _similar(self, side: str, ids, n: int) -> Neighbours:
        fitted = self._fitted_model()
        asked, texts = ids_of(ids, side)
        rows = getattr(fitted, side + "s").rows(texts)
        if (rows < 0).any():
            raise ParameterError(f"{side} {asked[np.flatnonzero(rows < 0)[0]]!r} was not trained on")
        found = Similar(fitted, side).best(rows, n)
        names = getattr(self, side + "s_")
        return Neighbours(asked[found.query], found.rank, names[found.row], found.score)


def _rules(include_seen=False, allow=None, deny=None, min_support=0, diversity=0.0) -> Rules:
    allow, deny = (None if ids is None else ids_of(ids, "item")[1] for ids in (allow, deny))
    return Rules(bool(include_seen), allow, deny, min_support, diversity)


def _recommendations(items: np.ndarray, asked: np.ndarray, found: Recommended) -> Recommendations:
    source = SOURCES[found.source[found.query]]
    return Recommendations(asked[found.query], found.rank, items[found.item], found.score, source)


def _columns(ratings, side: str):
    if isinstance(ratings, Mapping):
        others, texts = ids_of(list(ratings), "item" if side == "user" else "user")
        new = ids_of([NOBODY] * len(others), side)[1].dictionary_encode()
        columns = (new, texts.dictionary_encode())
        users, items = columns if side == "user" else columns[::-1]
        rating = list(ratings.values())
    elif hasattr(ratings, "iloc"):
        users, items = id_columns(ratings.iloc[:, :2], fitting=False)
        rating = ratings.iloc[:, 2]
    else:
        X, rating = ratings
        users, items = id_columns(X, fitting=False)
    values = np.asarray(rating, dtype=np.float64).ravel()
    if len(values) != len(users) or not len(values):
        raise RatingsError(f"{len(users)} pairs and {len(values)} ratings; there must be as many, not none")
    return users, items, values
