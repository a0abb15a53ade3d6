"""Similar items and users: the largest cosines between factors, exact."""

from __future__ import annotations

import numpy as np

from mfpipe.errors import ParameterError
from mfpipe.fitted import FittedModel
from mfpipe.models import FactorModel
from mfpipe.topn import Ranked, Search, directions, in_order


class Similar:
    """The nearest rows of one side, by the cosine of their factors; biases take no part.

    Parameters
    ----------
    fitted : FittedModel
    side : {'item', 'user'}

    Raises
    ------
    ParameterError
        The model has no factors.
    """

    def __init__(self, fitted: FittedModel, side: str = "item"):
        if not isinstance(fitted.model, FactorModel):
            raise ParameterError(f"{fitted.model.name} has no factors, so nothing is similar")
        self.side, self.ids = side, getattr(fitted, side + "s")
        self.directions = directions(fitted, side)
        self.search = Search(self.directions)

    def best(self, rows: np.ndarray, n: int = 10) -> Ranked:
        """The n nearest of each row, nearest first, ties by row; the row itself is left out.

        Raises
        ------
        ParameterError
            `n` is out of range, or a row has only zero factors.
        """
        if not 1 <= n <= 100_000:
            raise ParameterError(f"-n {n!r}: must be an integer from 1 to 100000")
        parts = []
        for begin in range(0, len(rows), self.search.block_rows()):
            part = self._block(rows[begin : begin + self.search.block_rows()], n)
            parts.append(part._replace(query=part.query + np.int32(begin)))
        return Ranked(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def _block(self, rows: np.ndarray, n: int) -> Ranked:
        mine = self.directions[rows]
        zero = np.flatnonzero(~mine.any(axis=1))
        if len(zero):
            raise ParameterError(
                f"{self.side} {self.ids[rows[zero[0]]]!r} has only zero factors, so nothing is similar to it"
            )
        itself = np.arange(len(rows) + 1, dtype=np.int64), rows.astype(np.int32)
        near = self.search.candidates(mine, np.zeros(len(rows)), n, *itself)
        cosines = (mine[near.query] * self.directions[near.row]).sum(axis=1)
        return in_order(near, np.clip(cosines, -1.0, 1.0), n)
