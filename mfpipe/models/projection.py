"""One side's rows as sums of the other's, weighted by what there is to explain."""

from __future__ import annotations

import numpy as np

from mfpipe.kernels import readonly
from mfpipe.kernels.start import project_rows
from mfpipe.models.base import Block, Totals, Update
from mfpipe.models.factors import FactorModel


class Projection:
    """D^(-1/2) R X by a pass over the blocks of R, the targets of a model, with X the other side's rows.

    D holds the numbers of ratings of this side's rows.

    Parameters
    ----------
    model : FactorModel
    """

    def __init__(self, model: FactorModel):
        self.model = model

    def update(self, side: str, block: Block, own, other: np.ndarray, totals: Totals) -> Update:
        """Each row's Σ y x / √n, without errors; y is r, and of a biased model r − μ − b − b_other.

        The row's own bias b is the best one given the other side's.
        """
        rows = np.empty((block.n_rows, other.shape[1]), other.dtype)
        _, bias_penalty = self.model.penalties(block, totals)
        project_rows(*readonly(*block[1:], other, bias_penalty), totals.mean, self.model.biased, rows)
        nothing = np.zeros(block.n_rows)
        return Update(rows, nothing, nothing)
