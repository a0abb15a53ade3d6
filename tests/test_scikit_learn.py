"""scikit-learn's own suite for estimators, and what it does not ask: docs/estimators.md says what is skipped."""

import os
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks

from mfpipe import ALS, BiasedALS, LassoMF
from mfpipe.estimators import ESTIMATORS

# What no estimator of ids can pass; docs/estimators.md has the same list.
EXPECTED_TO_FAIL = {
    "check_estimators_dtypes": "asks for floats as X, and an id is never guessed from a float",
}
UNDER_ARRAY_API = "check_array_api_input"  # needs SCIPY_ARRAY_API=1 before scipy is imported

VARIANTS = [
    *(cls() for cls in ESTIMATORS.values()),
    ALS(nonnegative=True, weighting="uniform", dtype="float64"),
    BiasedALS(block_order="separate", bias_regularization=0.1),
    LassoMF(l1_ratio=0.5, nonnegative=True),
]


def two_columns(shape_X):
    """scikit-learn's hook that fits X to an estimator's tags, with the two columns that no tag can ask for."""

    def shaped(*arguments, **options):
        made = shape_X(*arguments, **options)
        return tuple(X[:, :2] for X in made) if isinstance(made, tuple) else made[:, :2]

    return shaped


@pytest.fixture(autouse=True)
def quietly():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


@estimator_checks.parametrize_with_checks(VARIANTS, expected_failed_checks=lambda estimator: EXPECTED_TO_FAIL)
def test_scikit_learns_suite(monkeypatch, estimator, check):
    if getattr(check, "func", check).__name__ == UNDER_ARRAY_API:
        pytest.skip("run by test_the_array_api_check in a process of its own")
    shaped = two_columns(estimator_checks._enforce_estimator_tags_X)
    monkeypatch.setattr(estimator_checks, "_enforce_estimator_tags_X", shaped)
    check(estimator)


def test_the_array_api_check():
    code = f"""
from functools import partial
from sklearn.utils import estimator_checks as checks
from mfpipe.estimators import ESTIMATORS
from tests.test_scikit_learn import two_columns
checks._enforce_estimator_tags_X = two_columns(checks._enforce_estimator_tags_X)
ran = 0
for cls in ESTIMATORS.values():
    for estimator, check in checks.estimator_checks_generator(cls()):
        if isinstance(check, partial) and check.func.__name__ == {UNDER_ARRAY_API!r}:
            check(estimator)
            ran += 1
print(ran)
"""
    environment = os.environ | {"SCIPY_ARRAY_API": "1"}
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env=environment
    )
    assert ran.stdout.strip() == str(len(ESTIMATORS)), ran.stderr


@pytest.mark.parametrize("cls", ESTIMATORS.values(), ids=ESTIMATORS)
def test_the_skipped_check_passes_once_floats_are_made_integers(monkeypatch, cls):
    class WithWholeFloats(cls):
        def fit(self, X, y):
            return super().fit(X.astype(np.int64), y)

        def predict(self, X):
            return super().predict(X.astype(np.int64))

    shaped = two_columns(estimator_checks._enforce_estimator_tags_X)
    monkeypatch.setattr(estimator_checks, "_enforce_estimator_tags_X", shaped)
    estimator_checks.check_estimators_dtypes(cls.__name__, WithWholeFloats())


rng = np.random.default_rng(0)
pairs = rng.choice(40 * 25, 400, replace=False)
X = np.column_stack((pairs // 25, pairs % 25))
y = rng.integers(1, 6, 400).astype(float)


@pytest.mark.parametrize("estimator", VARIANTS, ids=repr)
def test_clone_pickle_and_model_selection(estimator):
    fitted = clone(estimator).fit(X, y)
    assert_array_equal(pickle.loads(pickle.dumps(fitted)).predict(X), fitted.predict(X))
    scores = cross_val_score(estimator, X, y, cv=3)
    assert np.isfinite(scores).all()
    assert fitted.score(X, y) == r2_score(y, fitted.predict(X))
    with pytest.raises(NotFittedError):
        clone(estimator).predict(X)


def test_grid_search_finds_a_regularization():
    search = GridSearchCV(ALS(rank=2, max_iter=5), {"regularization": [0.01, 1.0]}, cv=2).fit(X, y)
    best = int(np.argmax(search.cv_results_["mean_test_score"]))
    assert search.best_params_["regularization"] == [0.01, 1.0][best]


def test_a_pipeline_may_make_the_ids():
    frame = pd.DataFrame({"rating": y, "film": X[:, 1].astype(str), "person": X[:, 0].astype(str)})
    choose = FunctionTransformer(lambda table: table[["person", "film"]])
    piped = make_pipeline(choose, ALS(rank=3)).fit(frame, y)
    assert_array_equal(piped.predict(frame), ALS(rank=3).fit(X, y).predict(X))
    assert list(piped[-1].feature_names_in_) == ["person", "film"]
    with pytest.raises(ValueError, match="feature names"):
        piped[-1].predict(frame[["film", "person"]])


@pytest.mark.parametrize("name", ["sample_weight", "weights"])
def test_weights_of_ratings_are_refused(name):
    with pytest.raises(TypeError, match=name):
        ALS().fit(X, y, **{name: np.ones(len(y))})


FORMS = {
    "rows in another order": lambda X, y, rng: (lambda order: (X[order], y[order]))(rng.permutation(len(y))),
    "frame": lambda X, y, rng: (pd.DataFrame(X), pd.Series(y)),
    "frame of a nullable and a small type": lambda X, y, rng: (
        pd.DataFrame({"u": pd.array(X[:, 0], "Int64"), "i": X[:, 1].astype("uint32")}),
        pd.Series(y, index=np.arange(len(y))[::-1]),
    ),
    "frame of categories": lambda X, y, rng: (pd.DataFrame(X.astype(str)).astype("category"), y),
    "nested lists": lambda X, y, rng: (X.tolist(), y.tolist()),
    "text": lambda X, y, rng: (X.astype(str), y),
    "Python objects": lambda X, y, rng: (X.astype(object), y.astype(object)),
    "uint64": lambda X, y, rng: (X.astype(np.uint64), y),
    "read-only": lambda X, y, rng: tuple(np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape) for a in (X, y)),
    "Fortran order": lambda X, y, rng: (np.asfortranarray(X), y),
    "strided": lambda X, y, rng: (np.repeat(X, 3, axis=1)[:, 1::3], np.repeat(y, 2)[::2]),
    "backwards": lambda X, y, rng: (X[::-1], y[::-1]),
    "other byte order": lambda X, y, rng: (X.astype(">i8"), y.astype(">f8")),
}  # fmt: skip


@st.composite
def rated(draw):
    """(user, item) ids and ratings, some pairs more than once."""
    n = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    ids = draw(st.sampled_from([np.arange(12), rng.integers(0, 10**9, 12)]))
    return ids[rng.integers(0, 12, (n, 2))], rng.integers(1, 11, n) / 2


@pytest.mark.parametrize("form", FORMS)
@settings(deadline=None, max_examples=25)
@given(rated(), st.sampled_from(VARIANTS), st.integers(0, 99))
def test_the_form_of_the_input_changes_nothing(form, data, estimator, seed):
    X, y = data
    expected = clone(estimator).fit(X, y)
    pairs, ratings = FORMS[form](X, y, np.random.default_rng(seed))
    model = clone(estimator).fit(pairs, ratings)
    assert_array_equal(model.users_, expected.users_)
    assert_array_equal(model.items_, expected.items_)
    for mine, theirs in zip(model.fitted_.factors, expected.fitted_.factors, strict=True):
        assert_array_equal(mine, theirs)
    pairs, predicted = FORMS[form](X, expected.predict(X), np.random.default_rng(seed))
    assert_array_equal(model.predict(pairs), np.asarray(predicted, float))


@settings(deadline=None, max_examples=40)
@given(
    rated(),
    st.sampled_from([ALS, BiasedALS, LassoMF]),
    st.sampled_from(["uniform", "count"]),
    st.booleans(),
    st.integers(0, 10**6),
)
def test_new_names_for_the_ids_change_only_the_start(data, cls, weighting, nonnegative, seed):
    X, y = data
    rng = np.random.default_rng(seed)
    users, items = np.unique(X[:, 0]), np.unique(X[:, 1])
    init = np.abs(rng.normal(size=(len(users), 3))), np.abs(rng.normal(size=(len(items), 3)))
    model = cls(
        rank=3, weighting=weighting, regularization=0.05, nonnegative=nonnegative,
        max_iter=3, tol=0, dtype="float64", init=init,
    ).fit(X, y)  # fmt: skip
    for names in ("in the same order", "shuffled"):
        new = [np.sort(rng.choice(10**6, len(ids), replace=False)) for ids in (users, items)]
        if names == "shuffled":
            new = [rng.permutation(ids) for ids in new]
        renamed = np.column_stack(
            [
                ids[np.searchsorted(old, column)]
                for ids, old, column in zip(new, (users, items), X.T, strict=True)
            ]
        )
        rows = [np.argsort(ids) for ids in new]
        moved = tuple(start[order] for start, order in zip(init, rows, strict=True))
        other = clone(model).set_params(init=moved).fit(renamed, y)
        assert_array_equal(other.users_, new[0][rows[0]])
        for mine, theirs, order in zip(other.fitted_.factors, model.fitted_.factors, rows, strict=True):
            if names == "shuffled":  # a row's ratings are summed in another order
                assert_allclose(mine, theirs[order], rtol=1e-6, atol=1e-8)
            else:
                assert_array_equal(mine, theirs)
        assert_allclose(other.predict(renamed), model.predict(X), rtol=1e-6, atol=1e-8)
