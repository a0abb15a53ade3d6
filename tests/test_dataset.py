"""Ingested datasets: read back as they were, made once, never half replaced."""

import json

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from mfpipe import dataset
from mfpipe.errors import RatingsError, StoreError
from mfpipe.ratings import Rules, ingest
from tests.make import write

TEXT = "user_id,item_id,rating,date\n" + "".join(
    f"{n % 13},i{n % 17},{1 + n % 5},2020-01-{1 + n % 28:02d}\n" for n in range(150)
)


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "r.csv", TEXT)


def test_a_dataset_is_the_ratings_it_was_made_from(source, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "RATINGS_A_PART", 40)
    out = tmp_path / "out"
    report, made = dataset.ingest_to([source], out)
    assert made
    ratings, again = dataset.read(out)
    direct, _ = ingest([source])
    assert ratings.fingerprint() == direct.fingerprint() == report["sha256"] == again["sha256"]
    for name in ("user", "item", "rating", "time"):
        assert_array_equal(getattr(ratings, name), getattr(direct, name))
    parts = sorted(path.name for path in out.glob("content-*/ratings-*.parquet"))
    assert len(parts) == -(-len(direct) // 40)
    assert dataset.is_dataset([out])
    assert not dataset.is_dataset([source])


def test_an_unchanged_input_is_not_ingested_twice(source, tmp_path):
    out = tmp_path / "out"
    first, _ = dataset.ingest_to([source], out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    second, made = dataset.ingest_to([source], out)
    assert not made
    assert second == first
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert dataset.ingest_to([source], out, Rules(duplicates="mean"))[1]
    write(tmp_path / "r.csv", TEXT + "99,i1,5,2020-01-01\n")
    changed, made = dataset.ingest_to([source], out, Rules(duplicates="mean"))
    assert made
    assert changed["users"] == first["users"] + 1
    assert len(list(out.glob("content-*"))) == 1


def test_a_refused_input_leaves_the_dataset_as_it_was(source, tmp_path):
    out = tmp_path / "out"
    dataset.ingest_to([source], out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    write(tmp_path / "r.csv", TEXT + "1,i1,bad,\n" * 10)
    with pytest.raises(RatingsError, match="10 of 160 lines"):
        dataset.ingest_to([source], out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert "bad" in (tmp_path / "out-quarantine.csv").read_text()


def test_something_else_is_never_overwritten(source, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    write(out / "thesis.txt", "years of work")
    with pytest.raises(StoreError, match="not empty and not a dataset"):
        dataset.ingest_to([source], out)
    assert (out / "thesis.txt").read_text() == "years of work"


def test_damage_is_seen_and_mended_by_ingesting_again(source, tmp_path):
    out = tmp_path / "out"
    dataset.ingest_to([source], out)
    (part,) = out.glob("content-*/ratings-*.parquet")
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 4
    part.write_bytes(data)
    with pytest.raises(StoreError, match="ratings-00000.parquet: missing or damaged; ingest again"):
        dataset.read(out)
    assert dataset.ingest_to([source], out)[1]
    assert dataset.read(out)[0].fingerprint() == ingest([source])[0].fingerprint()


def test_a_damaged_manifest_is_named(source, tmp_path):
    out = tmp_path / "out"
    dataset.ingest_to([source], out)
    manifest = out / "dataset.json"
    text = manifest.read_text()
    for broken in ("", "{}", text[: len(text) // 2], json.dumps(json.loads(text) | {"format": 9})):
        manifest.write_text(broken)
        with pytest.raises(StoreError, match="dataset.json"):
            dataset.read(out)


def test_rows_of_a_subset_are_dense_again():
    ratings, _ = ingest_text("1,1,3\n2,1,4\n2,2,5\n")
    part = ratings.subset(np.array([False, False, True]))
    assert part.users.texts.to_pylist() == ["2"]
    assert part.items.texts.to_pylist() == ["2"]
    assert (part.user.tolist(), part.item.tolist(), part.rating.tolist()) == ([0], [0], [5.0])


def ingest_text(text):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        return ingest([write(Path(folder) / "r.csv", "user,item,rating\n" + text)])


def test_a_relative_directory_keeps_what_was_just_written(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from pathlib import Path

    for _ in range(2):
        dataset.ingest_to([source], Path("out"))
        assert dataset.read(Path("out"))[0].fingerprint() == ingest([source])[0].fingerprint()
