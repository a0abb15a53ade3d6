"""Slices of the test records, and how sure their figures are."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
from numpy.testing import assert_allclose

from mfpipe import bootstrap
from mfpipe.bootstrap import CONFIDENCE, Bootstrap, mean_intervals, paired_difference
from mfpipe.diagnosis import COUNTS, PERIODS, diagnose
from mfpipe.executors import executor
from mfpipe.fit import fit
from mfpipe.fitted import FittedModel
from mfpipe.models import ALS, UserItemMean, UserMean
from mfpipe.ranking import ranking
from mfpipe.ratings import NO_TIME, TestRatings


def by_brute_force(users, residual, draws=4000):
    """The percentile interval of the RMSE, users drawn one by one."""
    rng = np.random.default_rng(1)
    of = [residual[users == user] for user in np.unique(users)]
    rmse = [
        np.sqrt(np.mean(np.concatenate([of[k] for k in rng.integers(0, len(of), len(of))]) ** 2))
        for _ in range(draws)
    ]
    tail = (1 - CONFIDENCE) / 2
    return np.quantile(rmse, (tail, 1 - tail))


def errors(n_users, rng):
    """Users with few and many records, each with errors of a size of its own."""
    users = np.repeat(np.arange(n_users), rng.integers(1, 12, n_users))
    return users, rng.normal(0, rng.uniform(0.3, 2, n_users)[users])


def test_intervals_are_those_of_drawing_users_one_by_one():
    users, residual = errors(60, np.random.default_rng(0))
    boot = Bootstrap(pa.array(users.astype(str)))
    whole = boot.slices(residual, np.zeros(len(users), int), 1)[0]
    low, high = by_brute_force(users, residual)
    assert boot.n_users == boot.n_groups == 60
    assert_allclose(whole["rmse_interval"], (low, high), atol=0.1 * (high - low))


def test_groups_of_users_give_the_width_that_users_give(monkeypatch):
    users, residual = errors(3000, np.random.default_rng(0))
    ids, one = pa.array(users.astype(str)), np.zeros(len(users), int)
    monkeypatch.setattr(bootstrap, "GROUPS", 500)
    grouped = Bootstrap(ids).slices(residual, one, 1)[0]
    low, high = by_brute_force(users, residual, 1000)
    assert Bootstrap(ids).n_groups == 500
    assert grouped["rmse_interval"][1] - grouped["rmse_interval"][0] == pytest.approx(high - low, rel=0.2)


def test_an_interval_covers_the_truth_as_often_as_it_says():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(100):
        users = np.repeat(np.arange(200), 3)
        residual = rng.normal(0, 1, 600) * rng.uniform(0.5, 1.5, 200)[users]
        low, high = Bootstrap(pa.array(users.astype(str))).slices(residual, users * 0, 1)[0]["rmse_interval"]
        covered += low <= np.sqrt(13 / 12) <= high  # E[u²] of the uniform on 0.5 to 1.5
    assert 85 <= covered <= 100


def test_slices_are_the_figures_of_their_records_alone():
    users, residual = errors(50, np.random.default_rng(3))
    of = np.where(np.arange(len(users)) % 7 == 0, -1, np.arange(len(users)) % 3)
    found = Bootstrap(pa.array(users.astype(str))).slices(residual, of, 4)
    for at in range(3):
        mine = residual[of == at]
        assert found[at]["rows"] == len(mine)
        assert found[at]["rmse"] == pytest.approx(np.sqrt(np.mean(mine**2)), rel=1e-12)
        assert found[at]["mean_residual"] == pytest.approx(mine.mean(), rel=1e-12)
        assert found[at]["rmse_interval"][0] < found[at]["rmse"] < found[at]["rmse_interval"][1]
    assert found[3] == {
        "rows": 0,
        "rmse": None,
        "rmse_interval": None,
        "mean_residual": None,
        "mean_interval": None,
    }


def test_too_few_users_have_no_interval():
    found = Bootstrap(pa.array(["a"] * 50 + ["b"] * 50)).slices(np.ones(100), np.zeros(100, int), 1)
    assert (found[0]["rmse"], found[0]["rmse_interval"]) == (1.0, None)
    assert mean_intervals(np.ones((3, 2))) == [None, None]


def test_a_paired_difference_is_surer_than_two_intervals():
    users, residual = errors(300, np.random.default_rng(5))
    squares = np.bincount(users, residual**2)
    rows = np.bincount(users)
    better = paired_difference(0.98 * squares, squares, rows)
    assert better["rmse"] == pytest.approx((np.sqrt(0.98) - 1) * np.sqrt(squares.sum() / rows.sum()))
    assert better["interval"][0] < better["rmse"] < better["interval"][1] < 0
    assert paired_difference(squares, squares, rows) == {"rmse": 0.0, "interval": [0.0, 0.0]}


def test_means_over_users_have_the_interval_of_their_standard_error():
    values = np.random.default_rng(0).exponential(1, (5000, 1))
    low, high = mean_intervals(values)[0]
    assert (low + high) / 2 == pytest.approx(values.mean(), rel=0.01)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(5000), rel=0.15)


@pytest.fixture(scope="module")
def fitted(small):
    return fitted_to(ALS(3, max_iter=3, tol=0), small)


def fitted_to(model, ratings):
    with executor(ratings, model.storage, "serial") as where:
        return FittedModel.of(fit(model, ratings, where), ratings)


def records(ratings, n=400, time=None):
    rng = np.random.default_rng(2)
    users = [*ratings.users.texts.to_pylist(), "stranger"]
    items = [*ratings.items.texts.to_pylist(), "unheard of"]
    rating = rng.integers(1, 6, n) * 1.0
    return TestRatings(
        pa.array(rng.choice(users, n)), pa.array(rng.choice(items, n)), rating, np.arange(n), time
    )


def test_a_diagnosis_slices_all_records_each_way(small, fitted):
    time = 86_400_000_000 * np.arange(400)
    time[:5] = NO_TIME
    test = records(small, time=time)
    found = diagnose(fitted, test, "0")
    predicted, source = fitted.predict(test.user, test.item)
    residual = predicted - test.rating
    for key in ("by_user_count", "by_item_count", "by_rating", "calibration"):
        assert sum(row["rows"] for row in found[key]) == 400, key
        squares = sum(row["rows"] * row["rmse"] ** 2 for row in found[key])
        assert squares == pytest.approx((residual**2).sum()), key
    assert sum(row["rows"] for row in found["by_time"]) == 395
    assert len(found["by_time"]) == PERIODS
    cold = np.isin(source, (1, 3))
    assert found["by_user_count"][0]["rows"] == cold.sum()
    assert (found["by_user_count"][0]["first"], found["by_user_count"][0]["last"]) == (0, 0)
    counts = np.append(fitted.user_counts, 0)[fitted.users.rows(test.user)]
    for row in found["by_user_count"]:
        mine = (counts >= row["first"]) & (counts <= row["last"])
        assert row["rows"] == mine.sum()
        assert row["rmse"] == pytest.approx(np.sqrt(np.mean(residual[mine] ** 2)))
        assert row["first"] in COUNTS
    assert found["predicted"] == {"least": predicted.min(), "largest": predicted.max()}
    assert sum(found["groups"]["rows"]) == 400


def test_calibration_holds_mean_predictions_against_mean_ratings(small, fitted):
    test = records(small)
    predicted, _ = fitted.predict(test.user, test.item)
    rows = diagnose(fitted, test, "0")["calibration"]
    order = np.argsort(predicted, kind="stable")
    assert [row["rows"] for row in rows] == pytest.approx([40] * 10, abs=6)
    assert rows[0]["true"] == pytest.approx(test.rating[order[: rows[0]["rows"]]].mean())
    assert sum(row["rows"] * row["true"] for row in rows) == pytest.approx(test.rating.sum())
    assert all(row["true_interval"][0] < row["true"] < row["true_interval"][1] for row in rows)


def test_the_average_is_the_user_item_means_own_prediction(small, fitted):
    test = records(small)
    average = fitted_to(UserItemMean(), small)
    residual = average.predict(test.user, test.item)[0] - test.rating
    found = diagnose(fitted, test, "0")
    assert found["average"]["rmse"] == pytest.approx(np.sqrt(np.mean(residual**2)), rel=1e-12)
    difference = found["average"]["difference"]
    assert difference["rmse"] == pytest.approx(found["all"]["rmse"] - found["average"]["rmse"])


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("model", [ALS(2, max_iter=1), UserMean()], ids=lambda m: m.name)
def test_one_record_has_a_diagnosis_without_intervals(small, model, n):
    test = records(small, n, np.full(n, NO_TIME))
    found = diagnose(fitted_to(model, small), test, "0")
    assert found["all"]["rows"] == n
    assert found["all"]["rmse_interval"] is None
    assert found["by_time"] == []


def test_equal_predictions_are_one_bin(small):
    fitted = fitted_to(ALS(2, regularization=1e9, max_iter=2), small)
    flat = dataclasses.replace(fitted, factors=type(fitted.factors)(*(0 * rows for rows in fitted.factors)))
    test = records(small)
    known = (fitted.users.rows(test.user) >= 0) & (fitted.items.rows(test.item) >= 0)
    keep = pa.array(known)
    test = TestRatings(test.user.filter(keep), test.item.filter(keep), test.rating[known], test.record[known])
    rows = diagnose(flat, test, "0")["calibration"]
    assert [(row["rows"], row["predicted"]) for row in rows] == [(known.sum(), 0.0)]


def test_lists_of_drawn_users_are_an_estimate_of_all(small):
    fitted = fitted_to(ALS(3, max_iter=3), small)
    test = records(small, 2000)
    every = ranking(fitted, test, 5, 4)
    drawn = ranking(fitted, test, 5, 4, most_users=20)
    assert every["drawn_from"] is None
    assert drawn["users"] <= 20 < drawn["drawn_from"]
    assert drawn == ranking(fitted, test, 5, 4, most_users=20)
    for key in ("recall", "ndcg", "mrr"):
        low, high = every["intervals"][key]
        assert low < every[key] < high
        assert drawn["intervals"][key][1] - drawn["intervals"][key][0] > high - low
