"""Rows that take steps of conjugate gradients: against the oracle, and against exact rows."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mfpipe.errors import ParameterError
from mfpipe.executors import executor
from mfpipe.fit import fit, starting_factors
from mfpipe.fitted import FittedModel
from mfpipe.folding import fold_in_rows
from mfpipe.kernels import conjugate
from mfpipe.models import ALS, BiasedALS
from mfpipe.models.base import Totals
from tests import oracle
from tests.make import block_from
from tests.test_tiles import RANKS, TOTALS

TOLERANCE = {"float64": 1e-9, "float32": 1e-3}


def some_row(n, rank, dtype, biased, others=400):
    """A row of n ratings, the other side, and where the row is."""
    rng = np.random.default_rng(1000 * n + rank)
    other, own = ((rng.normal(size=(size, rank + biased)) / rank**0.25).astype(dtype) for size in (others, 1))
    chosen = rng.choice(others, n, False)
    return block_from([[(int(c), float(rng.integers(1, 6))) for c in chosen]], dtype), other, own


def assert_steps_of_the_oracle(model, block, other, own):
    update = model.update("user", block, own, other, TOTALS)
    x, y = other[block.columns].astype(float), block.values.astype(float)
    if model.biased:
        y = y - TOTALS.mean - x[:, 0]
    penalty, bias_penalty = (each[0] for each in model.penalties(block, TOTALS))
    expected = oracle.stepped_row(x, y, own[0].astype(float), penalty, bias_penalty, model)
    tolerance = TOLERANCE[model.dtype]
    scale = np.abs(expected).max()
    assert_allclose(update.rows[0], expected, rtol=tolerance, atol=tolerance * scale)
    evaluated = model.evaluate("user", block, update.rows, other, TOTALS)
    rounding = tolerance * 1e-3 * float(block.values @ block.values)
    assert_allclose(update.squared_error, evaluated.squared_error, rtol=tolerance, atol=rounding)
    assert_array_equal(update.penalty, evaluated.penalty)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rank", RANKS)
def test_steps_are_the_oracles_at_every_rank_and_length(rank, dtype, biased):
    steps = min(rank, 2)  # where more are left than it takes, only rounding tells them apart
    options = {"solver": "cg", "cg_steps": steps, "dtype": dtype}
    model = BiasedALS(rank, 0.1, bias_regularization=0.02, **options) if biased else ALS(rank, 0.1, **options)
    for n in (7, 8, 9, 63, 64, 65, 200):
        assert_steps_of_the_oracle(model, *some_row(n, rank, dtype, biased))


@pytest.mark.parametrize("block_order", ["joint", "separate"])
@pytest.mark.parametrize("bias_regularization", [0.0, 0.02])
def test_a_bias_is_the_best_there_is(bias_regularization, block_order):
    model = BiasedALS(
        5, 0.1, solver="cg", cg_steps=2, dtype="float64",
        bias_regularization=bias_regularization, block_order=block_order,
    )  # fmt: skip
    for n in (3, 30):
        assert_steps_of_the_oracle(model, *some_row(n, 5, "float64", True))


def test_a_row_that_does_not_fit_the_panel_is_gathered_at_every_step():
    rank = 130
    longest = conjugate.KEPT // (136 * 8)
    model = ALS(rank, 0.1, solver="cg", dtype="float64")
    assert_steps_of_the_oracle(model, *some_row(longest + 100, rank, "float64", False, others=longest + 200))


@pytest.mark.parametrize("model", [ALS(6, 0.1, dtype="float64"), BiasedALS(6, 0.1, dtype="float64")])
def test_as_many_steps_as_factors_solve_the_system(model):
    block, other, own = some_row(40, 6, "float64", int(model.biased))
    stepped = dataclasses.replace(model, solver="cg", cg_steps=6).update("user", block, own, other, TOTALS)
    exact = model.update("user", block, own, other, TOTALS)
    assert_allclose(stepped.rows, exact.rows, rtol=1e-7)
    assert_allclose(stepped.squared_error, exact.squared_error, rtol=1e-9)


def test_every_step_lowers_the_objective():
    block, other, own = some_row(50, 8, "float32", 0)
    updates = [
        ALS(8, 0.1, solver="cg", cg_steps=steps).update("user", block, own, other, TOTALS)
        for steps in range(1, 9)
    ]
    objectives = [float(each.squared_error[0] + each.penalty[0]) for each in updates]
    assert all(after < before for before, after in pairwise(objectives[:6]))
    assert_allclose(objectives[-1], objectives[-2], rtol=1e-3)


def test_a_row_at_its_optimum_stays_there():
    block, other, own = some_row(50, 8, "float64", 0)
    exact = ALS(8, 0.1, dtype="float64").update("user", block, own, other, TOTALS).rows
    stepped = ALS(8, 0.1, dtype="float64", solver="cg").update("user", block, exact, other, TOTALS).rows
    assert_allclose(stepped, exact, rtol=1e-12)


@pytest.mark.parametrize("model", [ALS(4, 0.05), BiasedALS(4, 0.05)], ids=lambda model: model.name)
def test_a_fit_ends_where_exact_rows_no_longer_help(small, model):
    exact = dataclasses.replace(model, dtype="float64", max_iter=3000, tol=1e-10)
    with executor(small, exact.storage, "serial") as where:
        end = fit(dataclasses.replace(exact, solver="cg"), small, where)
        again = fit(dataclasses.replace(exact, max_iter=1), small, where, end.factors)
    assert end.converged
    assert 0 <= end.objective - again.objective < 1e-8


@pytest.mark.parametrize(
    "model",
    [
        ALS(4, 0.05, accelerate=True),
        BiasedALS(4, 0.05, block_order="separate", bias_regularization=0.02),
        BiasedALS(4, 1e-3, "uniform", cg_steps=1),
    ],
    ids=["accelerated", "separate", "one step"],
)
def test_its_trajectory_is_the_oracles(small, model):
    model = dataclasses.replace(model, solver="cg", dtype="float64", max_iter=6, tol=0)
    start = starting_factors(model, small)
    *_, trajectory = oracle.alternate(small.user, small.item, small.rating, *start, model, model.max_iter)
    with executor(small, model.storage, "serial", partitions=3) as where:
        assert_allclose(fit(model, small, where).objectives, trajectory, rtol=1e-9)


@pytest.mark.parametrize("cls", [ALS, BiasedALS])
def test_new_rows_are_folded_in_exactly(small, cls):
    exact = cls(4, 0.05, max_iter=2)
    model = dataclasses.replace(exact, solver="cg")
    with executor(small, model.storage, "serial") as where:
        fitted = FittedModel.of(fit(model, small, where), small)
    mine, others = np.zeros(3, np.int64), np.arange(3, dtype=np.int32)
    rating = np.array([1.0, 5.0, 3.0])
    folded = fold_in_rows(fitted, small.users.texts[:1], mine, others, rating)
    start = starting_factors(exact, small).user[:1]
    update = exact.update("user", folded.block, start, fitted.factors.item, Totals(len(small), small.mean))
    assert_array_equal(folded.rows, update.rows)


def test_it_is_not_for_rows_with_a_sign():
    with pytest.raises(ParameterError, match="--solver cg: not with --nonnegative"):
        ALS(solver="cg", nonnegative=True)
