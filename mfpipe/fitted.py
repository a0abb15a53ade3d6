"""A fitted model: hyper-parameters, ids and factors, ready to predict."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mfpipe.fit import Fit
from mfpipe.ids import IdMap
from mfpipe.models.base import Baseline, Block, Factors, Model, Totals
from mfpipe.ratings import Ratings

SOURCES = np.array(["known", "cold user", "cold item", "cold user and item"])


@dataclass(frozen=True)
class FittedModel:
    """What a store keeps and users predict with.

    Parameters
    ----------
    model : Model
    users, items : IdMap
        The ids that were trained on; factors exist for these alone.
    factors : Factors
    baseline : Baseline
    user_counts, item_counts : ndarray of int64
        Number of training ratings of each row.
    rated : Block, optional
        The training ratings by user; None where they were not kept.
    """

    model: Model
    users: IdMap
    items: IdMap
    factors: Factors
    baseline: Baseline
    user_counts: np.ndarray
    item_counts: np.ndarray
    rated: Block | None = None

    @classmethod
    def of(cls, fit: Fit, ratings: Ratings) -> FittedModel:
        users, items = ratings.users, ratings.items
        user_counts, item_counts = ratings.user_counts, ratings.item_counts
        rated = Block(0, np.concatenate(([0], np.cumsum(user_counts))), ratings.item, ratings.rating)
        return cls(fit.model, users, items, fit.factors, fit.baseline, user_counts, item_counts, rated)

    @property
    def totals(self) -> Totals:
        """What the row updates of its fit knew of all training ratings."""
        return Totals(int(self.user_counts.sum()), self.baseline.global_mean)

    def predict(self, users: pa.Array, items: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """Predicted ratings of pairs of ids.

        Parameters
        ----------
        users, items : pyarrow string arrays, shape (n,)

        Returns
        -------
        predicted : ndarray of float64, shape (n,)
            In stars; never NaN.
        source : ndarray of int, shape (n,)
            Position in `SOURCES`: which ids were trained on.
        """
        user_rows, item_rows = self.users.rows(users), self.items.rows(items)
        predicted = self.model.predict(self.factors, user_rows, item_rows, self.baseline)
        return predicted, (user_rows < 0) + 2 * (item_rows < 0)
