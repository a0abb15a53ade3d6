"""The driver: its stops, its warnings, its history. What each model must keep is in test_models.py."""

import dataclasses
import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mfpipe import fit as driver
from mfpipe.errors import NumericError, ParameterError
from mfpipe.executors import executor
from mfpipe.fit import Pairs, fit, starting_factors
from mfpipe.models import ALS, BiasedALS, LassoMF
from mfpipe.models.base import Factors, Totals
from tests import oracle
from tests.make import ratings_of


def fitted(model, ratings, cluster="serial", **options):
    settings = {name: options.pop(name) for name in ("partitions", "workers", "client") if name in options}
    with executor(ratings, model.storage, cluster, **settings) as where:
        return fit(model, ratings, where, **options)


@pytest.mark.parametrize("make", [LassoMF, partial(LassoMF, l1_ratio=0.0, nonnegative=True)])
def test_balancing_lowers_the_objective_and_changes_no_prediction(small, make):
    model = make(4, 0.05, dtype="float64", balance=True)
    start = fitted(make(4, 0.05, dtype="float64", max_iter=2, tol=0), small).factors
    lopsided = Factors(start.user * [1, 10, 0.1, 3], start.item / [1, 10, 0.1, 3])
    after = model.balanced(
        lopsided, Factors(np.bincount(small.user), np.bincount(small.item)), Totals(len(small), 0.0)
    )
    assert_allclose(after.user @ after.item.T, start.user @ start.item.T, atol=1e-12)
    j = [oracle.objective(small.user, small.item, small.rating, *f, model) for f in (after, start, lopsided)]
    assert j[0] <= j[1] < j[2]
    scaled = [
        oracle.objective(small.user, small.item, small.rating, after.user * c, after.item / c, model)
        for c in (0.99, 1.01)
    ]
    assert min(scaled) >= j[0]


def test_unpenalised_biases_have_one_form(small):
    halves = ratings_of(
        [*small.user, *(small.user + 100)],
        [*small.item, *(small.item + 100)],
        [*small.rating, *(6 - small.rating)],
    )
    model = BiasedALS(2, 0.05, max_iter=3, tol=0, dtype="float64")
    result = fitted(model, halves)
    components = model.gauge(halves.user, halves.item)[len(halves.users) :]
    assert len(np.unique(components)) >= 2
    sums = np.bincount(components, np.bincount(halves.item) * result.factors.item[:, 0], components.max() + 1)
    assert_allclose(sums, 0, atol=1e-9)
    assert BiasedALS(bias_regularization=0.1).gauge(halves.user, halves.item) is None


@pytest.mark.parametrize("pairs", [1, 7, 2**17])
@pytest.mark.parametrize("share", [0.999, 1.001])
def test_a_fit_has_collapsed_below_a_share_of_its_error(small, share, pairs, monkeypatch):
    result = fitted(ALS(3, 0.05, dtype="float64", max_iter=1), small)
    products = (result.factors.user @ result.factors.item.T)[small.user, small.item]
    limit = np.mean(products**2) / result.train_rmse**2
    monkeypatch.setattr(driver, "PAIRS", pairs)
    monkeypatch.setattr(driver, "COLLAPSED", share * limit)
    assert fitted(ALS(3, 0.05, dtype="float64", max_iter=1), small).collapsed == (share > 1)


def test_a_lasso_that_collapses_says_why_and_from_where(small):
    model = LassoMF(3, 100.0, "uniform", max_iter=2, dtype="float64")
    result = fitted(model, small)
    assert all((rows == 0).all() for rows in result.factors)
    bound = float(result.warnings[0].split("--regularization is ")[1].split()[0])
    just_below, just_above = (
        fitted(dataclasses.replace(model, regularization=bound * c, max_iter=1), small) for c in (0.99, 1.01)
    )
    assert (just_above.factors.item == 0).all()
    assert (just_below.factors.item != 0).any()


def test_it_stops_by_tolerance_and_says_so(small):
    result = fitted(ALS(2, 0.1, max_iter=200, tol=1e-3), small)
    assert result.converged
    assert result.n_iter < 200
    before, last = result.history[-2]["objective"], result.history[-1]["objective"]
    assert (before - last) / before < 1e-3
    earlier = [record["objective"] for record in result.history[:-1]]
    assert all((a - b) / a >= 1e-3 for a, b in pairwise(earlier))
    assert not result.warnings


@pytest.mark.parametrize("init", ["random", "spectral"])
@pytest.mark.parametrize("scale", [1e-2, 1e-4, 1e-6])
def test_a_small_start_is_not_taken_for_the_end(small, scale, init):
    """Around zero an iteration hardly lowers the objective, but each lowers it more than the one before."""
    full = fitted(ALS(3, 0.05, init=init, dtype="float64", max_iter=500), small)
    slow = fitted(ALS(3, 0.05, init=init, dtype="float64", max_iter=500, init_scale=scale), small)
    assert slow.converged
    assert slow.objective < 1.2 * full.objective
    assert not slow.collapsed


def test_a_scaled_start_is_the_start_scaled(small):
    for model in (ALS(3), BiasedALS(3), LassoMF(3, nonnegative=True)):
        start = starting_factors(model, small)
        scaled = starting_factors(dataclasses.replace(model, init_scale=0.25), small)
        for rows, smaller in zip(start, scaled, strict=True):
            assert_array_equal(smaller, rows * np.float32(0.25))


def test_not_converging_is_said(small):
    result = fitted(ALS(2, 0.1, max_iter=2, tol=0), small)
    assert not result.converged
    assert "not converged after 2 iterations" in result.warnings[0]
    assert "--max-iter" in result.warnings[0]


@pytest.mark.parametrize("weighting", ["uniform", "count"])
def test_a_collapse_is_explained_with_the_largest_useful_regularization(small, weighting):
    bound = ALS(weighting=weighting).largest_useful_regularization(small.user, small.item, small.rating)
    above = ALS(3, bound * 1.05, weighting, max_iter=400, tol=0, dtype="float64")
    result = fitted(above, small)
    assert max(np.abs(rows).max() for rows in result.factors) < 1e-3
    assert f"{bound:.5g}" in result.warnings[0]
    below = ALS(3, bound * 0.9, weighting, max_iter=400, tol=0, dtype="float64")
    result = fitted(below, small)
    assert min(np.abs(rows).max() for rows in result.factors) > 0.1
    assert not any("collapsed" in warning for warning in result.warnings)


def test_no_iterations_give_the_start(small):
    model = ALS(3, max_iter=0, dtype="float64")
    start = starting_factors(model, small)
    result = fitted(model, small)
    assert result.n_iter == 0
    assert not result.converged
    for mine, theirs in zip(start, result.factors, strict=True):
        assert_array_equal(mine, theirs)
    expected = oracle.objective(small.user, small.item, small.rating, *start, model)
    assert_allclose(result.objective, expected, rtol=1e-12)


def test_a_given_start_is_used_and_left_alone(small):
    model = ALS(2, max_iter=1, tol=0, dtype="float64")
    start = Factors(np.ones((len(small.users), 2)), np.ones((len(small.items), 2)))
    result = fitted(model, small, start=start)
    assert (start.user == 1).all()
    _, _, trajectory = oracle.alternate(small.user, small.item, small.rating, *start, model, 1)
    assert_allclose(result.objectives, trajectory, rtol=1e-9)


def test_an_accelerated_fit_restarts_as_the_oracle_does_and_gets_lower(small):
    model = ALS(3, 0.02, max_iter=40, tol=0, dtype="float64", accelerate=True)
    start = starting_factors(model, small)
    _, _, trajectory = oracle.alternate(small.user, small.item, small.rating, *start, model, model.max_iter)
    result = fitted(model, small)
    assert_allclose(result.objectives, trajectory, rtol=1e-9)
    assert all(now <= before for before, now in pairwise(result.objectives))
    assert any(record["restarted"] for record in result.history)
    plain = fitted(dataclasses.replace(model, accelerate=False), small)
    assert result.objective < plain.objective
    assert not any(record["restarted"] for record in plain.history)


def test_an_extrapolation_in_vain_is_not_taken_for_the_end(small):
    model = ALS(3, 0.02, max_iter=500, tol=1e-4, accelerate=True)
    result = fitted(model, small)
    assert result.converged
    assert not result.history[-1]["restarted"]


def test_a_rising_objective_is_an_error(small):
    @dataclasses.dataclass(frozen=True)
    class Wrong(ALS):
        def update(self, side, block, own, other, totals):
            update = super().update(side, block, own, other, totals)
            return self.evaluate(side, block, 2 * update.rows, other, totals)

    with pytest.raises(NumericError, match="iteration .* half-step: the objective rose from"):
        fitted(Wrong(3, 0.01, max_iter=50, tol=0), small)


def test_rows_that_are_short_of_their_optimum_are_said(small):
    @dataclasses.dataclass(frozen=True)
    class Short(LassoMF):
        def update(self, side, block, own, other, totals):
            return super().update(side, block, own, other, totals)._replace(unfinished=2 * (side == "user"))

    result = fitted(Short(2, 0.02, max_iter=3, tol=0), small, partitions=3)
    assert [half["unfinished"] for half in result.history[-1]["half_steps"]] == [0, 6]
    (said,) = (text for text in result.warnings if "not at their optimum" in text)
    assert said.startswith(
        "6 user rows are not at their optimum: coordinate descent ran out of 10,000 passes"
    )


def test_a_non_finite_value_names_side_and_id():
    ratings = ratings_of([1, 2], [7, 7], [1e200, 1.0])
    with (
        np.errstate(over="ignore"),
        pytest.raises(NumericError, match="item '7': a value that is not finite"),
    ):
        fitted(ALS(2, dtype="float64"), ratings)


@pytest.mark.parametrize("scale", [1e-20, 1e-22, 1e-24])
def test_factors_whose_squares_underflow_are_solved_all_the_same(scale):
    ratings = ratings_of([1, 2], [1, 2], [2.0, 5.0])
    start = Factors(np.full((2, 2), scale, np.float32), np.zeros((2, 2), np.float32))
    result = fitted(ALS(2, 0.0, max_iter=1, tol=0), ratings, start=start)
    assert_allclose(result.train_rmse, 0, atol=1e-6)


def test_separate_blocks_have_no_sign_constraint():
    with pytest.raises(ParameterError, match="--block-order separate: not with --nonnegative"):
        BiasedALS(block_order="separate", nonnegative=True)


def test_history_has_what_is_promised(small):
    users, items = small.users.texts.take(small.user[:50]), small.items.texts.take(small.item[:50])
    test = Pairs.of(users, items, small.rating[:50], small)
    seen = []
    result = fitted(ALS(2, max_iter=3, tol=0), small, partitions=5, test=test, on_iteration=[seen.append])
    assert seen == result.history
    assert [record["iteration"] for record in seen] == [1, 2, 3]
    for record in seen:
        assert [half["side"] for half in record["half_steps"]] == ["item", "user"]
        for half in record["half_steps"]:
            assert sum(part["ratings"] for part in half["partitions"]) == len(small)
            assert len(half["partitions"]) == 5
        assert record["seconds"] >= sum(half["seconds"] for half in record["half_steps"])
        assert record["test_rmse"] > 0


def test_float32_reaches_the_rmse_of_float64(small):
    one, other = (fitted(ALS(3, 0.1, max_iter=20, tol=0, dtype=d), small) for d in ("float32", "float64"))
    assert abs(one.train_rmse - other.train_rmse) < 1e-4


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rank", 0), ("rank", 4097), ("rank", 2.5), ("rank", True), ("rank", "5"),
        ("regularization", -1), ("regularization", math.nan), ("regularization", math.inf),
        ("max_iter", -1), ("tol", -1e-3), ("tol", math.nan), ("random_state", -1), ("random_state", 2**63),
        ("weighting", "both"), ("dtype", "float16"), ("cold", "warm"), ("init_scale", 0), ("init_scale", math.inf),
        ("solver", "lu"), ("cg_steps", 0),
    ],
)  # fmt: skip
def test_parameters_outside_their_range_are_refused_by_name(name, value):
    flag = {"random_state": "--seed"}.get(name, "--" + name.replace("_", "-"))
    with pytest.raises(ParameterError, match=flag):
        ALS(**{name: value})


@pytest.mark.parametrize("weighting", ["uniform", "count"])
def test_the_largest_useful_regularization_with_biases_is_that_of_their_residuals(small, weighting):
    design = np.zeros((len(small), len(small.users) + len(small.items)))
    design[np.arange(len(small)), small.user] = 1
    design[np.arange(len(small)), len(small.users) + small.item] = 1
    target = small.rating - small.rating.mean()
    residuals = target - design @ np.linalg.lstsq(design, target, rcond=None)[0]
    matrix = np.zeros((len(small.users), len(small.items)))
    matrix[small.user, small.item] = residuals
    if weighting == "uniform":
        matrix /= len(small)
    else:
        matrix /= np.sqrt(np.outer(np.bincount(small.user), np.bincount(small.item)))
    found = BiasedALS(weighting=weighting).largest_useful_regularization(small.user, small.item, small.rating)
    assert_allclose(found, np.linalg.norm(matrix, 2), rtol=1e-9)


@pytest.mark.parametrize("rating", [[3.0, 3.0, 3.0, 3.0], [1.0, 1.0, 2.0, 2.0]])
def test_biases_that_explain_everything_leave_factors_nothing(rating):
    ratings = ratings_of([1, 1, 2, 2], [1, 2, 1, 2], rating)
    model = BiasedALS(2, 0.1, dtype="float64")
    assert model.largest_useful_regularization(ratings.user, ratings.item, ratings.rating) < 1e-12
    assert fitted(model, ratings).train_rmse < 1e-6
