"""The driver: its trajectory, its stops, its warnings, and that where it runs changes nothing."""

import dataclasses
import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from mfpipe.errors import NumericError, ParameterError
from mfpipe.executors import executor
from mfpipe.fit import Pairs, fit, starting_factors
from mfpipe.models import ALS, MODELS, BiasedALS, FactorModel, LassoMF
from mfpipe.models.base import Factors, Totals
from mfpipe.partition import group
from tests import oracle
from tests.make import ratings_of


def fitted(model, ratings, cluster="serial", **options):
    settings = {name: options.pop(name) for name in ("partitions", "workers", "client") if name in options}
    with executor(ratings, model.storage, cluster, **settings) as where:
        return fit(model, ratings, where, **options)


FACTOR_MODELS = {
    "als": ALS,
    "als nonnegative": partial(ALS, nonnegative=True),
    "biased": BiasedALS,
    "biased, penalised": partial(BiasedALS, bias_regularization=0.02),
    "biased, separate": partial(BiasedALS, block_order="separate"),
    "biased nonnegative": partial(BiasedALS, nonnegative=True),
    "lasso": LassoMF,
    "lasso, balanced": partial(LassoMF, balance=True),
    "elastic net": partial(LassoMF, l1_ratio=0.4),
    "lasso nonnegative": partial(LassoMF, nonnegative=True),
    "ridge by descent, balanced": partial(LassoMF, l1_ratio=0.0, nonnegative=True, balance=True),
}
every_factor_model = pytest.mark.parametrize("make", FACTOR_MODELS.values(), ids=list(FACTOR_MODELS))


@every_factor_model
@pytest.mark.parametrize("weighting", ["uniform", "count"])
@pytest.mark.parametrize("rank", [1, 4])
def test_the_trajectory_is_the_oracles(small, make, weighting, rank):
    regularization = 1e-3 if weighting == "uniform" else 0.05
    model = make(rank, regularization, weighting, max_iter=4, tol=0, dtype="float64")
    start = starting_factors(model, small)
    _, _, trajectory = oracle.alternate(
        small.user, small.item, small.rating, start.user, start.item, model, 4
    )
    result = fitted(model, small)
    assert_allclose(result.objectives, trajectory, rtol=1e-9)
    assert result.objective == result.history[-1]["objective"] == result.objectives[-1]
    again = oracle.objective(small.user, small.item, small.rating, *result.factors, model)
    assert_allclose(result.objective, again, rtol=1e-9)


def random_ratings(seed, n):
    rng = np.random.default_rng(seed)
    pairs = rng.choice(12 * 9, min(n, 108), replace=False)
    return ratings_of(pairs // 9, pairs % 9, rng.integers(1, 6, len(pairs)))


@settings(deadline=None, max_examples=150)
@given(
    st.integers(0, 999),
    st.sampled_from([1, 2, 5, 40, 108]),
    st.integers(1, 6),
    st.sampled_from([0.0, 1e-4, 0.05, 3.0, 1e12]),
    st.sampled_from(["uniform", "count"]),
    st.sampled_from(["float32", "float64"]),
    st.sampled_from(list(FACTOR_MODELS.values())),
)
def test_the_objective_never_rises_and_nothing_is_nan(seed, n, rank, regularization, weighting, dtype, make):
    ratings = random_ratings(seed, n)
    model = make(rank, regularization, weighting, max_iter=5, tol=0, dtype=dtype)
    result = fitted(model, ratings)  # the driver raises if the objective rises
    assert all(np.isfinite(rows).all() for rows in result.factors)
    assert all(math.isfinite(value) for value in result.objectives)
    again = oracle.objective(
        ratings.user,
        ratings.item,
        ratings.rating,
        *map(np.float64, result.factors),
        model,
    )
    assert_allclose(result.objective, again, rtol=1e-9 if dtype == "float64" else 1e-4, atol=1e-6)


@every_factor_model
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_threads_and_partitions_change_nothing(small, make, dtype):
    model = make(7, max_iter=4, tol=0, dtype=dtype)
    serial = fitted(model, small, partitions=1)
    for cluster, partitions in (
        ("serial", 3),
        ("threads", 1),
        ("threads", 2),
        ("threads", 7),
        ("threads", 64),
    ):
        other = fitted(model, small, cluster, workers=2, partitions=partitions)
        for mine, theirs in zip(serial.factors, other.factors, strict=True):
            assert_array_equal(mine, theirs)
        assert other.objectives == serial.objectives


@every_factor_model
@pytest.mark.parametrize("weighting", ["uniform", "count"])
def test_every_row_is_stationary_after_its_half_step(small, make, weighting):
    regularization = 1e-3 if weighting == "uniform" else 0.05
    model = make(4, regularization, weighting, max_iter=3, tol=0, dtype="float64")
    factors = fitted(model, small).factors
    block = group(small, "user", model.storage)
    distance = model.stationarity("user", block, *factors, Totals(len(small), small.rating.mean()))
    if model.separate:  # each of its two blocks is optimal in turn, not both at once
        assert distance.max() > 1e-10
    else:
        assert distance.max() <= 1e-10


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


def test_more_users_leave_everyone_elses_start_where_it_was(small):
    model = ALS(4)
    start = starting_factors(model, small)
    more = ratings_of([*small.user, 999], [*small.item, 3], [*small.rating, 5.0])
    assert_array_equal(starting_factors(model, more).user[:-1], start.user)


def test_a_rising_objective_is_an_error(small):
    @dataclasses.dataclass(frozen=True)
    class Wrong(ALS):
        def update(self, side, block, own, other, totals):
            update = super().update(side, block, own, other, totals)
            return self.evaluate(side, block, 2 * update.rows, other, totals)

    with pytest.raises(NumericError, match="iteration .* half-step: the objective rose from"):
        fitted(Wrong(3, 0.01, max_iter=50, tol=0), small)


def test_a_non_finite_value_names_side_and_id():
    ratings = ratings_of([1, 2], [7, 7], [1e200, 1.0])
    with (
        np.errstate(over="ignore"),
        pytest.raises(NumericError, match="item '7': a value that is not finite"),
    ):
        fitted(ALS(2, dtype="float64"), ratings)


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
        ("weighting", "both"), ("dtype", "float16"), ("cold", "warm"),
    ],
)  # fmt: skip
def test_parameters_outside_their_range_are_refused_by_name(name, value):
    flag = {"random_state": "--seed"}.get(name, "--" + name.replace("_", "-"))
    with pytest.raises(ParameterError, match=flag):
        ALS(**{name: value})


def test_every_registered_factor_model_is_immutable_and_picklable():
    import pickle

    for cls in MODELS.values():
        model = cls()
        assert pickle.loads(pickle.dumps(model)) == model
        for field in dataclasses.fields(model):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(model, field.name, None)
    assert any(issubclass(cls, FactorModel) for cls in MODELS.values())


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
