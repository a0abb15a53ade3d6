"""Data and clusters that many tests share."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest

from mfpipe.ratings import Ratings, TestRatings, ingest, read_test
from tests.make import ratings_of

NETFLIX = Path(os.environ.get("MFPIPE_HOMEWORK") or Path(__file__).parents[2] / "shared" / "data" / "netflix")


@pytest.fixture(scope="session")
def netflix_files() -> tuple[str, str]:
    """The homework's train and test files."""
    files = NETFLIX / "train.csv", NETFLIX / "test.csv"
    if not all(path.is_file() for path in files):
        pytest.skip(f"the homework's files are not in {NETFLIX} (see data/README.md)")
    return str(files[0]), str(files[1])


@pytest.fixture(scope="session")
def netflix(netflix_files) -> tuple[Ratings, TestRatings]:
    return ingest([netflix_files[0]])[0], read_test([netflix_files[1]])[0]


@pytest.fixture(scope="session")
def small() -> Ratings:
    """300 ratings of 40 users and 30 items, long-tailed, some users with one rating."""
    rng = np.random.default_rng(5)
    pairs = np.unique((rng.zipf(1.4, 2000) % 40) * 30 + rng.integers(0, 30, 2000))
    pairs = rng.choice(pairs, 300, replace=False)
    return ratings_of(pairs // 30, pairs % 30, rng.integers(1, 6, 300))


@pytest.fixture
def log_is_seen(monkeypatch):
    """The command line keeps its log to itself once it has run in this process."""
    monkeypatch.setattr(logging.getLogger("mfpipe"), "propagate", True)


@pytest.fixture(scope="session")
def client():
    """A local cluster of two worker processes with one thread each."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", host="127.0.0.1"
        ) as local,
        Client(local) as made,
    ):
        yield made


@pytest.fixture(scope="session")
def prefect(tmp_path_factory):
    """What `make up` starts: one server, worker and Dask cluster for all tests of flows."""
    from tests.local_prefect import LocalPrefect

    local = LocalPrefect(tmp_path_factory.mktemp("prefect") / "checkout")
    try:
        up = local.local("up")
        assert up.returncode == 0, up.stdout + up.stderr
        yield local
    finally:
        local.local("down")
