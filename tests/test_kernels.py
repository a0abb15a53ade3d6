"""Row solvers against the oracle, scikit-learn and their own optimality."""

import numpy as np
import pytest
import scipy.sparse.csgraph
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import ElasticNet, Lasso, Ridge

from mfpipe.kernels import readonly
from mfpipe.kernels.components import number_components
from mfpipe.models import ALS, BiasedALS, ItemMean, LassoMF, UserItemMean, UserMean
from mfpipe.models.base import Baseline, Factors, Totals
from mfpipe.models.factors import normal_start
from tests import oracle
from tests.make import block_from

N_OTHER = 25


@st.composite
def blocks(draw):
    """Blocks with empty rows, single ratings, giant rows and equal ratings."""
    n_rows = draw(st.integers(0, 6))
    sizes = draw(st.lists(st.sampled_from([0, 1, 2, 3, 7, N_OTHER]), min_size=n_rows, max_size=n_rows))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    equal = draw(st.booleans())
    rows = [
        [
            (int(c), 3.0 if equal else float(rng.integers(1, 6)))
            for c in rng.choice(N_OTHER, size, replace=False)
        ]
        for size in sizes
    ]
    return block_from(rows)


@settings(deadline=None, max_examples=60)
@given(blocks(), st.integers(1, 9), st.sampled_from([1e-3, 0.1, 10.0]), st.sampled_from(["uniform", "count"]))
def test_ridge_rows_equal_the_oracle(block, rank, regularization, weighting):
    other = np.random.default_rng(rank).normal(size=(N_OTHER, rank))
    model = ALS(rank=rank, regularization=regularization, weighting=weighting, dtype="float64")
    totals = Totals(50, 3.0)
    update = model.update("user", block, other[:0], other, totals)
    for u in range(block.n_rows):
        mine = slice(block.indptr[u], block.indptr[u + 1])
        x, y = other[block.columns[mine]], block.values[mine]
        s = regularization * (50 if weighting == "uniform" else len(y))
        expected = oracle.quadratic_row(x, y, np.full(rank, s))
        assert_allclose(update.rows[u], expected, rtol=1e-8, atol=1e-10)
        assert_allclose(update.squared_error[u], ((y - x @ expected) ** 2).sum(), rtol=1e-8, atol=1e-10)
        assert_allclose(update.penalty[u], s * expected @ expected, rtol=1e-8, atol=1e-10)
    assert (model.stationarity("user", block, update.rows, other, totals) <= 1e-10).all()


@pytest.mark.parametrize("n", [1, 3, 4, 5, 63, 64, 65, 200])  # around the rank and the panel
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ridge_rows_equal_scikit_learn(n, dtype):
    rng = np.random.default_rng(n)
    other = rng.normal(size=(300, 4)).astype(dtype)
    block = block_from(
        [[(int(c), float(rng.integers(1, 6))) for c in rng.choice(300, n, replace=False)]], dtype
    )
    model = ALS(rank=4, regularization=0.1, dtype=dtype)
    rows = model.update("user", block, other[:0], other, Totals(n, 0.0)).rows
    ridge = Ridge(alpha=0.1 * n, fit_intercept=False, solver="cholesky")
    expected = ridge.fit(other[block.columns].astype(float), block.values.astype(float)).coef_
    assert rows.dtype == dtype
    assert_allclose(rows[0], expected, rtol=1e-9 if dtype == "float64" else 2e-4, atol=1e-5)


@pytest.mark.parametrize(("n", "rank"), [(2, 5), (5, 5), (8, 3)])
def test_a_singular_row_gets_the_shortest_minimiser(n, rank):
    other = np.zeros((10, rank))
    other[:, 0] = np.arange(10) + 1.0  # rank one, whatever `rank` says
    block = block_from([[(c, float(c)) for c in range(n)]])
    rows = (
        ALS(rank=rank, regularization=0.0, dtype="float64")
        .update("user", block, other[:0], other, Totals(n, 0.0))
        .rows
    )
    assert_allclose(rows[0], np.linalg.lstsq(other[:n], block.values, rcond=None)[0], atol=1e-12)


def test_means_of_rows_and_their_errors():
    block = block_from([[(0, 4.0), (1, 2.0)], [], [(1, 5.0)]])
    update = UserMean().update("user", block, None, np.zeros((2, 1)), None)
    assert update.rows[:, 0].tolist() == [3.0, 0.0, 5.0]
    assert update.squared_error.tolist() == [2.0, 0.0, 0.0]
    other = np.array([[4.0], [1.0]])
    average = UserItemMean().update("user", block, None, other, None)  # predicts 3.5, 2 and 3
    assert average.squared_error.tolist() == [0.25, 0.0, 4.0]
    assert ItemMean.half_steps == ("item",)


def test_starts_are_normal_and_keyed_by_id_alone():
    hashes = np.random.default_rng(0).integers(0, 2**63, 20_000).astype(np.uint64)
    rows = normal_start(3, "user", hashes, 5, np.dtype("float64"))
    assert abs(rows.mean()) < 0.01
    assert abs(rows.std() - 1) < 0.01
    assert abs(np.corrcoef(rows.T) - np.eye(5)).max() < 0.03
    shuffled = np.random.default_rng(1).permutation(len(hashes))
    assert_array_equal(normal_start(3, "user", hashes[shuffled], 5, np.dtype("float64")), rows[shuffled])
    assert_array_equal(normal_start(3, "user", hashes, 3, np.dtype("float64")), rows[:, :3])
    for seed, side in ((4, "user"), (3, "item")):
        assert not (normal_start(seed, side, hashes, 5, np.dtype("float64")) == rows).any()


def test_predictions_of_cold_pairs_are_what_is_known():
    baseline = Baseline(3.0, np.array([2.0]), np.array([4.0]))
    factors = Factors(np.array([[2.0]]), np.array([[1.5]]))
    users, items = np.array([0, 0, -1, -1], np.int32), np.array([0, -1, 0, -1], np.int32)
    model = ALS(rank=1, dtype="float64")
    assert model.predict(factors, users, items, baseline).tolist() == [3.0, 2.0, 4.0, 3.0]
    zero = ALS(rank=1, dtype="float64", cold="zero")
    assert zero.predict(factors, users, items, baseline).tolist() == [3.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("l1_ratio", [1.0, 0.3])
@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("n", [2, 6, 30, 150])
@pytest.mark.parametrize("regularization", [0.002, 0.1, 0.8, 50.0])
def test_descent_rows_equal_scikit_learn(n, l1_ratio, nonnegative, regularization):
    rng = np.random.default_rng(n)
    other = rng.normal(size=(200, 6))
    block = block_from([[(int(c), float(rng.integers(1, 6))) for c in rng.choice(200, n, replace=False)]])
    model = LassoMF(6, regularization, "count", l1_ratio=l1_ratio, nonnegative=nonnegative, dtype="float64")
    totals = Totals(10 * n, 0.0)
    update = model.update("user", block, rng.normal(size=(1, 6)), other, totals)
    s = regularization * n
    options = {"fit_intercept": False, "positive": nonnegative, "tol": 1e-14, "max_iter": 10**6}
    if l1_ratio == 1:
        peer = Lasso(alpha=s / (2 * n), **options)
    else:
        peer = ElasticNet(alpha=s * (2 - l1_ratio) / (2 * n), l1_ratio=l1_ratio / (2 - l1_ratio), **options)
    expected = peer.fit(other[block.columns], block.values).coef_
    assert_allclose(update.rows[0], expected, atol=1e-8)
    assert ((update.rows[0] == 0) == (np.abs(expected) < 1e-10)).all()
    assert model.stationarity("user", block, update.rows, other, totals)[0] <= 1e-10
    x, p = other[block.columns], update.rows[0]
    assert_allclose(update.squared_error[0], ((block.values - x @ p) ** 2).sum(), rtol=1e-9)
    assert_allclose(update.penalty[0], s * (l1_ratio * np.abs(p).sum() + (1 - l1_ratio) * p @ p), rtol=1e-9)


def test_rows_that_run_out_of_passes_are_counted():
    """Two columns nearly the same and no penalty: the optimum is a million away, and descent crawls."""
    rng = np.random.default_rng(0)
    other = rng.normal(size=(20, 1)) + np.array([0.0, 2e-7]) * rng.normal(size=(20, 1))
    block = block_from([[(c, 3.0) for c in range(20)], [(7, 3.0)]])
    model = LassoMF(2, 0.0, dtype="float64")
    assert model.update("user", block, np.zeros((2, 2)), other, Totals(21, 0.0)).unfinished == 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("nonnegative", [False, True])
def test_a_singular_system_without_a_penalty_ends_where_rounding_does(dtype, nonnegative):
    """Rounded to float32, it has no solution at all, and passes would go on for ever."""
    rng = np.random.default_rng(0)
    other = rng.normal(size=(50, 12)).astype(dtype)
    sizes = rng.integers(2, 12, 100)
    block = block_from(
        [[(int(c), float(rng.integers(1, 6))) for c in rng.choice(50, n, replace=False)] for n in sizes],
        dtype,
    )
    model = LassoMF(12, 0.0, nonnegative=nonnegative, dtype=dtype)
    totals = Totals(len(block.values), 0.0)
    update = model.update("user", block, np.abs(rng.normal(size=(100, 12))).astype(dtype), other, totals)
    assert update.unfinished == 0
    distances = model.stationarity("user", block, update.rows, other, totals)
    assert distances.max() < (1e-4 if dtype == "float32" else 1e-11)


@pytest.mark.parametrize("n", [1, 2, 4, 5, 9, 100])
@pytest.mark.parametrize("bias_regularization", [0.0, 0.3])
@pytest.mark.parametrize("nonnegative", [False, True])
def test_biased_rows_equal_scikit_learn_with_an_intercept(n, bias_regularization, nonnegative):
    rng = np.random.default_rng(n)
    other = rng.normal(size=(200, 5))
    block = block_from([[(int(c), float(rng.integers(1, 6))) for c in rng.choice(200, n, replace=False)]])
    model = BiasedALS(
        4, 0.1, bias_regularization=bias_regularization, nonnegative=nonnegative, dtype="float64"
    )
    totals = Totals(500, 3.2)
    update = model.update("item", block, np.zeros((1, 5)), other, totals)
    assert model.stationarity("item", block, update.rows, other, totals)[0] <= 1e-10
    if bias_regularization == 0:
        ridge = Ridge(
            alpha=0.1 * n, positive=nonnegative, tol=1e-14, solver="lbfgs" if nonnegative else "auto"
        )
        ridge.fit(other[block.columns, 1:], block.values - 3.2 - other[block.columns, 0])
        expected = np.concatenate(([ridge.intercept_], ridge.coef_))
        assert_allclose(update.rows[0], expected, atol=1e-4 if nonnegative else 1e-9)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 6)), min_size=1))
def test_components_are_those_of_scipy(pairs):
    users, items = np.array(pairs, np.int32).T
    labels = np.empty(9 + 7, np.int32)
    count = number_components(*readonly(users, items), 9, labels)
    graph = scipy.sparse.coo_array((np.ones(len(pairs)), (users, 9 + items)), (16, 16))
    expected = scipy.sparse.csgraph.connected_components(graph, directed=False)
    assert count == expected[0]
    assert_array_equal(labels, expected[1])


def test_a_row_whose_solution_is_zero_is_exactly_zero():
    other = np.random.default_rng(0).normal(size=(30, 4))
    block = block_from([[(c, 3.0) for c in range(20)], []])
    reach = np.abs(other[:20].T @ np.full(20, 3.0)).max()
    for share, zero in ((1.0001, True), (0.9999, False)):
        model = LassoMF(4, 2 * reach / 20 * share, "count", dtype="float64")
        rows = model.update("user", block, np.ones((2, 4)), other, Totals(20, 0.0)).rows
        assert (rows[0] == 0).all() == zero
        assert (rows[1] == 0).all()


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("l1_ratio", [1.0, 0.4])
@pytest.mark.parametrize("rank", [5, 8])
def test_short_rows_are_stationary_whatever_they_start_from(rank, l1_ratio, nonnegative):
    # Fewer ratings than factors, some of them zero: descent alone crawls along the Gram matrix's null space.
    rng = np.random.default_rng(0)
    other = rng.normal(size=(200, rank)) * (rng.random((200, rank)) > 0.3)
    sizes = rng.integers(2, rank, 5000)
    block = block_from(
        [[(int(c), float(rng.integers(1, 6))) for c in rng.choice(200, n, replace=False)] for n in sizes]
    )
    model = LassoMF(rank, 0.02, "count", l1_ratio=l1_ratio, nonnegative=nonnegative, dtype="float64")
    totals = Totals(len(block.values), 0.0)
    own = rng.normal(size=(5000, rank)) * (rng.random((5000, rank)) > 0.4)
    rows = model.update("user", block, own, other, totals).rows
    assert model.stationarity("user", block, rows, other, totals).max() <= 1e-10
