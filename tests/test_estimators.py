"""The estimators' own promises; scikit-learn's are in test_scikit_learn.py."""

import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from sklearn.exceptions import ConvergenceWarning

from mfpipe import ALS, ItemMean, UserMean

rng = np.random.default_rng(0)
pairs = rng.choice(40 * 25, 400, replace=False)
X = np.column_stack((pairs // 25, pairs % 25))
y = rng.integers(1, 6, 400).astype(float)


@pytest.fixture(autouse=True)
def quietly():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def test_attributes_are_those_of_the_contract():
    model = ALS(rank=3, max_iter=4, tol=0).fit(X, y)
    assert_array_equal(model.users_, np.unique(X[:, 0]))
    assert_array_equal(model.items_, np.unique(X[:, 1]))
    assert model.user_factors_.shape == (len(model.users_), 3)
    assert model.item_factors_.dtype == np.float32
    assert model.global_mean_ == y.mean()
    assert model.n_iter_ == len(model.history_) == 4
    assert not model.converged_


def test_a_fit_on_a_cluster_is_the_same(client):
    here, there = ALS(rank=3, max_iter=3).fit(X, y), ALS(rank=3, max_iter=3).fit(X, y, client=client)
    assert_array_equal(here.user_factors_, there.user_factors_)
    assert_array_equal(here.item_factors_, there.item_factors_)


def test_a_start_can_be_given():
    n_users, n_items = len(np.unique(X[:, 0])), len(np.unique(X[:, 1]))
    init = (np.ones((n_users, 2)), np.zeros((n_items, 2)))
    model = ALS(rank=2, max_iter=0, init=init).fit(X, y)
    assert (model.user_factors_ == 1).all()
    with pytest.raises(ValueError, match="init has arrays of shape"):
        ALS(rank=3, init=init).fit(X, y)


@pytest.mark.parametrize(
    ("pairs", "ratings", "message"),
    [
        (X[:, :1], y, r"1 feature\(s\)"), (pd.DataFrame(X[:, :1]), y, r"1 feature\(s\) .* must have 2"),
        (np.column_stack((X, X)), y, r"4 feature\(s\) .* must have 2: user and item ids"),
        (X, y[:-1], r"\[400, 399\]"), (X[:0], y[:0], r"0 sample\(s\)"), (pd.DataFrame(X[:0]), y[:0], "no rows"),
        (X.astype(float), y, r"user ids of type float64: .*X\.astype\('int64'\)"),
        (X, np.full(400, np.nan), "y contains NaN"), (X, y.astype(str), "ratings are numbers"),
        (X[:, 0], y, "Expected 2D array"), (X == 1, y, "user ids of type bool"),
        ([[1, "a"], ["1", "b"]], [1, 2], "user ids of type int, str"), ([[1, 2.5]], [1], "item ids of type float"),
        (np.array([[1, None]], dtype=object), [1], "NaN|NoneType"), (X.astype("S3"), y, "type bytes"),
        (pd.DataFrame({"u": ["a", None], "i": [1, 2]}), [1, 2], "a missing id"),
        (pd.DataFrame({"u": ["a", " "], "i": [1, 2]}), [1, 2], "user id ' ': blank"),
        ([["a", "b\n"]], [1], r"item id 'b\\n': control character"),
        (X.astype("datetime64[s]"), y, "type datetime64"),
    ],
)  # fmt: skip
def test_bad_input_is_a_value_error_that_says_why(pairs, ratings, message):
    with pytest.raises(ValueError, match=message):
        ALS().fit(pairs, ratings)


def test_ids_are_kept_as_they_are_given():
    model = UserMean().fit([["007", 7], ["7", 10**30], ["NA", -1]], [1, 2, 3])
    assert model.users_.tolist() == ["007", "7", "NA"]
    assert model.items_.tolist() == ["-1", "1" + 30 * "0", "7"]
    assert model.predict([["7", 7], ["07", 7]]).tolist() == [2, 2]
    large = 2**53 + np.arange(3)
    frame = pd.DataFrame({"user": large, "item": large.astype("uint64")})
    assert ItemMean().fit(frame, [1, 2, 3]).items_.tolist() == large.tolist()


def test_a_bad_parameter_is_a_value_error():
    with pytest.raises(ValueError, match="--rank 0"):
        ALS(rank=0).fit(X, y)


def test_not_converging_warns():
    with pytest.warns(ConvergenceWarning, match="not converged after 2 iterations"):
        ALS(rank=2, max_iter=2, tol=0).fit(X, y)


def test_unseen_ids_never_raise_and_never_give_nan():
    model = ALS(rank=2, max_iter=2).fit(X, y)
    predicted = model.predict([[0, 10**6], [10**6, 0], [-1, -1]])
    assert np.isfinite(predicted).all()
    assert predicted[2] == model.global_mean_
