"""Similar items and users: the largest cosines between factors, exact."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from mfpipe.errors import ParameterError
from mfpipe.fitted import FittedModel
from mfpipe.models import FactorModel
from mfpipe.topn import Ranked, Search, directions, in_order, require_count


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
        require_count(n)
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

    def rows_of(self, ids: Sequence[str]) -> np.ndarray:
        """Rows of ids; ParameterError for one that was not trained on."""
        rows = self.ids.rows(pa.array(ids, pa.string()))
        if (rows < 0).any():
            unknown = ids[int(np.flatnonzero(rows < 0)[0])]
            raise ParameterError(
                f"{self.side} {unknown!r} was not trained on, so nothing is known to be similar"
            )
        return rows

    def records(self, ids: Sequence[str], n: int = 10) -> list[dict]:
        """The nearest of each id as plain values, a record for each."""
        found = self.best(self.rows_of(ids), n)
        texts = self.ids.texts.take(pa.array(found.row)).to_pylist()
        records: list[dict] = [{self.side: one, f"{self.side}s": []} for one in ids]
        rows = zip(found.query.tolist(), texts, found.score.tolist(), found.rank.tolist(), strict=True)
        for query, text, score, rank in rows:
            records[query][f"{self.side}s"].append({self.side: text, "score": score, "rank": rank})
        return records
