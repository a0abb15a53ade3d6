"""What the machine can do, and what an iteration asks of it."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import scipy.linalg.blas
from threadpoolctl import threadpool_info, threadpool_limits

from benchmarks.data import Triples
from benchmarks.measure import three
from mfpipe.executors import available_cores
from mfpipe.kernels import kernel

PANEL_ROWS = 128  # ratings of a typical row, as the rank-K update gets them
GEMM = 2048
TRIAD = 1 << 25  # numbers of 4 bytes: 128 MiB an array, far beyond any cache


def described() -> dict:
    """The machine in words."""
    return {
        "cpu": _cpu(),
        "cores": available_cores(),
        "memory": psutil.virtual_memory().total,
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": [
            {key: found.get(key) for key in ("internal_api", "version", "architecture")}
            for found in threadpool_info()
            if found["user_api"] == "blas"
        ],
        "load_before": list(os.getloadavg()),
    }


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def measured(ranks: list[int], repeats: int, quick: bool) -> dict:
    """Rates that bound a solver here: sgemm, ssyrk on short panels, spotrf and a memory triad.

    Returns
    -------
    dict
        `sgemm` in FLOP/s and `triad` in bytes/s by number of threads; `ssyrk` in FLOP/s and `spotrf` in
        seconds of one thread by rank. Each is a median with its smallest and largest.
    """
    cores = available_cores()
    size, numbers = (GEMM // 2, TRIAD // 8) if quick else (GEMM, TRIAD)
    return {
        "sgemm": {n: three([_sgemm(size, n) for _ in range(repeats)]) for n in range(1, cores + 1)},
        "triad": {n: three([_triad(numbers, n) for _ in range(repeats)]) for n in range(1, cores + 1)},
        "ssyrk": {rank: three([_ssyrk(rank) for _ in range(repeats)]) for rank in ranks},
        "spotrf": {rank: three([_spotrf(rank) for _ in range(repeats)]) for rank in ranks},
        "sizes": {"sgemm": size, "triad": 4 * numbers, "ssyrk": PANEL_ROWS},
    }


def _seconds(work: Callable[[], object], least: float = 0.2) -> float:
    """Seconds one call takes, of as many as fill a fifth of a second."""
    work()
    count, began = 0, time.perf_counter()
    while (taken := time.perf_counter() - began) < least:
        work()
        count += 1
    return taken / count


def _sgemm(size: int, threads: int) -> float:
    left = np.random.default_rng(0).random((size, size), np.float32)
    out = np.empty_like(left)
    with threadpool_limits(threads, "blas"):
        return 2 * size**3 / _seconds(lambda: np.matmul(left, left, out=out))


def _ssyrk(rank: int) -> float:
    panel = np.asfortranarray(np.random.default_rng(0).random((rank, PANEL_ROWS), np.float32))
    gram = np.zeros((rank, rank), np.float32, order="F")
    with threadpool_limits(1, "blas"):
        seconds = _seconds(lambda: scipy.linalg.blas.ssyrk(1.0, panel, 1.0, gram, overwrite_c=1))
    return PANEL_ROWS * rank * (rank + 1) / seconds


def _spotrf(rank: int) -> float:
    panel = np.random.default_rng(0).random((2 * rank, rank), np.float32)
    gram = np.asfortranarray(panel.T @ panel + rank * np.eye(rank, dtype=np.float32))
    with threadpool_limits(1, "blas"):
        return _seconds(lambda: scipy.linalg.lapack.spotrf(gram, clean=0))


@kernel
def _add_scaled(out, left, right, factor):
    for n in range(len(out)):
        out[n] = left[n] + factor * right[n]


def _triad(numbers: int, threads: int) -> float:
    arrays = np.ones((3, threads, numbers // threads), np.float32)
    factor = np.float32(0.5)
    with ThreadPoolExecutor(threads) as pool:
        return arrays.nbytes / _seconds(
            lambda: list(pool.map(_add_scaled, arrays[0], arrays[1], arrays[2], [factor] * threads))
        )


def arithmetic(triples: Triples, rank: int) -> dict:
    """Floating-point operations of an exact ALS iteration without biases.

    A row of n ratings needs n K² for its Gram matrix (half of it, being symmetric, at two operations an
    entry) and K³/3 to factorise it; in the dual form n² K and n³/3. Smaller terms are left out.

    Returns
    -------
    dict
        `primal` with every row in its factors, `least` with rows shorter than the rank in their ratings,
        and `bytes`, those of the factor rows gathered.
    """
    primal = least = 0.0
    for rows, size in zip((triples.user, triples.item), triples.shape, strict=True):
        n = np.bincount(rows, minlength=size).astype(float)
        n = n[n > 0]
        whole = n * rank**2 + rank**3 / 3
        primal += whole.sum()
        least += np.where(n < rank, n**2 * rank + n**3 / 3, whole).sum()
    return {"primal": primal, "least": least, "bytes": 2.0 * len(triples.user) * rank * 4}
