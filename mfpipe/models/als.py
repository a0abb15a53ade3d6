"""Matrix factorisation with a ridge penalty, by alternating least squares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from mfpipe.errors import NumericError
from mfpipe.kernels import readonly
from mfpipe.kernels.pairs import dot_pairs
from mfpipe.kernels.residuals import residual_rows, squared_norm, squared_residual
from mfpipe.kernels.ridge import ridge_rows
from mfpipe.models.base import Baseline, Block, FactorModel, Factors, Update, normal_start


@dataclass(frozen=True)
class ALS(FactorModel):
    """r̂ = p·q, minimising  (1/N) Σ (r − p·q)² + λ Σ_u w_u ‖p_u‖² + λ Σ_i w_i ‖q_i‖².

    w = 1 with `uniform` weighting, w = (the row's number of ratings)/N with `count`.

    References
    ----------
    Zhou, Wilkinson, Schreiber, Pan: Large-scale parallel collaborative filtering for the Netflix
    prize, AAIM 2008, equations 1 to 5 (`count` weighting).
    """

    name = "als"

    def columns(self) -> list[str]:
        return [f"factor_{k}" for k in range(self.rank)]

    def start(self, side: str, hashes: np.ndarray) -> np.ndarray:
        return normal_start(self.random_state, side, hashes, self.rank, self.storage)

    def update(self, side: str, block: Block, other: np.ndarray, n_ratings: int) -> Update:
        rows = np.empty((block.n_rows, self.rank), other.dtype)
        squared_error, penalised = np.empty(block.n_rows), np.empty(block.n_rows)
        unsolved = np.empty(block.n_rows, dtype=np.bool_)
        penalty = self.penalties(block, n_ratings)
        ridge_rows(*readonly(*block[1:], other, penalty), rows, squared_error, penalised, unsolved)
        for u in np.flatnonzero(unsolved):
            ratings = slice(block.indptr[u], block.indptr[u + 1])
            columns, values, other = readonly(block.columns[ratings], block.values[ratings], other)
            rows[u] = _least_norm_row(other[columns], values, penalty[u])
            squared_error[u] = squared_residual(columns, values, other, rows[u])
            penalised[u] = penalty[u] * squared_norm(rows[u])
        return Update(rows, squared_error, penalised)

    def evaluate(self, side, block: Block, own, other, n_ratings: int) -> Update:
        rows = own[block.first_row : block.first_row + block.n_rows]
        squared_error, norms = np.empty(block.n_rows), np.empty(block.n_rows)
        residual_rows(*readonly(*block[1:], rows, other), squared_error, norms)
        return Update(rows, squared_error, self.penalties(block, n_ratings) * norms)

    def stationarity(self, side, block: Block, own, other, n_ratings: int) -> np.ndarray:
        penalty = self.penalties(block, n_ratings)
        rows = own[block.first_row : block.first_row + block.n_rows].astype(np.float64)
        distances = np.zeros(block.n_rows)
        for u in range(block.n_rows):
            ratings = slice(block.indptr[u], block.indptr[u + 1])
            x = other[block.columns[ratings]].astype(np.float64)
            y = block.values[ratings].astype(np.float64)
            gradient = 2 * (x.T @ (x @ rows[u] - y) + penalty[u] * rows[u])
            scale = max(np.abs(x.T @ y).max(initial=0.0), penalty[u])
            distances[u] = np.linalg.norm(gradient) / scale if scale else 0.0
        return distances

    def predict(self, factors: Factors, users, items, baseline: Baseline) -> np.ndarray:
        predicted = np.zeros(len(users)) if self.cold == "zero" else baseline.fallback(users, items)
        dot_pairs(*readonly(users, items, factors.user, factors.item), predicted)
        return predicted

    def largest_useful_regularization(self, user, item, rating) -> float:
        matrix = scipy.sparse.csr_array((rating, (user, item)))
        if self.weighting == "uniform":
            return largest_singular_value(matrix) / len(rating)
        by_user = scipy.sparse.diags_array(np.bincount(user) ** -0.5)
        by_item = scipy.sparse.diags_array(np.bincount(item) ** -0.5)
        return largest_singular_value(by_user @ matrix @ by_item)


def largest_singular_value(matrix) -> float:
    """σ_max of a sparse matrix, by Lanczos from a fixed start."""
    if min(matrix.shape) == 1:
        return float(scipy.sparse.linalg.norm(matrix))
    start = np.ones(min(matrix.shape))
    return float(scipy.sparse.linalg.svds(matrix, k=1, v0=start, return_singular_vectors=False)[0])


def _least_norm_row(x: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    """The shortest p that minimises ‖y − Xp‖² + s‖p‖², for a singular system."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    if penalty > 0:
        x = np.vstack((x, np.sqrt(penalty) * np.eye(x.shape[1])))
        y = np.concatenate((y, np.zeros(x.shape[1])))
    try:
        return np.linalg.lstsq(x, y, rcond=None)[0]
    except np.linalg.LinAlgError as error:
        raise NumericError(f"a row with {len(y)} ratings could not be solved: {error}") from error
