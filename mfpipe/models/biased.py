"""Biases and matrix factorisation, by block coordinate descent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mfpipe.errors import ParameterError
from mfpipe.kernels import readonly
from mfpipe.kernels.components import number_components
from mfpipe.kernels.pairs import dot_pairs
from mfpipe.models.base import (
    Baseline,
    Factors,
    Linear,
    choice,
    is_not_negative,
    known_or,
    parameter,
)
from mfpipe.models.ridge import RidgeModel


@dataclass(frozen=True)
class BiasedALS(RidgeModel):
    """r̂ = μ + b_u + b_i + p·q with φ(p) = ‖p‖², μ the mean of the training ratings.

    The blocks are (b_u, p_u) and (b_i, q_i), each solved jointly, or with `separate` first the bias and
    then the factors. Unpenalised biases are defined up to a shift in each connected component of the
    rating graph; it is chosen so that Σ n_i b_i = 0 there.

    References
    ----------
    Koren, Bell, Volinsky: Matrix factorization techniques for recommender systems, Computer 42(8),
    2009, equations 4 and 5.
    """

    name = "biased-als"

    bias_regularization: float = parameter(
        0.0, "λ_b of the biases", is_not_negative, "a finite number, 0 or more"
    )
    block_order: str = choice(
        "joint", ("joint", "separate"), "solve a bias and its factors together, or one after the other"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.separate and self.nonnegative:
            raise ParameterError("--block-order separate: not with --nonnegative, which solves rows jointly")

    @property
    def biased(self) -> bool:
        return True

    @property
    def separate(self) -> bool:
        return self.block_order == "separate"

    @property
    def bias_regularization_(self) -> float:
        return self.bias_regularization

    def gauge(self, user, item) -> np.ndarray | None:
        """The connected component of each item; None where penalised biases leave no shift free."""
        if self.bias_regularization > 0:
            return None
        n_users = int(user.max()) + 1
        components = np.empty(n_users + int(item.max()) + 1, np.int32)
        number_components(*readonly(user, item), n_users, components)
        return components

    def gauged(self, factors: Factors, components: np.ndarray, item_counts: np.ndarray) -> Factors:
        """Shift biases within each component so that Σ n_i b_i = 0; no prediction of a rated pair changes."""
        user, item = (rows.copy() for rows in factors)
        of_user, of_item = components[: len(user)], components[len(user) :]
        total = np.bincount(of_item, item_counts * item[:, 0].astype(np.float64), components.max() + 1)
        shift = total / np.bincount(of_item, item_counts, components.max() + 1)
        item[:, 0] -= shift[of_item]
        user[:, 0] += shift[of_user]
        return Factors(user, item)

    def predict(self, factors: Factors, users, items, baseline: Baseline) -> np.ndarray:
        predicted = baseline.global_mean + known_or(factors.user[:, 0].astype(np.float64), users, 0.0)
        predicted += known_or(factors.item[:, 0].astype(np.float64), items, 0.0)
        dots = np.zeros(len(users))
        dot_pairs(*readonly(users, items, factors.user[:, 1:], factors.item[:, 1:]), dots)
        return predicted + dots

    def linear(self, factors: Factors, global_mean: float) -> Linear:
        left = factors.user.copy()
        left[:, 0] = 1  # times the item's bias
        return Linear(global_mean + factors.user[:, 0].astype(np.float64), left, factors.item)

    def _targets(self, user, item, rating) -> np.ndarray:
        """Residuals of the best bias-only model, which has a penalty of its own if the biases have."""
        import scipy.sparse.linalg  # which most fits do without

        n, n_users = len(rating), int(user.max()) + 1
        columns = np.concatenate((user, n_users + item))
        rows = np.tile(np.arange(n), 2)
        design = scipy.sparse.csr_array((np.ones(2 * n), (rows, columns)))
        target = rating - rating.mean()
        if self.bias_regularization > 0:
            counts = design.sum(axis=0)
            weights = counts if self.weighting == "count" else np.full(len(counts), float(n))
            penalty = scipy.sparse.diags_array(np.sqrt(self.bias_regularization * weights))
            design = scipy.sparse.vstack((design, penalty)).tocsr()
            target = np.concatenate((target, np.zeros(len(counts))))
        biases = scipy.sparse.linalg.lsqr(design, target, atol=1e-12, btol=1e-12, iter_lim=2000)[0]
        return (target - design @ biases)[:n]
