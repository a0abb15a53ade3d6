"""Ratings and parameters at the edge of what can be solved: defined values, or exit 4 and a name."""

import itertools
import math
import warnings

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse.linalg
from numpy.testing import assert_allclose, assert_array_equal

from mfpipe.cli import main
from mfpipe.errors import NumericError
from mfpipe.executors import InProcess, executor
from mfpipe.fit import fit, starting_factors
from mfpipe.fitted import FittedModel
from mfpipe.models import ALS, MODELS, BiasedALS, FactorModel, LassoMF
from tests.make import ratings_of, write

SHAPES = {
    "one rating": ([1], [1], [3.0]),
    "one user": ([1] * 5, range(5), [1, 2, 3, 4, 5]),
    "one item": (range(5), [1] * 5, [1, 2, 3, 4, 5]),
    "constant ratings": (np.arange(30) // 6, np.arange(30) % 6, [3] * 30),
    "ratings of zero": (np.arange(30) // 6, np.arange(30) % 6, [0] * 30),
    "disconnected halves": ([1, 1, 2, 2, 8, 8, 9, 9], [1, 2, 1, 2, 7, 6, 7, 6], [1, 2, 3, 4, 5, 4, 3, 1]),
    "one rating a user": (range(6), range(6), [1, 2, 3, 4, 5, 3]),
}
VARIANTS = [
    {"nonnegative": True},
    {"block_order": "separate"},
    {"balance": True},
    {"l1_ratio": 0.3},
    {"l1_ratio": 0.0, "balance": True},
]


def fitted(model, ratings):
    with executor(ratings, model.storage, "serial") as where:
        result = fit(model, ratings, where)
    return result, FittedModel.of(result, ratings)


def variants(rank=5, **params):
    """Every model, and every factor model with each of its switches."""
    for cls in MODELS.values():
        if not issubclass(cls, FactorModel):
            yield cls()
            continue
        for extra in [{}, *(v for v in VARIANTS if v.keys() <= set(cls.__dataclass_fields__))]:
            yield cls(**{"rank": rank, "max_iter": 6, **params, **extra})


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("regularization", [0, 0.05, 1e12])
def test_every_model_gives_defined_values_for_every_shape(shape, regularization):
    """Known and cold pairs, without a warning from numpy."""
    ratings = ratings_of(*SHAPES[shape])
    users, items = ratings.users.texts, ratings.items.texts
    cold = pa.array(["nobody"])
    pairs = (pa.concat_arrays([users, cold, users[:1], cold]), pa.concat_arrays([items.take(pa.array([0] * len(users))), items[:1], cold, cold]))  # fmt: skip
    for weighting, dtype in itertools.product(("count", "uniform"), ("float32", "float64")):
        for model in variants(regularization=float(regularization), weighting=weighting, dtype=dtype):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                result, made = fitted(model, ratings)
                predicted, _ = made.predict(*pairs)
            assert np.isfinite(predicted).all(), model
            assert all(np.isfinite(rows).all() for rows in result.factors), model
            assert math.isfinite(result.objective), model


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ratings_times_1e12_do_not_overflow(small, dtype):
    big = ratings_of(small.user, small.item, small.rating * 1e12)
    for model in variants(3, regularization=0.05, dtype=dtype):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result, made = fitted(model, big)
        predicted, _ = made.predict(big.users.texts.take(big.user), big.items.texts.take(big.item))
        assert np.isfinite(predicted).all()
        assert 1e10 < result.train_rmse < 2e12, model
        assert result.train_rmse == pytest.approx(np.sqrt(np.mean((predicted - big.rating) ** 2)), rel=1e-3)


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rounding_is_not_taken_for_a_rise_of_the_objective(small, dtype, scale):
    """Without a penalty, products of factors stay as large as at the start, and cancel to the ratings."""
    ratings = ratings_of(small.user, small.item, small.rating * scale)
    for model in variants(12, regularization=0.0, tol=0.0, dtype=dtype):
        result, _ = fitted(model, ratings)  # without an error
        assert result.objective == min(result.objective, *result.objectives[:1]), model


def test_ratings_too_small_to_square_are_exit_4_and_float64_helps(tmp_path, capsys):
    lines = "".join(f"{n % 5},{n % 7},{1 + n % 3}e-20\n" for n in range(35))
    command = ["train", write(tmp_path / "r.csv", "user,item,rating\n" + lines), "--cluster", "serial"]
    command += ["--store", str(tmp_path / "s"), "--regularization", "1e-42", "--max-iter", "3"]
    assert main(command) == 4
    said = capsys.readouterr().err
    assert "the ratings are about 2.19e-20 stars, too small to square in float32; rescale them" in said
    assert not list(tmp_path.glob("s/[a-z]*"))
    assert main([*command, "--dtype", "float64"]) == 0


@pytest.mark.parametrize("model", [ALS(12, 0.0, dtype="float64"), BiasedALS(12, 0.0, dtype="float64")])
@pytest.mark.parametrize("equal", [False, True], ids=["independent", "equal rows"])
@pytest.mark.parametrize("scale", [1.0, 1e-15])
def test_a_row_with_fewer_ratings_than_factors_and_no_penalty_is_the_shortest(small, model, equal, scale):
    """Against the pseudo-inverse; a bias is free, and no part of what is shortest.

    Where rows of the other side are equal the system is singular in the dual form too. Factors may be far
    smaller than the ones that stand for a bias.
    """
    start = starting_factors(model, small)
    start.user[:] *= scale
    if equal:
        start.user[1::2] = start.user[::2]
    step = InProcess(small, model.storage, 3).half_step(model, "item", start.item[:0], start.user)
    counts = np.bincount(small.item)
    assert counts.min() < 12
    for row in np.flatnonzero(counts < 12):
        mine = small.item == row
        x, y = start.user[small.user[mine]].copy(), small.rating[mine]
        if not model.biased:
            assert_allclose(step.rows[row] * scale, np.linalg.pinv(x) @ y * scale, atol=1e-8)
            continue
        y = y - small.rating.mean() - x[:, 0]
        x = x[:, 1:]
        factors = np.linalg.pinv(x - x.mean(axis=0), rcond=1e-10) @ (y - y.mean())
        assert_allclose(step.rows[row, 1:] * scale, factors * scale, atol=1e-8)
        assert_allclose(step.rows[row, 0], y.mean() - x.mean(axis=0) @ factors, atol=1e-8)


def test_equal_rows_of_the_other_side_and_no_penalty_give_the_shortest_too(small):
    """A system that is singular however many ratings there are."""
    model = ALS(3, 0.0, dtype="float64")
    where = InProcess(small, model.storage, 2)
    other = np.ones((len(small.users), 3))
    step = where.half_step(model, "item", other[:0], other)
    means = np.bincount(small.item, small.rating) / np.bincount(small.item)
    assert_allclose(step.rows, np.tile(means[:, None] / 3, 3), rtol=1e-9)


@pytest.mark.parametrize("weighting", ["count", "uniform"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_penalty_of_1e12_leaves_the_bias_only_model(small, weighting, dtype):
    """Against the least-squares biases, on the pairs that were rated."""
    model = BiasedALS(3, 1e12, weighting, max_iter=500, tol=0 if dtype == "float64" else 1e-9, dtype=dtype)
    result, made = fitted(model, small)
    columns = np.concatenate((small.user, len(small.users) + small.item))
    rows = np.tile(np.arange(len(small)), 2)
    design = scipy.sparse.csr_array((np.ones(2 * len(small)), (rows, columns)))
    target = small.rating - small.rating.mean()
    biases = scipy.sparse.linalg.lsqr(design, target, atol=1e-14, btol=1e-14, iter_lim=5000)[0]
    predicted, _ = made.predict(small.users.texts.take(small.user), small.items.texts.take(small.item))
    assert_allclose(
        predicted, small.rating.mean() + design @ biases, atol=1e-4 if dtype == "float32" else 1e-7
    )
    assert np.abs(result.factors.user[:, 1:]).max() < 1e-9
    assert any("collapsed to zero: --regularization 1e+12" in text for text in result.warnings)
    for other in (ALS(3, 1e12, weighting, dtype=dtype), LassoMF(3, 1e12, weighting, dtype=dtype)):
        assert np.abs(fitted(other, small)[0].factors.user).max() < 1e-9  # zero, or nothing to speak of


class Spoiled:
    """An executor whose rows are not finite from some half-step on."""

    def __init__(self, where, side, row, after):
        self.where, self.side, self.row, self.after = where, side, row, after

    def half_step(self, model, side, own, other, evaluate=False):
        step = self.where.half_step(model, side, own, other, evaluate)
        if side == self.side and not evaluate:
            self.after -= 1
            if self.after == 0:
                step.squared_error[self.row] = np.nan
        return step


@pytest.mark.parametrize(("side", "row"), [("user", 7), ("item", 3)])
def test_a_value_that_is_not_finite_stops_the_fit_there_and_is_named(small, side, row):
    model = ALS(3, tol=0)
    spoiled = Spoiled(InProcess(small, model.storage, 2), side, row, 4)
    ids = small.users if side == "user" else small.items
    with pytest.raises(
        NumericError, match=f"^{side} '{ids[row]}': a value that is not finite in iteration 4;"
    ):
        fit(model, small, spoiled)


@pytest.mark.parametrize("model", ["als", "biased-als", "lasso-mf", "user-mean"])
def test_ratings_too_large_to_square_are_exit_4(tmp_path, capsys, model):
    source = write(
        tmp_path / "r.csv", "user,item,rating\n" + "".join(f"{n % 5},{n % 7},1e300\n" for n in range(35))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, at the cast to float32
        code = main(
            ["train", source, "--model", model, "--cluster", "serial", "--store", str(tmp_path / "s")]
        )
    assert code == 4
    said = capsys.readouterr().err
    assert "a value that is not finite" in said
    assert "Traceback" not in said
    assert not list(tmp_path.glob("s/[a-z]*"))


def test_not_converged_is_in_the_result_and_in_its_warnings(small):
    result, _ = fitted(ALS(3, max_iter=2, tol=0), small)
    assert not result.converged
    assert any("not converged after 2 iterations" in text for text in result.warnings)
    result, _ = fitted(ALS(3, max_iter=500, tol=1e-2), small)
    assert result.converged
    assert not [text for text in result.warnings if "converged" in text]


def test_no_iterations_leave_the_starting_model(small):
    model = ALS(3, max_iter=0)
    result, _ = fitted(model, small)
    for mine, theirs in zip(result.factors, starting_factors(model, small), strict=True):
        assert_array_equal(mine, theirs)
    assert result.n_iter == 0
    assert not result.converged


def test_residuals_that_sum_to_zero_do_not_hide_the_largest_useful_penalty():
    """Their sums over rows and columns are zero, so that a start of ones would see nothing."""
    rng = np.random.default_rng(0)
    users, items = np.divmod(np.arange(48), 6)
    ratings = ratings_of(users, items, rng.integers(1, 6, 48))
    matrix = ratings.rating.reshape(8, 6)
    rest = matrix - matrix.mean(axis=1, keepdims=True) - matrix.mean(axis=0) + matrix.mean()
    found = BiasedALS(weighting="uniform").largest_useful_regularization(
        ratings.user, ratings.item, ratings.rating
    )
    assert found == pytest.approx(np.linalg.norm(rest, 2) / 48, rel=1e-9)


def test_ratings_that_biases_explain_wholly_are_said_to_leave_nothing():
    ratings = ratings_of(*SHAPES["constant ratings"])
    said = BiasedALS(2, 0.05).collapse(ratings.user, ratings.item, ratings.rating, None)
    assert said == "these ratings leave nothing for them to explain"
