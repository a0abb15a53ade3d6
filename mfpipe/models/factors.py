"""What all factor models share: one objective, its row problem, and the solvers for it.

    J = (1/N) Σ (r − r̂)²  +  Σ_u w_u [λ φ(p_u) + λ_b b_u²]  +  Σ_i w_i [λ φ(q_i) + λ_b b_i²]

with φ(p) = α‖p‖₁ + (1 − α)‖p‖². A model is a choice of r̂ (with biases or without), of α, and of a sign
constraint; the row solver follows from these.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mfpipe.kernels import readonly
from mfpipe.kernels.conjugate import conjugate_rows
from mfpipe.kernels.descent import descent_rows
from mfpipe.kernels.pairs import dot_pairs
from mfpipe.kernels.residuals import evaluate_rows, row_penalty, squared_residual
from mfpipe.kernels.ridge import ridge_rows
from mfpipe.kernels.start import normal_rows
from mfpipe.models.base import (
    SIDES,
    Baseline,
    Block,
    Factors,
    Linear,
    Model,
    Totals,
    Update,
    choice,
    is_integer,
    is_not_negative,
    is_positive,
    parameter,
    switch,
)

NOTHING = 1e-13  # of the largest rating: residuals below it are rounding


@dataclass(frozen=True)
class FactorModel(Model):
    """A model whose rows start at random and whose objective every half-step lowers."""

    rank: int = parameter(10, "number of latent factors", is_integer(1, 4096), "an integer from 1 to 4096")
    regularization: float = parameter(
        0.05, "λ of the objective", is_not_negative, "a finite number, 0 or more"
    )
    weighting: str = choice("count", ("uniform", "count"), "how λ is weighted over rows")
    max_iter: int = parameter(50, "iterations at most", is_integer(0, 10**9), "an integer, 0 or more")
    tol: float = parameter(
        1e-4,
        "stop when an iteration lowers the objective by less than this share of it",
        is_not_negative,
        "a finite number, 0 or more",
    )
    random_state: int = parameter(
        0, "seed of the starting factors", is_integer(0, 2**63 - 1), "an integer from 0 to 2^63 - 1"
    )
    dtype: str = choice("float32", ("float32", "float64"), "type the factors are stored and solved in")
    init: str = choice(
        "random",
        ("random", "spectral"),
        "start from random rows, or from the ratings' leading singular vectors",
    )
    init_scale: float = parameter(
        1.0, "what the factors of either start are multiplied by", is_positive, "a finite number above 0"
    )
    accelerate: bool = switch(
        "start item half-steps from extrapolated users, wherever that lowers the objective"
    )

    # What a model may choose; most choose nothing.

    @property
    def biased(self) -> bool:
        """Whether r̂ has a mean and biases; a row is then its bias followed by its factors."""
        return False

    @property
    def separate(self) -> bool:
        """Whether biases and factors are updated one after the other instead of jointly."""
        return False

    @property
    def l1_share(self) -> float:
        """α of the penalty."""
        return 0.0

    @property
    def signed(self) -> bool:
        """Whether factors may be negative."""
        return True

    @property
    def steps(self) -> int:
        """Steps of conjugate gradients that a row takes instead of being solved; 0 for none."""
        return 0

    @property
    def bias_regularization_(self) -> float:
        """λ_b of the objective."""
        return 0.0

    @property
    def balances(self) -> bool:
        """Whether both sides are rescaled between iterations."""
        return False

    def gauge(self, user: np.ndarray, item: np.ndarray) -> np.ndarray | None:
        """What `gauged` must know of the training pairs; None where nothing is free."""
        return None

    def gauged(self, factors: Factors, components: np.ndarray, item_counts: np.ndarray) -> Factors:
        """The same predictions of rated pairs, in the one form that is reported."""
        raise NotImplementedError

    # The rest follows.

    @property
    def warm_starts(self) -> bool:
        return self.descends or self.separate or self.steps > 0

    @property
    def descends(self) -> bool:
        """Whether rows are solved by coordinate descent."""
        return self.l1_share > 0 or not self.signed

    def columns(self) -> list[str]:
        factors = [f"factor_{k}" for k in range(self.rank)]
        return ["bias", *factors] if self.biased else factors

    def start(self, side: str, hashes: np.ndarray) -> np.ndarray:
        rows = np.zeros((len(hashes), len(self.columns())), self.storage)
        normal = normal_start(self.random_state, side, hashes, self.rank, self.storage)
        normal *= self.storage.type(self.init_scale)
        rows[:, len(self.columns()) - self.rank :] = normal if self.signed else np.abs(normal)
        return rows

    def penalties(self, block: Block, totals: Totals) -> tuple[np.ndarray, np.ndarray]:
        """S = λ N w and s_b = λ_b N w of each row; float64, shape (rows,)."""
        weights = self._weights(np.diff(block.indptr), totals)
        return self.regularization * weights, self.bias_regularization_ * weights

    def _weights(self, counts: np.ndarray, totals: Totals) -> np.ndarray:
        """N w of each row."""
        return (
            counts.astype(np.float64)
            if self.weighting == "count"
            else np.full(len(counts), float(totals.n_ratings))
        )

    def side_penalty(self, rows: np.ndarray, counts: np.ndarray, totals: Totals) -> float:
        """Σ s φ(p) + s_b b² over one side."""
        rows, bias = rows.astype(np.float64), np.zeros(len(rows))
        if self.biased:
            rows, bias = rows[:, 1:], rows[:, 0]
        penalties = self.l1_share * np.abs(rows).sum(axis=1) + (1 - self.l1_share) * (rows**2).sum(axis=1)
        per_row = self.regularization * penalties + self.bias_regularization_ * bias**2
        return float((self._weights(counts, totals) * per_row).sum())

    def extrapolated(self, rows: np.ndarray, before: np.ndarray, share: float) -> np.ndarray:
        """Rows moved on by a share of their last step, within the sign constraint."""
        moved = rows + self.storage.type(share) * (rows - before)
        if not self.signed:
            factors = moved[:, -self.rank :]
            np.maximum(factors, 0, out=factors)
        return moved

    def balanced(self, factors: Factors, counts: Factors, totals: Totals) -> Factors:
        """Both sides rescaled, factor by factor, to the least penalty that leaves every p·q as it is.

        With A and B the weighted penalties of factor k of P and of Q, P is divided and Q multiplied by
        (A/B)^½ for the lasso and (A/B)^¼ for the ridge penalty.
        """
        power = 1 if self.l1_share else 2
        sums = [
            self._weights(count, totals) @ np.abs(rows, dtype=np.float64) ** power
            for rows, count in zip(factors, counts, strict=True)
        ]
        smallest = np.finfo(np.float64).smallest_normal  # below it a sum has no digits to divide
        used = (sums[0] >= smallest) & (sums[1] >= smallest)
        scale = np.ones(self.rank)
        scale[used] = (sums[0][used] / sums[1][used]) ** (0.5 / power)
        return Factors(
            *(np.asarray(rows, self.storage) for rows in (factors.user / scale, factors.item * scale))
        )

    def update(self, side, block: Block, own, other, totals: Totals) -> Update:
        rows = np.empty((block.n_rows, other.shape[1]), other.dtype)
        squared_error, penalised = np.empty(block.n_rows), np.empty(block.n_rows)
        if not len(own):
            own = np.empty((0, other.shape[1]), other.dtype)
        penalty, bias_penalty = self.penalties(block, totals)
        inputs = readonly(*block[1:], other, penalty, bias_penalty, own)
        if self.descends:
            options = (totals.mean, self.biased, float(self.l1_share), not self.signed)
            unfinished = np.empty(block.n_rows, np.bool_)
            descent_rows(*inputs, *options, rows, squared_error, penalised, unfinished)
            return Update(rows, squared_error, penalised, int(unfinished.sum()))
        if self.steps:
            ways = (totals.mean, self.biased, self.separate, self.steps)
            conjugate_rows(*inputs, *ways, rows, squared_error, penalised)
            return Update(rows, squared_error, penalised)
        unsolved = np.empty(block.n_rows, np.bool_)
        ridge_rows(*inputs, totals.mean, self.biased, self.separate, rows, squared_error, penalised, unsolved)
        # Without a penalty, factors near the smallest float have squares that are none.
        for u in np.flatnonzero(unsolved | ~np.isfinite(squared_error)):
            ratings = slice(block.indptr[u], block.indptr[u + 1])
            columns, values, fixed = readonly(block.columns[ratings], block.values[ratings], other)
            rows[u] = self._least_norm_row(columns, values, fixed, penalty[u], bias_penalty[u], totals.mean)
            squared_error[u] = squared_residual(columns, values, fixed, totals.mean, self.biased, rows[u])
            penalised[u] = row_penalty(rows[u], penalty[u], bias_penalty[u], 0.0, self.biased)
        return Update(rows, squared_error, penalised)

    def _design(self, columns, values, other, mean: float) -> tuple[np.ndarray, np.ndarray]:
        """X and y of one row's problem, in float64."""
        x, y = other[columns].astype(np.float64), values.astype(np.float64)
        if self.biased:
            y = y - mean - x[:, 0]
            x[:, 0] = 1
        return x, y

    def _least_norm_row(self, columns, values, other, penalty, bias_penalty, mean) -> np.ndarray:
        """The minimiser with the shortest p of a row problem whose system is singular.

        A bias without a penalty is eliminated first, by centring: it has no part in what is shortest.
        """
        x, y = self._design(columns, values, other, mean)
        first = 1 if self.biased else 0  # ones are exact, and may be far larger than the factors
        noise = np.finfo(other.dtype).eps * max(x.shape) * np.linalg.norm(x[:, first:])
        free = self.biased and bias_penalty == 0
        if free:
            x = x[:, 1:]
            x_mean, y_mean = x.mean(axis=0), y.mean()
            x, y = x - x_mean, y - y_mean
        diagonal = np.full(x.shape[1], penalty)
        if self.biased and not free:
            diagonal[0] = bias_penalty
        x = np.vstack((x, np.diag(np.sqrt(diagonal))))
        y = np.concatenate((y, np.zeros(x.shape[1])))
        try:
            left, sizes, right = np.linalg.svd(x, full_matrices=False)
        except np.linalg.LinAlgError:
            return np.full(other.shape[1], np.nan)  # the driver stops there, and names the id
        kept = sizes > noise  # the rest is the rounding of the other side's rows
        row = right[kept].T @ (left[:, kept].T @ y / sizes[kept])
        return np.concatenate(([y_mean - x_mean @ row], row)) if free else row

    def evaluate(self, side: str, block: Block, own, other, totals: Totals) -> Update:
        """A block's rows as they are, with their squared errors and penalties."""
        squared_error, penalised = np.empty(block.n_rows), np.empty(block.n_rows)
        inputs = readonly(*block[1:], other, *self.penalties(block, totals), own)
        evaluate_rows(*inputs, totals.mean, self.biased, float(self.l1_share), squared_error, penalised)
        return Update(own, squared_error, penalised)

    def stationarity(self, side: str, block: Block, own, other, totals: Totals) -> np.ndarray:
        """Each row's distance from its exact optimum; float64, shape (rows,).

        The Euclidean norm of the row problem's (sub)gradient nearest to zero, divided by
        max(‖Xᵀy‖∞, s).
        """
        penalties = zip(*self.penalties(block, totals), strict=True)
        first = len(self.columns()) - self.rank
        distances = np.zeros(block.n_rows)
        for u, (penalty, bias_penalty) in enumerate(penalties):
            ratings = slice(block.indptr[u], block.indptr[u + 1])
            x, y = self._design(block.columns[ratings], block.values[ratings], other, totals.mean)
            p = own[u].astype(np.float64)
            ridge = np.full(len(p), penalty * (1 - self.l1_share))
            lasso = np.full(len(p), penalty * self.l1_share)
            ridge[:first], lasso[:first] = bias_penalty, 0
            gradient = 2 * (x.T @ (x @ p - y) + ridge * p) + lasso * np.sign(p)
            at_zero = p == 0
            nearest = np.sign(gradient) * np.maximum(np.abs(gradient) - lasso, 0)
            if not self.signed:
                nearest[first:] = np.minimum(gradient + lasso, 0)[first:]
            gradient[at_zero] = nearest[at_zero]
            scale = max(np.abs(x.T @ y).max(initial=0.0), penalty)
            distances[u] = np.linalg.norm(gradient) / scale if scale else 0.0
        return distances

    def predict(self, factors: Factors, users, items, baseline: Baseline) -> np.ndarray:
        predicted = np.zeros(len(users)) if self._cold_is_zero else baseline.fallback(users, items)
        dot_pairs(*readonly(users, items, factors.user, factors.item), predicted)
        return predicted

    def linear(self, factors: Factors, global_mean: float) -> Linear:
        return Linear(np.zeros(len(factors.user)), factors.user, factors.item)

    @property
    def _cold_is_zero(self) -> bool:
        return getattr(self, "cold", "fallback") == "zero"

    def largest_useful_regularization(self, user, item, rating) -> float | None:
        """The λ from which on all factors are zero at the optimum; None where none is known.

        σ_max of the sparse matrix of targets over N with `uniform` weighting, and of that matrix with
        rows and columns divided by the square roots of their counts with `count`.
        """
        if self.l1_share > 0:
            return None
        targets = self._targets(user, item, rating)
        if not self.signed and targets.min() < 0:
            return None
        import scipy.sparse  # which most fits do without

        matrix = scipy.sparse.csr_array((targets, (user, item)))
        if self.weighting == "uniform":
            return largest_singular_value(matrix) / len(rating)
        by_user = scipy.sparse.diags_array(np.bincount(user) ** -0.5)
        by_item = scipy.sparse.diags_array(np.bincount(item) ** -0.5)
        return largest_singular_value(by_user @ matrix @ by_item)

    def _targets(self, user, item, rating) -> np.ndarray:
        """What is left for the factors to explain."""
        return rating

    def collapse_bound(self, user, item, rating, start: Factors) -> float | None:
        """The λ from which on a fit from this start is known to end with all factors zero."""
        return self.largest_useful_regularization(user, item, rating)

    def collapse(self, user, item, rating, start: Factors) -> str | None:
        """Why all factors are zero, in words; None where the parameters do not explain it."""
        bound = self.collapse_bound(user, item, rating, start)
        if bound is None or self.regularization < bound:
            return None
        if bound <= NOTHING * np.abs(rating).max():
            return "these ratings leave nothing for them to explain"
        return (
            f"--regularization {self.regularization:g} is not below {bound:.5g}, the largest useful one for "
            f"these ratings with {self.weighting} weighting"
        )


def largest_singular_value(matrix) -> float:
    """σ_max of a sparse matrix, by Lanczos from a fixed start.

    Not from ones: the residuals of free biases sum to zero in every row and column.
    """
    import scipy.sparse.linalg

    if min(matrix.shape) == 1:
        return float(scipy.sparse.linalg.norm(matrix))
    if not matrix.count_nonzero():
        return 0.0
    start = np.random.default_rng(0).standard_normal(min(matrix.shape))
    return float(scipy.sparse.linalg.svds(matrix, k=1, v0=start, return_singular_vectors=False)[0])


def normal_start(seed: int, side: str, hashes: np.ndarray, rank: int, dtype: np.dtype) -> np.ndarray:
    """N(0, 1) rows keyed by (seed, side, id): the same whatever other ids there are."""
    rows = np.empty((len(hashes), rank), dtype)
    normal_rows(*readonly(hashes), np.uint64(seed), np.uint64(SIDES.index(side)), rows)
    return rows
