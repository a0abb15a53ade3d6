"""The vector tiles: every rank and row length around their sizes, on this processor and on others."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mfpipe.kernels.registers import shape_of, tile_shape, vector_bytes
from mfpipe.models import ALS, BiasedALS, LassoMF
from mfpipe.models.base import Block, Totals
from tests import oracle
from tests.make import block_from

ROOT = Path(__file__).parents[1]
TOTALS = Totals(2000, 3.1)


def one_row(n, rank, dtype, biased):
    """A row of n ratings, the other side, and the exact solution of the row's ridge problem."""
    rng = np.random.default_rng(1000 * n + rank)
    other = (rng.normal(size=(400, rank + biased)) / rank**0.25).astype(dtype)
    block = block_from([[(int(c), float(rng.integers(1, 6))) for c in rng.choice(400, n, False)]], dtype)
    x, y = other[block.columns].astype(float), block.values.astype(float)
    s = 0.1 * n
    if not biased:
        return block, other, oracle.quadratic_row(x, y, np.full(rank, s))
    y = y - TOTALS.mean - x[:, 0]
    x[:, 0] = 1
    return block, other, oracle.quadratic_row(x, y, np.concatenate(([0.02 * n], np.full(rank, s))))


RANKS = [1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 130]


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rank", RANKS)
def test_rows_are_exact_at_every_rank_and_length(rank, dtype, biased):
    model = BiasedALS(rank, 0.1, bias_regularization=0.02) if biased else ALS(rank, 0.1)
    for n in sorted({1, 2, 8, rank - 1, rank, rank + 1, 63, 64, 65, 200} - {0}):
        block, other, expected = one_row(n, rank, dtype, biased)
        update = model.update("user", block, other[:0], other, TOTALS)
        tolerance = 1e-9 if dtype == "float64" else 2e-4
        assert_allclose(update.rows[0], expected, rtol=tolerance, atol=tolerance, err_msg=f"{n} ratings")
        evaluated = model.evaluate("user", block, update.rows, other, TOTALS)
        scale = float(block.values @ block.values)
        error = tolerance * 1e-3 * scale
        assert_allclose(update.squared_error, evaluated.squared_error, rtol=tolerance, atol=error)
        assert_array_equal(update.penalty, evaluated.penalty)


def ratings_of(n):
    """A row of n ratings of 90 others."""
    rng = np.random.default_rng(n)
    return [(int(c), float(rng.integers(1, 6))) for c in sorted(rng.choice(90, n, False))]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("model", [ALS, BiasedALS])
@pytest.mark.parametrize("rank", [1, 5, 8, 16, 17])
def test_a_row_is_the_same_in_any_company(rank, model, dtype):
    model = model(rank, 0.1)
    rng = np.random.default_rng(rank)
    other = rng.normal(size=(90, len(model.columns()))).astype(dtype)
    rows = [ratings_of(n) for n in (3, 40, 1, 90, 17, 16, 0, *range(5, 60))]
    together = model.update("user", block_from(rows, dtype), np.empty_like(other), other, TOTALS)
    for u, row in enumerate(rows):
        alone = model.update("user", block_from([row], dtype), np.empty_like(other), other, TOTALS)
        for mine, theirs in zip(together[:3], alone[:3], strict=True):
            assert_array_equal(mine[u], theirs[0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_singular_row_spoils_none_that_is_solved_with_it(dtype):
    other = np.random.default_rng(1).normal(size=(90, 5)).astype(dtype)
    other[:10] = other[0]
    rows = [ratings_of(n) for n in range(20, 40)]
    without = ALS(5, 0.0).update("user", block_from(rows, dtype), other[:0], other, TOTALS)
    rows[7] = [(c, 3.0) for c in range(10)]
    update = ALS(5, 0.0).update("user", block_from(rows, dtype), other[:0], other, TOTALS)
    others = np.arange(len(rows)) != 7
    assert_array_equal(update.rows[others], without.rows[others])
    x = other[:10].astype(float)
    tolerance = 1e-9 if dtype == "float64" else 1e-5
    assert_allclose(update.rows[7], np.linalg.pinv(x) @ np.full(10, 3.0), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "model",
    [ALS(7), BiasedALS(7), LassoMF(7, l1_ratio=0.4), ALS(7, nonnegative=True), BiasedALS(7, solver="cg")],
    ids=lambda m: m.name,
)
def test_where_arrays_lie_in_memory_changes_nothing(model, dtype):
    rng = np.random.default_rng(0)
    sizes = [1, 2, 5, 9, 30, 70]
    block = block_from(
        [[(int(c), float(rng.integers(1, 6))) for c in rng.choice(90, n, False)] for n in sizes], dtype
    )
    width = len(model.columns())
    other, own = (rng.normal(size=(n, width)).astype(dtype) for n in (90, len(sizes)))
    first = model.update("user", block, own, other, TOTALS)
    for _ in range(60):
        junk = [np.empty(int(size)) for size in rng.integers(1, 300, 40)]
        moved = Block(0, *(array.copy() for array in block[1:]))
        del junk[::2]  # leaves gaps for the arrays of the update
        again = model.update("user", moved, own.copy(), other.copy(), TOTALS)
        for mine, theirs in zip(again, first, strict=True):
            assert_array_equal(mine, theirs)


def test_tiles_fill_eight_registers():
    assert vector_bytes("+sse2,+avx,+avx2,+avx512f") == 64
    assert vector_bytes("+avx,+avx2,-avx512f") == 32
    assert vector_bytes("") == 16
    shapes = {
        (4, 64): (8, 16),
        (8, 64): (8, 8),
        (4, 32): (8, 8),
        (8, 32): (4, 8),
        (4, 16): (4, 8),
        (8, 16): (4, 4),
    }
    for (itemsize, register), shape in shapes.items():
        assert tile_shape(itemsize, register) == shape
        assert shape[0] * shape[1] * itemsize == 8 * register
    assert shape_of("float64")[1] <= shape_of("float32")[1]


OTHERS = {"generic": {"NUMBA_CPU_NAME": "generic"}}
if platform.machine() == "x86_64":
    OTHERS["avx2"] = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+sse4.2,+avx,+avx2,+fma,+bmi,+bmi2"}

ONE_OF = {"generic": "float32 and True", "avx2": "float64 and False"}


def run_on(processor, chosen, cache):
    """The number of tests of rows that pass when compiled for a processor; `chosen` are their names."""
    environment = os.environ | OTHERS[processor] | {"NUMBA_CACHE_DIR": str(cache)}
    files = [str(ROOT / "tests" / name) for name in ("test_tiles.py", "test_conjugate.py")]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--no-cov", *files]
    names = f"at_every_rank_and_length and ({chosen})"
    run = subprocess.run([*command, "-k", names], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:]
    return int(re.search(r"(\d+) passed", run.stdout)[1])


@pytest.mark.parametrize("processor", OTHERS)
def test_rows_are_right_with_the_tiles_of_another_processor(processor, tmp_path):
    """One type and one model each: compiling is what takes the time."""
    assert run_on(processor, ONE_OF[processor], tmp_path) == 2 * len(RANKS)


@pytest.mark.slow
@pytest.mark.parametrize("processor", OTHERS)
def test_all_rows_are_right_with_the_tiles_of_another_processor(processor, tmp_path):
    assert run_on(processor, "float32 or float64", tmp_path) == 2 * 2 * 2 * len(RANKS)


def test_a_cache_that_cannot_be_written_is_said_and_done_without(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    code = (
        "import numpy as np; from mfpipe.models.factors import normal_start; "
        "print(normal_start(0, 'user', np.ones(1, np.uint64), 1, np.dtype('f8')).shape)"
    )
    environment = os.environ | {"NUMBA_CACHE_DIR": str(blocked)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.stdout.strip() == "(1, 1)"
    assert "NUMBA_CACHE_DIR" in run.stderr
