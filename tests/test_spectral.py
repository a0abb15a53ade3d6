"""The start from the ratings' singular vectors: what it is, and that where it is made changes nothing."""

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mfpipe.executors import executor
from mfpipe.fit import cold_start, fit, starting_factors
from mfpipe.models import ALS, BiasedALS, LassoMF
from mfpipe.spectral import PASSES
from tests.make import ratings_of

MODELS = {
    "als": ALS(3, 0.02, dtype="float64"),
    "uniform": ALS(3, 1e-3, "uniform", dtype="float64"),
    "biased": BiasedALS(3, 0.02, dtype="float64"),
    "penalised biases": BiasedALS(3, 0.02, dtype="float64", bias_regularization=0.1, block_order="separate"),
    "nonnegative": ALS(3, 0.02, dtype="float64", nonnegative=True),
    "lasso": LassoMF(3, 0.02, dtype="float64"),
}
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def spectral(model, ratings, cluster="serial", **settings):
    model = dataclasses.replace(model, init="spectral")
    with executor(ratings, model.storage, cluster, **settings) as where:
        return cold_start(model, ratings, where)


def by_svd(model, ratings):
    """p·q of all pairs, and the biases, by numpy on the whole matrix.

    The subspace is numpy's QR of as many products as there are passes; the rest is its SVD.
    """
    mask = np.zeros((len(ratings.users), len(ratings.items)))
    rated = np.zeros_like(mask)
    mask[ratings.user, ratings.item] = 1
    rated[ratings.user, ratings.item] = ratings.rating
    sides = {"user": mask.sum(axis=1)[:, None], "item": mask.sum(axis=0)[:, None]}
    bias = {side: np.zeros_like(counts) for side, counts in sides.items()}
    basis = np.linalg.qr(starting_factors(model, ratings).item[:, -model.rank :])[0]
    for side in PASSES:
        other = "item" if side == "user" else "user"
        left, seen = (rated, mask) if side == "user" else (rated.T, mask.T)
        if model.biased:
            residual = (left - ratings.mean - bias[other].T) * seen
            penalty = model.bias_regularization * sides[side]
            bias[side] = residual.sum(axis=1, keepdims=True) / (sides[side] + penalty)
            left = (residual - bias[side]) * seen
        scaled = left / np.sqrt(sides[side] * sides[other].T)
        before, basis = basis, np.linalg.qr(scaled @ basis)[0]
    u, values, v = np.linalg.svd(scaled @ before @ before.T)
    scale = np.sqrt(len(ratings) * values[: model.rank])
    p = u[:, : model.rank] * scale / np.sqrt(sides["user"])
    q = v[: model.rank].T * scale / np.sqrt(sides["item"])
    return p @ q.T, bias


@pytest.mark.parametrize("model", [m for m in MODELS.values() if m.signed], ids=lambda m: m.name)
def test_it_is_the_svd_of_the_scaled_ratings(small, model):
    start = spectral(model, small)
    products, bias = by_svd(model, small)
    p, q = (rows[:, -model.rank :] for rows in start)
    assert_allclose(p @ q.T, products, atol=1e-9)
    if model.biased:
        assert_allclose(start.user[:, :1], bias["user"], atol=1e-12)
        assert_allclose(start.item[:, :1], bias["item"], atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("make", [ALS, BiasedALS])
def test_what_factors_explain_wholly_is_found_at_once(make, dtype):
    rng = np.random.default_rng(0)
    rating = rng.normal(size=(30, 3)) @ rng.normal(size=(3, 20))
    users, items = np.divmod(np.arange(600), 20)
    ratings = ratings_of(users, items, rating.ravel())
    start = spectral(make(3, dtype=dtype), ratings)
    explained = start.user[:, -3:] @ start.item[:, -3:].T
    if make is BiasedALS:
        explained += ratings.mean + start.user[:, :1] + start.item[:, :1].T
    error = explained[ratings.user, ratings.item] - ratings.rating
    assert np.abs(error).max() < (1e-9 if dtype == "float64" else 1e-4)


@every_model
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_where_it_is_made_changes_no_bit(small, model, dtype, client):
    model = dataclasses.replace(model, dtype=dtype)
    expected = spectral(model, small, partitions=1)
    assert all(np.isfinite(rows).all() for rows in expected)
    for settings in (
        {"partitions": 7},
        {"cluster": "threads", "workers": 2, "partitions": 3},
        {"client": client, "partitions": 4},
    ):
        for mine, theirs in zip(spectral(model, small, **settings), expected, strict=True):
            assert_array_equal(mine, theirs)


@every_model
def test_the_order_of_ratings_changes_no_bit(small, model):
    order = np.random.default_rng(1).permutation(len(small))
    users, items = (
        np.array(ids.texts)[rows] for ids, rows in ((small.users, small.user), (small.items, small.item))
    )
    shuffled = ratings_of(users[order], items[order], small.rating[order])
    for mine, theirs in zip(spectral(model, shuffled), spectral(model, small), strict=True):
        assert_array_equal(mine, theirs)


@every_model
def test_a_fit_from_it_falls_all_the_way(small, model):
    model = dataclasses.replace(model, init="spectral", max_iter=30, tol=0)
    with executor(small, model.storage, "serial") as where:
        start = cold_start(model, small, where)
        result = fit(model, small, where)
        given = fit(dataclasses.replace(model, init="random"), small, where, start)
    assert (np.diff(result.objectives) <= 1e-12).all()
    assert result.objectives == given.objectives
    random = dataclasses.replace(model, init="random", max_iter=1)
    with executor(small, model.storage, "serial") as where:
        assert result.objectives[2] < fit(random, small, where).objective
    if not model.signed:
        assert min(rows.min() for rows in start) >= 0


@every_model
def test_a_scaled_start_is_the_start_scaled(small, model):
    start, scaled = (spectral(each, small) for each in (model, dataclasses.replace(model, init_scale=0.01)))
    first = len(model.columns()) - model.rank
    for rows, smaller in zip(start, scaled, strict=True):
        assert_array_equal(smaller[:, :first], rows[:, :first])
        assert_allclose(smaller[:, first:], 0.01 * rows[:, first:], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("make", [ALS, BiasedALS])
def test_directions_that_the_ratings_lack_stay_random(make):
    users, items = np.divmod(np.arange(60), 6)
    same = ratings_of(users, items, np.full(60, 4.0))
    model = make(9, 0.01, dtype="float64")
    start, keyed = spectral(model, same), starting_factors(model, same)
    found = 1 if make is ALS else 0
    for mine, theirs in zip(start, keyed, strict=True):
        factors = mine[:, -9:]
        assert np.abs(factors).max(axis=0).min() > 0
        assert (factors == theirs[:, -9:]).all(axis=0).sum() == 9 - found
    if make is ALS:
        random = (start.user == keyed.user).all(axis=0)
        assert_allclose(start.user[:, ~random] @ start.item[:, ~random].T, 4, atol=1e-9)
