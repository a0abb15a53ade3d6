"""The driver loop: half-steps until the objective no longer falls, with a record of each iteration."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from mfpipe.errors import NumericError
from mfpipe.executors import Executor, HalfStep
from mfpipe.kernels import readonly
from mfpipe.kernels.descent import PASSES
from mfpipe.kernels.pairs import dot_pairs
from mfpipe.models import FactorModel, Model
from mfpipe.models.base import OTHER, Baseline, Factors, Totals
from mfpipe.ratings import Ratings
from mfpipe.spectral import spectral_start

RISE_ALLOWED = {"float32": 1e-5, "float64": 1e-12}  # of the mean square of what a residual is made of
PAIRS = 2**17  # looked at at a time
COLLAPSED = 1e-3  # mean square of p·q, as a share of the train RMSE's, below which a fit is suspected


@dataclass
class Pairs:
    """Rows and ratings of pairs to predict; -1 for an id that was not trained on."""

    users: np.ndarray
    items: np.ndarray
    rating: np.ndarray

    @classmethod
    def of(cls, users: pa.Array, items: pa.Array, rating: np.ndarray, ratings: Ratings) -> Pairs:
        return cls(ratings.users.rows(users), ratings.items.rows(items), rating)


@dataclass
class Fit:
    """What a fit gives: factors, and how it got there.

    `history` has one record an iteration: its number, objective, train_rmse and test_rmse in stars,
    seconds, whether an extrapolation was `restarted`, and its `half_steps` with their objective, seconds,
    partitions and the number of `unfinished` rows. `objectives` are those
    after the start and after each half-step. `collapsed` says that p·q explains next to nothing: its
    mean square over the training pairs is below `COLLAPSED` of the residuals'.
    """

    model: Model
    factors: Factors
    baseline: Baseline
    objective: float
    train_rmse: float
    converged: bool
    history: list[dict] = field(default_factory=list)
    objectives: list[float] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    collapsed: bool = False

    @property
    def n_iter(self) -> int:
        return len(self.history)

    @property
    def sparsity(self) -> float | None:
        """The share of factors that are exactly zero; None for a model without factors."""
        if not isinstance(self.model, FactorModel):
            return None
        factors = [rows[:, -self.model.rank :] for rows in self.factors]
        zeros = sum(int((rows == 0).sum()) for rows in factors)
        return zeros / max(1, sum(rows.size for rows in factors))


class Momentum(NamedTuple):
    """Where the users' rows were an iteration ago, and Nesterov's t of the next extrapolation.

    References
    ----------
    Nesterov, Soviet Math. Dokl. 27, 1983 (t and the share (t − 1)/t'); O'Donoghue, Candès: Adaptive restart
    for accelerated gradient schemes, Found. Comput. Math. 15, 2015, section 3.2 (restart when the
    objective rises); Mitchell, Ye, De Sterck: Nesterov acceleration of alternating least squares,
    Numer. Linear Algebra Appl. 27, 2020.
    """

    users: np.ndarray | None = None
    t: float = 1.0


@dataclass(frozen=True)
class State:
    """A fit after a whole iteration: all that going on from there to the last bit takes.

    `penalty` is Σ s φ of each side, in squared stars; `history`, `objectives` and `seconds` are those of
    `Fit` so far; `momentum` is empty unless the model accelerates.
    """

    factors: Factors
    penalty: dict[str, float]
    history: list[dict]
    objectives: list[float]
    seconds: float
    momentum: Momentum

    @property
    def iteration(self) -> int:
        return len(self.history)


def baseline_of(ratings: Ratings) -> Baseline:
    """The global mean and the means of rows, in float64."""
    return Baseline(ratings.mean, *ratings.row_means())


def starting_factors(model: Model, ratings: Ratings) -> Factors:
    """The model's keyed start for the ids of these ratings."""
    return Factors(model.start("user", ratings.users.hashes), model.start("item", ratings.items.hashes))


def cold_start(model: Model, ratings: Ratings, executor: Executor) -> Factors:
    """Where a fit starts that is given nothing to start from."""
    keyed = starting_factors(model, ratings)
    if not isinstance(model, FactorModel) or model.init == "random":
        return keyed
    return spectral_start(model, ratings, executor, keyed)


def fit(
    model: Model,
    ratings: Ratings,
    executor: Executor,
    start: Factors | None = None,
    test: Pairs | None = None,
    on_iteration: Iterable[Callable[[dict], None]] = (),
    state: State | None = None,
    on_state: Callable[[State], None] | None = None,
) -> Fit:
    """Fit a model: the item half-step, then the user half-step, until an iteration no longer helps.

    Parameters
    ----------
    model : Model
    ratings : Ratings
        What to train on; must be those the executor was made with.
    executor : Executor
    start : Factors, optional
        Starting rows; by default those that the model's `init` names.
    test : Pairs, optional
        Predicted after each iteration for `test_rmse`; never trained on.
    on_iteration : iterable of callables
        Each is called with the record of each iteration.
    state : State, optional
        Of the same fit, to go on from; `start` must be what it was.
    on_state : callable, optional
        Called with the state after each iteration.

    Raises
    ------
    NumericError
        A value that is not finite, or an objective that rose by more than rounding can explain.
    """

    def begin() -> Factors:
        made = start or cold_start(model, ratings, executor)
        return Factors(*(np.ascontiguousarray(rows, model.storage) for rows in made))

    began = time.perf_counter()
    factors = state.factors if state else begin()
    baseline = baseline_of(ratings)
    loop = _Loop(model, ratings, executor, factors, baseline)
    result = Fit(model, factors, baseline, math.nan, math.nan, False)
    if state:
        loop.restore(state)
        result.history, result.objectives = list(state.history), list(state.objectives)
        began -= state.seconds
    elif isinstance(model, FactorModel):
        loop.evaluate_start()
        result.objectives.append(loop.objective)
    iterations = model.max_iter if isinstance(model, FactorModel) else 1
    settled = _settled(result)
    while result.n_iter < iterations and not settled:
        record = loop.iterate(result.n_iter + 1, test)
        result.history.append(record)
        result.objectives += [half["objective"] for half in record["half_steps"]]
        for callback in on_iteration:
            callback(record)
        if on_state:
            on_state(loop.state(result, time.perf_counter() - began))
        settled = _settled(result)
    result.converged = settled or not isinstance(model, FactorModel)
    result.factors, result.objective, result.train_rmse = loop.factors, loop.objective, loop.train_rmse
    result.seconds = time.perf_counter() - began
    result.collapsed = isinstance(model, FactorModel) and _collapsed(result, ratings)
    result.warnings = _warnings(result, ratings, begin)
    return result


def _next_t(t: float) -> float:
    return (1 + math.sqrt(1 + 4 * t * t)) / 2


def _settled(result: Fit) -> bool:
    """Whether the last iteration lowered the objective by less than the share `tol`.

    From a small start the first ones hardly lower it, but each does more than what came before it.
    One that an extrapolation was tried in vain in says nothing: the next begins without its momentum.
    """
    model, objectives = result.model, result.objectives
    if not isinstance(model, FactorModel) or not result.history or result.history[-1]["restarted"]:
        return False
    steps = len(model.half_steps)
    before, now = objectives[-1 - steps], objectives[-1]
    if result.n_iter == 1:
        slower = objectives[-2] - now <= before - objectives[-2]
    else:
        slower = before - now <= objectives[-1 - 2 * steps] - before
    return slower and before - now < model.tol * before


class _Loop:
    """The state that half-steps move on: both sides' rows and what the objective is made of."""

    def __init__(self, model, ratings, executor, factors: Factors, baseline: Baseline):
        self.model, self.ratings, self.executor = model, ratings, executor
        self.factors, self.baseline = factors, baseline
        self.objective = self.train_rmse = math.nan
        self.penalty = {"user": 0.0, "item": 0.0}
        self.momentum = Momentum()
        self.totals = Totals(len(ratings), baseline.global_mean)
        self.counts = Factors(ratings.user_counts, ratings.item_counts)
        self.components = model.gauge(ratings.user, ratings.item) if isinstance(model, FactorModel) else None
        self.squares = float(ratings.rating @ ratings.rating) / len(ratings)
        _require_digits(self.squares, model.storage)

    def evaluate_start(self) -> None:
        """The objective of the start, before anything is updated."""
        for side in ("item", "user"):
            self._settle(side, self._half_step(side, evaluate=True), "at the start")

    def state(self, result: Fit, seconds: float) -> State:
        history, objectives = result.history[:], result.objectives[:]
        return State(self.factors, dict(self.penalty), history, objectives, seconds, self.momentum)

    def restore(self, state: State) -> None:
        self.factors, self.penalty, self.momentum = state.factors, dict(state.penalty), state.momentum
        self.objective = state.objectives[-1]
        self.train_rmse = state.history[-1]["train_rmse"]

    def _half_step(self, side: str, evaluate: bool = False) -> HalfStep:
        own = getattr(self.factors, side)
        if not (evaluate or self.model.warm_starts):
            own = own[:0]  # not read, so not sent
        return self.executor.half_step(self.model, side, own, getattr(self.factors, OTHER[side]), evaluate)

    def iterate(self, iteration: int, test: Pairs | None) -> dict:
        started = time.perf_counter()
        halves = []
        if isinstance(self.model, FactorModel) and self.model.balances and iteration > 1:
            self.factors = self.model.balanced(self.factors, self.counts, self.totals)
            self.penalty["user"] = self.model.side_penalty(self.factors.user, self.counts.user, self.totals)
        users = self.factors.user
        ahead, restarted = self._item_step_from_ahead(iteration)
        for side in self.model.half_steps:
            before, factors = self.objective, self.factors
            if side == "item" and ahead:
                step = ahead
            else:
                step = self._half_step(side)
                self._settle(side, step, f"in iteration {iteration}")
            if isinstance(self.model, FactorModel):
                self._require_no_rise(before, factors, f"iteration {iteration}, {side} half-step")
            if side == "item" and self.components is not None:
                self.factors = self.model.gauged(self.factors, self.components, self.counts.item)
            halves.append(
                {
                    "side": side,
                    "objective": self.objective,
                    "seconds": step.seconds,
                    "partitions": step.partitions,
                    "unfinished": step.unfinished,
                }
            )
        self._remember(users, restarted)
        seconds = time.perf_counter() - started
        return {
            "iteration": iteration,
            "objective": self.objective,
            "train_rmse": self.train_rmse,
            "test_rmse": None if test is None else self._test_rmse(test),
            "seconds": seconds,
            "restarted": restarted,
            "half_steps": halves,
        }

    def _require_no_rise(self, before: float, factors: Factors, when: str) -> None:
        """NumericError if the objective rose by more than rounding can explain.

        Its digits are those of residuals, which are differences of ratings and predictions, and these are
        sums of terms: without a penalty the terms may be far larger than the ratings that they cancel to.
        """
        rise, allowed = self.objective - before, RISE_ALLOWED[self.model.storage.name]
        if rise <= allowed * self.squares:
            return
        digits = max(self._squared_terms(each) for each in (factors, self.factors))
        if rise > allowed * digits:
            raise NumericError(
                f"{when}: the objective rose from {before!r} to {self.objective!r}; this is a bug in mfpipe, "
                "please report it with the parameters"
            )

    def _squared_terms(self, factors: Factors) -> float:
        """The mean square of |μ| + |b_u| + |b_i| + Σ |p_k q_k| over the ratings, in squared stars."""
        sizes = Factors(*(np.abs(rows, dtype=np.float64) for rows in factors))
        mean = self.baseline._replace(global_mean=abs(self.baseline.global_mean))
        terms = self.model.predict(sizes, self.ratings.user, self.ratings.item, mean)
        return float(np.mean(terms**2))

    def _item_step_from_ahead(self, iteration: int) -> tuple[HalfStep | None, bool]:
        """The item half-step from extrapolated users, if it lowers the objective; else nothing is changed.

        Also whether one was tried in vain.
        """
        if self.momentum.users is None:
            return None, False
        kept = self.factors, dict(self.penalty), self.objective, self.train_rmse
        following = _next_t(self.momentum.t)
        share = (self.momentum.t - 1) / following
        users = self.model.extrapolated(self.factors.user, self.momentum.users, share)
        self.factors = self.factors._replace(user=users)
        self.penalty["user"] = self.model.side_penalty(users, self.counts.user, self.totals)
        step = self._half_step("item")
        self._settle("item", step, f"in iteration {iteration}")
        if self.objective <= kept[2]:
            return step, False
        self.factors, self.penalty, self.objective, self.train_rmse = kept
        return None, True

    def _remember(self, users: np.ndarray, restarted: bool) -> None:
        if isinstance(self.model, FactorModel) and self.model.accelerate:
            self.momentum = Momentum(users, 1.0 if restarted else _next_t(self.momentum.t))

    def _settle(self, side: str, step: HalfStep, when: str) -> None:
        squared_error, penalty = float(step.squared_error.sum()), float(step.penalty.sum())
        if not math.isfinite(squared_error + penalty):
            row = int(np.flatnonzero(~np.isfinite(step.squared_error + step.penalty))[0])
            ids = self.ratings.users if side == "user" else self.ratings.items
            raise NumericError(
                f"{side} {ids[row]!r}: a value that is not finite {when}; raise --regularization, "
                "lower --rank, or check the scale of the ratings"
            )
        self.factors = self.factors._replace(**{side: step.rows})
        self.penalty[side] = penalty
        n = len(self.ratings)
        self.objective = (squared_error + self.penalty["user"] + self.penalty["item"]) / n
        self.train_rmse = math.sqrt(squared_error / n)

    def _test_rmse(self, test: Pairs) -> float:
        predicted = self.model.predict(self.factors, test.users, test.items, self.baseline)
        return float(np.sqrt(np.mean((test.rating - predicted) ** 2)))


def _require_digits(squares: float, storage: np.dtype) -> None:
    """NumericError if products of such ratings have fewer digits than their type's."""
    limits = np.finfo(storage)
    if 0 < squares < limits.smallest_normal / limits.eps:
        raise NumericError(
            f"the ratings are about {math.sqrt(squares):.3g} stars, too small to square in {storage.name}; "
            "rescale them" + (", or use --dtype float64" if storage.name == "float32" else "")
        )


def _collapsed(result: Fit, ratings: Ratings) -> bool:
    """Whether the products p·q are next to nothing; most often the first few ratings already say no."""
    factors = readonly(*(rows[:, -result.model.params["rank"] :] for rows in result.factors))
    left = COLLAPSED * result.train_rmse**2 * len(ratings)
    for begin in range(0, len(ratings), PAIRS):
        pairs = (rows[begin : begin + PAIRS] for rows in (ratings.user, ratings.item))
        dots = np.zeros(min(PAIRS, len(ratings) - begin))
        dot_pairs(*readonly(*pairs), *factors, dots)
        left -= float(dots @ dots)
        if left <= 0:
            return False
    return True


def _warnings(result: Fit, ratings: Ratings, begin: Callable[[], Factors]) -> list[str]:
    model = result.model
    found: list[str] = []
    if not isinstance(model, FactorModel):
        return found
    if result.collapsed:
        reason = model.collapse(ratings.user, ratings.item, ratings.rating, begin())
        if reason:
            found.append(f"all factors collapsed to zero: {reason}")
    if not result.converged and model.max_iter:
        found.append(
            f"not converged after {model.max_iter} iterations: the last one still lowered the objective by "
            f"more than --tol {model.tol:g}; raise --max-iter, or accept a larger --tol"
        )
    found += [
        f"{half['unfinished']} {half['side']} rows are not at their optimum: coordinate descent ran out of "
        f"{PASSES:,} passes in the last iteration; raise --regularization, or lower --rank"
        for half in (result.history[-1]["half_steps"] if result.history else ())
        if half.get("unfinished")
    ]
    return found
