"""The shared suite: what every registered model must keep, in every variant its parameters allow.

A model is tested by being in `MODELS`; docs/adding-a-model.md adds one, and its test runs this file on it.
"""

import argparse
import dataclasses
import json
import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from mfpipe.arguments import add_params
from mfpipe.estimators import ESTIMATORS
from mfpipe.executors import executor
from mfpipe.fit import RISE_ALLOWED, fit, starting_factors
from mfpipe.fitted import FittedModel
from mfpipe.models import MODELS, FactorModel
from mfpipe.models.base import Block, Factors, Totals, flag
from mfpipe.partition import group, split
from mfpipe.pipeline import compile_kernels
from mfpipe.store import Store
from tests import oracle
from tests.make import ratings_of
from tests.registered import FACTOR_VARIANTS, FEW, VARIANTS

STATIONARY = {"float64": 1e-10, "float32": 2e-5}  # of max(‖Xᵀy‖∞, s); a row of float32 is rounded to it
SIDES = (("user", "item"), ("item", "user"))
PIECES = (1, 2, 7, 64)

# Of two blocks solved in turn each is optimal, but not both at once, and a few steps of conjugate gradients
# end short of the optimum; the oracle's trajectory covers those.
EXACT = {name: model for name, model in FACTOR_VARIANTS.items() if not (model.separate or model.steps)}
KNOWN_TO_THE_ORACLE = {  # the shared row problem, in float64
    name: model
    for name, model in FACTOR_VARIANTS.items()
    if type(model).update is FactorModel.update and model.dtype == "float64"
}

every_model = pytest.mark.parametrize("cls", MODELS.values(), ids=MODELS)
every_variant = pytest.mark.parametrize("model", VARIANTS.values(), ids=VARIANTS)
every_factor_variant = pytest.mark.parametrize("model", FACTOR_VARIANTS.values(), ids=FACTOR_VARIANTS)


def fitted(model, ratings, cluster="serial", **options):
    with executor(ratings, model.storage, cluster, **options) as where:
        return fit(model, ratings, where)


def assert_identical(one, other):
    for mine, theirs in zip(one.factors, other.factors, strict=True):
        assert_array_equal(mine, theirs)
    assert one.objectives == other.objectives
    assert one.train_rmse == other.train_rmse


def totals(ratings):
    return Totals(len(ratings), ratings.rating.mean())


# What it says of itself.


@every_model
def test_it_is_immutable_and_can_be_pickled(cls):
    model = cls()
    assert pickle.loads(pickle.dumps(model)) == model
    for field in dataclasses.fields(model):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(model, field.name, None)


@every_variant
def test_its_parameters_survive_json(model):
    assert type(model)(**json.loads(json.dumps(model.params))) == model


@every_model
def test_its_parameters_are_flags_of_the_command_line(cls):
    parser = argparse.ArgumentParser()
    add_params(parser)
    for field in dataclasses.fields(cls):
        given = [] if isinstance(field.default, bool) else [str(field.default)]
        options = parser.parse_args([flag(field.name), *given])
        expected = True if isinstance(field.default, bool) else field.default
        assert getattr(options, f"param_{field.name}") == expected


@every_model
def test_its_kernels_compile_before_they_are_needed(cls):
    assert 0 < compile_kernels(cls()) < 120


# What a half-step does.


@every_variant
def test_a_row_depends_on_its_own_ratings_alone(small, model):
    start = starting_factors(model, small)
    for side, opposite in SIDES:
        if side not in model.half_steps:
            continue
        own, other = getattr(start, side), getattr(start, opposite)
        whole = model.update(side, group(small, side, model.storage), own, other, totals(small))
        blocks = split(group(small, side, model.storage), len(own))
        assert sum(block.n_rows for block in blocks) == len(own)
        for block in blocks:
            rows = slice(block.first_row, block.first_row + block.n_rows)
            alone = model.update(side, block, own[rows], other, totals(small))
            for mine, theirs in zip(alone[:3], whole[:3], strict=True):
                assert_array_equal(mine, theirs[rows])


@every_variant
def test_memory_order_and_read_only_arrays_change_nothing(small, model):
    start = starting_factors(model, small)
    for side, opposite in SIDES:
        own, other = getattr(start, side), getattr(start, opposite)
        block = group(small, side, model.storage)
        expected = model.update(side, block, own.copy(), other.copy(), totals(small))
        strided = [np.repeat(rows, 2, axis=1)[:, ::2] for rows in (own, other)]
        frozen = Block(block.first_row, *(array.copy() for array in block[1:]))
        for array in (*strided, *frozen[1:]):
            array.flags.writeable = False
        update = model.update(side, frozen, *strided, totals(small))
        for mine, theirs in zip(update[:3], expected[:3], strict=True):
            assert_array_equal(mine, theirs)


@pytest.mark.parametrize("model", EXACT.values(), ids=EXACT)
def test_every_row_is_stationary_after_its_half_step(small, model):
    factors = fitted(model, small).factors
    with executor(small, model.storage, "serial", partitions=3) as where:
        for side, opposite in (*SIDES, *SIDES):
            own, other = getattr(factors, side), getattr(factors, opposite)
            rows = where.half_step(model, side, own, other).rows
            block = group(small, side, model.storage)
            distance = model.stationarity(side, block, rows, other, totals(small))
            assert distance.max() <= STATIONARY[model.dtype]
            factors = factors._replace(**{side: rows})


@every_factor_variant
def test_a_start_is_keyed_by_the_id_alone(small, model):
    start = starting_factors(model, small)
    more = ratings_of([*small.user, 999], [*small.item, 3], [*small.rating, 5.0])
    assert_array_equal(starting_factors(model, more).user[:-1], start.user)
    assert_array_equal(starting_factors(model, more).item, start.item)


# What a fit does.


@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize("model", KNOWN_TO_THE_ORACLE.values(), ids=KNOWN_TO_THE_ORACLE)
def test_its_trajectory_is_the_oracles(small, model, rank):
    model = dataclasses.replace(model, rank=rank)
    start = starting_factors(model, small)
    _, _, trajectory = oracle.alternate(
        small.user, small.item, small.rating, start.user, start.item, model, model.max_iter
    )
    result = fitted(model, small)
    assert_allclose(result.objectives, trajectory, rtol=1e-9)
    assert result.objective == result.history[-1]["objective"] == result.objectives[-1]
    again = oracle.objective(small.user, small.item, small.rating, *result.factors, model)
    assert_allclose(result.objective, again, rtol=1e-9)


def random_ratings(seed, n):
    rng = np.random.default_rng(seed)
    pairs = rng.choice(12 * 9, n, replace=False)
    return ratings_of(pairs // 9, pairs % 9, rng.integers(1, 6, n))


@settings(deadline=None, max_examples=250)
@given(
    st.integers(0, 999),
    st.sampled_from([1, 2, 5, 40, 108]),
    st.integers(1, 6),
    st.sampled_from([0.0, 1e-4, 0.05, 3.0, 1e12]),
    st.sampled_from(list(FACTOR_VARIANTS.values())),
)
def test_the_objective_never_rises_and_nothing_is_nan(seed, n, rank, regularization, model):
    ratings = random_ratings(seed, n)
    model = dataclasses.replace(model, rank=rank, regularization=regularization, max_iter=5)
    result = fitted(model, ratings)
    allowed = RISE_ALLOWED[model.dtype] * np.mean(ratings.rating**2)
    assert all(after - before <= allowed for before, after in pairwise(result.objectives))
    assert all(np.isfinite(rows).all() for rows in result.factors)
    factors = map(np.float64, result.factors)
    again = oracle.objective(ratings.user, ratings.item, ratings.rating, *factors, model)
    assert_allclose(result.objective, again, rtol=1e-9 if model.dtype == "float64" else 1e-4, atol=1e-6)


@every_variant
def test_threads_and_partitions_change_nothing(small, model):
    serial = fitted(model, small, partitions=1)
    assert_identical(serial, fitted(model, small, partitions=3))
    for pieces in PIECES:
        assert_identical(serial, fitted(model, small, "threads", workers=2, partitions=pieces))


@pytest.mark.parametrize("name", FEW)
def test_a_cluster_changes_nothing(small, client, name):
    pieces = PIECES[list(FEW).index(name) % len(PIECES)]
    serial = fitted(FEW[name], small, partitions=1)
    assert_identical(serial, fitted(FEW[name], small, client=client, partitions=pieces))


@pytest.mark.slow
@pytest.mark.parametrize("pieces", PIECES)
@every_variant
def test_a_cluster_changes_nothing_in_any_pieces(small, client, model, pieces):
    serial = fitted(model, small, partitions=1)
    assert_identical(serial, fitted(model, small, client=client, partitions=pieces))


# What is done with the result.


@every_variant
def test_no_prediction_is_nan_whoever_is_cold(small, model):
    after = FittedModel.of(fitted(model, small), small)
    users, items = (np.array([0, 0, -1, -1], np.int32), np.array([0, -1, 0, -1], np.int32))
    predicted = model.predict(after.factors, users, items, after.baseline)
    assert predicted.dtype == np.float64
    assert np.isfinite(predicted).all()
    assert model.predict(after.factors, users[:0], items[:0], after.baseline).shape == (0,)
    empty = Factors(*(rows[:0] for rows in after.factors))
    nobody = after.baseline._replace(user_means=np.empty(0), item_means=np.empty(0))
    assert np.isfinite(model.predict(empty, users[3:], items[3:], nobody)).all()


@every_variant
def test_the_store_gives_back_what_was_published(small, tmp_path, model):
    store, before = Store(tmp_path), FittedModel.of(fitted(model, small), small)
    about = {"data": {"global_mean": before.baseline.global_mean}, "test_rmse": 1.0, "objective": 1.0}
    store.publish("m", before, about, {"timings.json": {"fit": 1.5}})
    after = store.version("m").load()
    assert after.model == model
    assert (after.users, after.items) == (before.users, before.items)
    for mine, theirs in zip(before.factors, after.factors, strict=True):
        assert_array_equal(mine, theirs)
        assert mine.dtype == theirs.dtype == model.storage
    users, items = small.users.texts.take(small.user), small.items.texts.take(small.item)
    assert_array_equal(before.predict(users, items)[0], after.predict(users, items)[0])


@every_variant
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_its_estimator_has_its_parameters_and_fits_the_same(small, model):
    assert ESTIMATORS[model.name]().get_params() == type(model)().params
    texts = (ids.texts.to_numpy(zero_copy_only=False) for ids in (small.users, small.items))
    X = np.column_stack([ids[rows] for ids, rows in zip(texts, (small.user, small.item), strict=True)])
    estimator = ESTIMATORS[model.name](**model.params).fit(X, small.rating)
    expected = fitted(model, small)
    for mine, theirs in zip(estimator.fitted_.factors, expected.factors, strict=True):
        assert_array_equal(mine, theirs)
    assert estimator.n_iter_ == expected.n_iter
