"""Synthetic ratings: deterministic, long-tailed, learnable; and the shipped sample is one of them."""

import gzip
import re
from pathlib import Path

import numpy as np
import pytest

from mfpipe.errors import ParameterError
from mfpipe.ratings import ingest
from mfpipe.synth import Synthetic

DATA = Path(__file__).parents[1] / "data"


def test_the_same_parameters_give_the_same_bytes(tmp_path):
    for name in ("a.csv.gz", "b.csv.gz"):
        Synthetic(50, 40, 600, 3).write(tmp_path / name)
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()


def test_ratings_are_what_was_asked_for(tmp_path):
    Synthetic(300, 200, 5000, 1).write(tmp_path / "train.csv", tmp_path / "test.csv", 0.2)
    train, first = ingest([tmp_path / "train.csv"])
    test, second = ingest([tmp_path / "test.csv"])
    assert (first.rows, second.rows) == (4000, 1000)
    assert first.duplicates == second.duplicates == 0
    assert set(train.rating) == {1, 2, 3, 4, 5}
    assert test.time.min() >= train.time.max()
    counts = np.sort(np.bincount(train.item))[::-1]
    assert counts[: len(counts) // 10].sum() > 0.25 * len(train)


@pytest.mark.parametrize(
    ("values", "flag"),
    [
        ((0, 1, 1, 0), "--users"),
        ((1, 0, 1, 0), "--items"),
        ((5, 5, 13, 0), "--ratings"),
        ((5, 5, 5, -1), "--seed"),
    ],
)
def test_impossible_requests_are_refused_by_name(values, flag):
    with pytest.raises(ParameterError, match=flag):
        Synthetic(*values)


def test_the_shipped_sample_is_what_its_command_makes(tmp_path):
    command = re.search(r"mfpipe (synth --users .*)", (DATA / "README.md").read_text())[1]
    from mfpipe.cli import main

    text = command.replace("data/", f"{tmp_path}/")
    assert main(text.split()) == 0
    for name in ("train.csv.gz", "test.csv.gz"):
        shipped, made = (gzip.decompress((folder / name).read_bytes()) for folder in (DATA, tmp_path))
        assert shipped == made
    assert sum((DATA / name).stat().st_size for name in ("train.csv.gz", "test.csv.gz")) < 1_000_000
