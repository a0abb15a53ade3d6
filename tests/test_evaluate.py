"""Holdouts and metrics."""

import numpy as np
import pyarrow as pa
import pytest
from numpy.testing import assert_array_equal
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

from mfpipe.errors import ParameterError, RatingsError
from mfpipe.evaluate import Holdout, evaluate, seen_in_training
from mfpipe.executors import executor
from mfpipe.fit import fit
from mfpipe.fitted import FittedModel
from mfpipe.ids import IdMap
from mfpipe.models import ALS
from mfpipe.ratings import NO_TIME, Ratings, TestRatings
from tests.make import ratings_of


def dated(n_users=20, n_items=15, n=200, seed=0) -> Ratings:
    rng = np.random.default_rng(seed)
    pairs = np.sort(rng.choice(n_users * n_items, n, replace=False))
    ids = [IdMap.sorted(pa.array([f"x{k}" for k in range(m)])) for m in (n_users, n_items)]
    user, item = (pairs // n_items).astype(np.int32), (pairs % n_items).astype(np.int32)
    return Ratings(user, item, rng.integers(1, 6, n).astype(float), rng.permutation(n).astype(np.int64), *ids)


def pairs_of(ratings):
    return {(ratings.users[u], ratings.items[i]) for u, i in zip(ratings.user, ratings.item, strict=True)}


@pytest.mark.parametrize("text", ["random:0.2", "last:2", "time:0.25"])
def test_a_split_keeps_every_rating_once(text):
    ratings = dated()
    train, test = Holdout.parse(text).split(ratings)
    held = set(zip(test.user.to_pylist(), test.item.to_pylist(), strict=True))
    assert len(train) + len(test) == len(ratings)
    assert pairs_of(train) | held == pairs_of(ratings)
    assert not pairs_of(train) & held
    assert np.bincount(train.user, minlength=len(train.users)).min() > 0
    assert np.bincount(train.item, minlength=len(train.items)).min() > 0


def test_a_random_holdout_takes_the_same_pairs_whatever_else_there_is():
    ratings = dated()
    _, test = Holdout.parse("random:0.3").split(ratings)
    held = set(zip(test.user.to_pylist(), test.item.to_pylist(), strict=True))
    half = ratings.subset(np.arange(len(ratings)) % 2 == 0)
    _, other = Holdout.parse("random:0.3").split(half)
    assert set(zip(other.user.to_pylist(), other.item.to_pylist(), strict=True)) == held & pairs_of(half)
    assert 0.2 < len(test) / len(ratings) < 0.4


def test_last_takes_each_users_latest_and_time_everyones():
    ratings = dated()
    last = Holdout.parse("last:1").mask(ratings)
    for user in range(len(ratings.users)):
        mine = ratings.user == user
        if mine.sum() > 1:
            assert ratings.time[mine & last].tolist() == [ratings.time[mine].max()]
        else:
            assert not last[mine].any()
    latest = Holdout.parse("time:0.25").mask(ratings)
    assert latest.sum() == 50
    assert ratings.time[latest].min() > ratings.time[~latest].max()


@pytest.mark.parametrize(
    "text",
    ["", "random", "random:0", "random:1", "random:1.5", "random:nan", "random:0.0", "last:0", "last:1.5", "time:2",
     "first:1", "random:-0.1"],
)  # fmt: skip
def test_a_holdout_that_is_none_is_refused(text):
    with pytest.raises(ParameterError, match="--holdout"):
        Holdout.parse(text)


def test_a_holdout_by_time_needs_times():
    ratings = ratings_of([1, 1, 2], [1, 2, 1], [3, 4, 5])
    with pytest.raises(RatingsError, match="have no time column"):
        Holdout.parse("time:0.5").split(ratings)
    broken = dated()
    broken.time[3] = NO_TIME
    with pytest.raises(RatingsError, match="1 ratings have a time that is neither .* user 'x0'"):
        Holdout.parse("last:1").split(broken)


def test_a_split_that_leaves_nothing_is_refused():
    one = ratings_of([1], [1], [3])
    with pytest.raises(RatingsError, match="leaves . of 1 ratings to train on"):
        Holdout.parse("random:0.5").split(one)


def test_metrics_are_scikit_learns_and_slices_add_up(small):
    model = ALS(3, max_iter=3, tol=0)
    with executor(small, model.storage, "serial") as where:
        fitted = FittedModel.of(fit(model, small, where), small)
    users = pa.array([*small.users.texts.to_pylist(), "new", "new"])
    items = pa.array(
        [small.items[k % len(small.items)] for k in range(len(small.users))] + ["other", small.items[0]]
    )
    rating = np.random.default_rng(0).integers(1, 6, len(users)).astype(float)
    test = TestRatings(users, items, rating, np.arange(len(users)))
    found = evaluate(fitted, test)
    predicted, source = fitted.predict(users, items)
    assert found["rmse"] == pytest.approx(root_mean_squared_error(rating, predicted), rel=1e-12)
    assert found["mae"] == pytest.approx(mean_absolute_error(rating, predicted), rel=1e-12)
    assert (found["rows"], found["warm"], found["cold"]) == (len(users), len(users) - 2, 2)
    assert source[-2:].tolist() == [3, 1]
    assert predicted[-2] == fitted.baseline.global_mean
    squares = found["warm"] * found["rmse_warm"] ** 2 + found["cold"] * found["rmse_cold"] ** 2
    assert squares == pytest.approx(found["rows"] * found["rmse"] ** 2)
    assert (
        sum(row["rows"] for row in found["by_rating"]) == found["rows"] == sum(found["residuals"]["counts"])
    )
    assert sum(row["rows"] for row in found["sources"].values()) == found["rows"]


def test_records_seen_in_training_are_counted():
    ratings = ratings_of(["a", "a", "b"], ["x", "y", "y"], [1, 2, 3])
    test = TestRatings(
        pa.array(["a", "b", "b", "c"]), pa.array(["y", "x", "y", "x"]), np.ones(4), np.arange(4)
    )
    assert seen_in_training(test, ratings) == 2


def test_ids_that_are_left_keep_their_order_and_their_hashes():
    ids = IdMap(pa.array(["3", "1", "é", "2"]))
    keep = np.array([True, False, True, True])
    before, hashes = ids.subset(keep), ids.hashes
    after = ids.subset(keep)
    assert before.texts.to_pylist() == after.texts.to_pylist() == ["3", "é", "2"]
    assert_array_equal(after.hashes, hashes[keep])
    assert_array_equal(before.hashes, hashes[keep])
