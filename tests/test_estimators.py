"""The models as scikit-learn estimators."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score

from mfpipe import ALS, ItemMean, UserItemMean, UserMean
from mfpipe.estimators import ESTIMATORS
from mfpipe.models import MODELS

rng = np.random.default_rng(0)
pairs = rng.choice(40 * 25, 400, replace=False)
X = np.column_stack((pairs // 25, pairs % 25))
y = rng.integers(1, 6, 400).astype(float)


@pytest.fixture(autouse=True)
def quietly():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def test_every_model_has_an_estimator_with_its_parameters():
    assert list(ESTIMATORS) == list(MODELS)
    for name, estimator in ESTIMATORS.items():
        params = estimator().get_params()
        params.pop("init", None)
        assert params == MODELS[name]().params


@pytest.mark.parametrize("estimator", [UserMean(), ItemMean(), UserItemMean(), ALS(rank=3, max_iter=4)])
def test_clone_pickle_and_model_selection(estimator):
    fitted = clone(estimator).fit(X, y)
    assert_array_equal(pickle.loads(pickle.dumps(fitted)).predict(X), fitted.predict(X))
    assert np.isfinite(cross_val_score(estimator, X, y, cv=3)).all()
    with pytest.raises(NotFittedError):
        clone(estimator).predict(X)


def test_grid_search_finds_a_regularization():
    search = GridSearchCV(ALS(rank=2, max_iter=5), {"regularization": [0.01, 1.0]}, cv=2).fit(X, y)
    assert search.best_params_["regularization"] in (0.01, 1.0)


def test_attributes_are_those_of_the_contract():
    model = ALS(rank=3, max_iter=4, tol=0).fit(X, y)
    assert_array_equal(model.users_, np.unique(X[:, 0]))
    assert_array_equal(model.items_, np.unique(X[:, 1]))
    assert model.user_factors_.shape == (len(model.users_), 3)
    assert model.item_factors_.dtype == np.float32
    assert model.global_mean_ == y.mean()
    assert model.n_iter_ == len(model.history_) == 4
    assert not model.converged_


@pytest.mark.parametrize("kind", ["frame", "order", "strided", "readonly", "text"])
def test_the_form_of_the_input_changes_nothing(kind):
    expected = ALS(rank=3, max_iter=3).fit(X, y)
    pairs, ratings = X, y
    if kind == "frame":
        pairs = pd.DataFrame({"user": X[:, 0], "item": X[:, 1]})
    elif kind == "order":
        order = rng.permutation(len(y))
        pairs, ratings = X[order], y[order]
    elif kind == "strided":
        pairs = np.repeat(X, 2, axis=1)[:, ::2]
    elif kind == "readonly":
        pairs = X.copy()
        pairs.flags.writeable = False
    elif kind == "text":
        pairs = X.astype(str)
    model = ALS(rank=3, max_iter=3).fit(pairs, ratings)
    assert_array_equal(model.user_factors_, expected.user_factors_)
    assert_array_equal(
        model.predict(pairs), ALS(rank=3, max_iter=3).fit(X, y).predict(X if kind != "order" else pairs)
    )


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
        (X[:, :1], y, "1 columns"), (X, y[:-1], "400 rows and y 399"), (X[:0], y[:0], "not none"),
        (X.astype(float), y, "ids of type float64"), (X, np.full(400, np.nan), r"y\[0\] is not finite"),
        (X[:, 0], y, "shape"), (np.array([[1, "a"], ["1", "b"]], dtype=object), [1, 2], "type int, str"),
    ],
)  # fmt: skip
def test_bad_input_is_a_value_error_that_says_why(pairs, ratings, message):
    with pytest.raises(ValueError, match=message):
        ALS().fit(pairs, ratings)


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
