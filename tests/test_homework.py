"""The homework's real files: the figures that an independent implementation gives."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from mfpipe.comparison import compare
from mfpipe.evaluate import rmse
from mfpipe.executors import executor
from mfpipe.fit import Pairs, fit
from mfpipe.fitted import FittedModel
from mfpipe.job import Data, Place
from mfpipe.models import ALS, BiasedALS, ItemMean, LassoMF, UserItemMean, UserMean
from mfpipe.models.base import Totals
from mfpipe.partition import group

SERIAL_ALS = ALS(5, 1e-4, "uniform", max_iter=1000, tol=1e-6, dtype="float64")


@pytest.mark.parametrize(
    ("model", "expected"),
    [(UserMean(), 1.016582164567622), (ItemMean(), 1.0518287173037388), (UserItemMean(), 0.9816028892812521)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_means(netflix, model, expected):
    ratings, test = netflix
    with executor(ratings, model.storage, "threads") as where:
        fitted = FittedModel.of(fit(model, ratings, where), ratings)
    assert rmse(fitted.predict(test.user, test.item)[0] - test.rating) == pytest.approx(expected, rel=1e-15)


def test_the_record_of_the_homework(netflix_files):
    train, test = netflix_files
    found = compare(Data([train], [test]), [UserItemMean()], Place("threads"), record=8560)
    (system,) = found.systems
    assert system["record"] == {
        "record": 8560,
        "user": "1776",
        "item": "1931",
        "predicted": 4.524252491694352,
        "true": 5.0,
    }


@pytest.mark.parametrize("seed", range(5))
def test_als_learns_from_every_start(netflix, seed):
    ratings, _ = netflix
    model = ALS(5, 1e-4, "uniform", max_iter=1000, tol=1e-6, dtype="float64", random_state=seed)
    with executor(ratings, model.storage, "threads") as where:
        result = fit(model, ratings, where)
    assert result.converged
    assert result.objective <= 1.8605
    assert all(b < a for a, b in zip(result.objectives, result.objectives[1:], strict=False))


def test_als_is_the_same_in_threads_and_on_a_cluster_in_any_pieces(netflix, client):
    ratings, _ = netflix
    model = ALS(5, 1e-4, "uniform", max_iter=10, tol=0, dtype="float64")
    with executor(ratings, model.storage, "serial", partitions=1) as where:
        serial = fit(model, ratings, where)
    for partitions in (1, 2, 7, 64):
        for place in ({"cluster": "threads", "workers": 2}, {"client": client}):
            with executor(ratings, model.storage, partitions=partitions, **place) as where:
                other = fit(model, ratings, where)
            assert other.objectives == serial.objectives
            for mine, theirs in zip(serial.factors, other.factors, strict=True):
                assert_array_equal(mine, theirs)


def test_the_largest_useful_regularization(netflix):
    ratings, _ = netflix
    columns = ratings.user, ratings.item, ratings.rating
    assert ALS(weighting="uniform").largest_useful_regularization(*columns) == pytest.approx(
        0.0059324, rel=1e-4
    )
    assert ALS(weighting="count").largest_useful_regularization(*columns) == pytest.approx(4.2161, rel=1e-4)


@pytest.mark.parametrize(
    "model",
    [
        SERIAL_ALS,
        ALS(5, 0.05, "count", dtype="float64", max_iter=10, tol=0),
        BiasedALS(3, 3e-4, "uniform", dtype="float64", max_iter=10, tol=0),
        LassoMF(3, 0.2, "count", dtype="float64", max_iter=10, tol=0),
        LassoMF(5, 1e-4, "uniform", dtype="float64", max_iter=10, tol=0),
    ],
    ids=lambda model: f"{model.name} {model.weighting}",
)
def test_every_row_is_stationary(netflix, model):
    ratings, _ = netflix
    with executor(ratings, model.storage, "threads") as where:
        factors = fit(model, ratings, where).factors
    totals = Totals(len(ratings), ratings.rating.mean())
    distance = model.stationarity("user", group(ratings, "user", np.dtype("f8")), *factors, totals)
    assert distance.max() <= 1e-10


def test_biased_als_collapses_where_it_must_and_learns_where_it_can(netflix):
    ratings, test = netflix
    pairs = Pairs.of(test.user, test.item, test.rating, ratings)
    model = BiasedALS(3, 0.1, "uniform", dtype="float64", tol=1e-9, max_iter=1000)
    with executor(ratings, model.storage, "threads") as where:
        collapsed = fit(model, ratings, where, test=pairs)
        learnt = fit(
            BiasedALS(3, 3e-4, "uniform", dtype="float64", tol=1e-6, max_iter=1000),
            ratings,
            where,
            test=pairs,
        )
    assert collapsed.objective == pytest.approx(0.7592999, abs=1e-7)
    assert max(np.abs(rows[:, 1:]).max() for rows in collapsed.factors) < 1e-10
    assert collapsed.history[-1]["test_rmse"] == pytest.approx(0.9711, abs=1e-4)
    assert "0.00050448" in collapsed.warnings[0]
    assert learnt.objective <= 0.7460
    assert learnt.history[-1]["test_rmse"] <= 0.961


def test_lasso_mf_reaches_the_homeworks_objective_from_most_starts(netflix):
    ratings, test = netflix
    pairs = Pairs.of(test.user, test.item, test.rating, ratings)
    ends = []
    for seed in range(5):
        model = LassoMF(3, 0.2, "count", dtype="float64", tol=0, max_iter=30, random_state=seed, cold="zero")
        with executor(ratings, model.storage, "threads") as where:
            result = fit(model, ratings, where, test=pairs)
        ends.append(result.objective * len(ratings))
        assert result.history[-1]["test_rmse"] == pytest.approx(1.09, abs=0.01)
    assert np.median(ends) <= 79_500
