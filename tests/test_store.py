"""The model store: versions are complete, checked, and never half there."""

import json
import os
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_array_equal

from mfpipe.errors import ParameterError, StoreError
from mfpipe.executors import executor
from mfpipe.fit import fit
from mfpipe.fitted import FittedModel
from mfpipe.models import ALS
from mfpipe.sealed import encoded
from mfpipe.store import Store, parse_name


@pytest.fixture(scope="module")
def fitted(small):
    model = ALS(3, max_iter=2, tol=0)
    with executor(small, model.storage, "serial") as where:
        return FittedModel.of(fit(model, small, where), small)


def publish(store, fitted, name="m", **options):
    about = {"data": {"global_mean": fitted.baseline.global_mean}, "test_rmse": 1.0, "objective": 1.0}
    return store.publish(name, fitted, about, {"timings.json": {"fit": 1.5}}, **options)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def test_versions_count_up_and_the_last_is_current(store, fitted):
    for number in ("1", "2", "3"):
        assert publish(store, fitted).number == number
        assert store.current("m") == number
    assert publish(store, fitted, make_current=False).number == "4"
    assert store.current("m") == "3"
    assert store.version("m").number == "3"
    assert store.version("m", "4").number == "4"
    assert store.numbers("m") == ["1", "2", "3", "4"]


def test_rollback_goes_back_and_remove_spares_the_current(store, fitted):
    for _ in range(3):
        publish(store, fitted)
    assert store.rollback("m").number == "2"
    assert store.current("m") == "2"
    assert store.rollback("m", "3").number == "3"
    with pytest.raises(StoreError, match="m@3 is the current version"):
        store.remove("m", "3")
    store.remove("m", "1")
    assert store.numbers("m") == ["2", "3"]
    assert publish(store, fitted).number == "4"


@pytest.mark.parametrize("seed", range(30))
def test_no_flipped_bit_goes_unseen(store, fitted, seed):
    version = publish(store, fitted)
    rng = np.random.default_rng(seed)
    files = sorted(path for path in version.path.iterdir())
    path = files[seed % len(files)]
    data = bytearray(path.read_bytes())
    at = int(rng.integers(len(data)))
    data[at] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)
    try:
        found = "; ".join(store.version("m").damage())
    except StoreError as error:
        found = str(error)
    assert path.name in found


def test_damage_is_named_and_leaves_other_versions_usable(store, fitted):
    publish(store, fitted)
    second = publish(store, fitted)
    (second.path / "user_factors.parquet").unlink()
    assert [line for line in store.version("m").damage() if "user_factors.parquet" in line]
    with pytest.raises(StoreError, match="user_factors"):
        store.version("m").load()
    with pytest.raises(StoreError, match="stays out of use"):
        store.rollback("m", "2")
    store.rollback("m", "1")
    store.version("m").load()


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '{"version": "x"}', '{"version": 1', '{"version": "../x", "manifest_sha256": ""}'],
)
def test_a_damaged_current_is_an_error_that_says_what_to_do(store, fitted, text):
    version = publish(store, fitted)
    (version.path.parent / "current").write_text(text)
    with pytest.raises(StoreError, match="damaged .* mfpipe models rollback m@VERSION"):
        store.version("m")
    store.rollback("m", "1")
    assert store.version("m").number == "1"


def test_a_newer_format_is_refused(store, fitted):
    version = publish(store, fitted)
    path = version.path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(StoreError, match="format 99 is newer"):
        store.version("m", "1")


def test_what_is_missing_is_named_with_what_there_is(store, fitted):
    with pytest.raises(StoreError, match="no such model in .*models: none"):
        store.version("m")
    publish(store, fitted)
    with pytest.raises(StoreError, match="x: no such model in .*models: m"):
        store.version("x")
    with pytest.raises(StoreError, match="m@7: no such version in .*versions: 1"):
        store.version("m", "7")


def test_a_publisher_that_was_killed_leaves_nothing_behind(store, fitted):
    version = publish(store, fitted)
    left = version.path.parent / ".writing-2"
    left.mkdir()
    (left / "user_factors.parquet").write_bytes(b"half")
    assert store.numbers("m") == ["1"]
    assert publish(store, fitted).number == "2"
    assert not left.exists()


def test_publishers_take_turns(store, fitted):
    threads = [threading.Thread(target=publish, args=(store, fitted)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.numbers("m") == [str(k) for k in range(1, 9)]
    assert store.current("m") == "8"
    for number in store.numbers("m"):
        assert store.version("m", number).damage() == []


def test_a_failed_write_publishes_nothing(store, fitted, monkeypatch):
    publish(store, fitted)
    before = {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()}
    calls = {"left": 3}

    def full(descriptor):
        calls["left"] -= 1
        if calls["left"] == 0:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        StoreError, match=r"No space left on device\); free some space; nothing was published"
    ):
        publish(store, fitted)
    assert {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()} == before


def test_a_store_that_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        Store(tmp_path / "file" / "store").require_writable()


def test_files_are_plain_parquet_and_json(store, fitted):
    version = publish(store, fitted)
    names = {path.name for path in version.path.iterdir()}
    assert names == {"manifest.json", "user_factors.parquet", "item_factors.parquet", "timings.json"}
    table = pq.read_table(version.path / "user_factors.parquet")
    assert table.column_names == ["id", "n_ratings", "mean_rating", "factor_0", "factor_1", "factor_2"]
    assert_array_equal(table["factor_1"].to_numpy(), fitted.factors.user[:, 1])


@pytest.mark.parametrize(
    "text", ["../x", "/x", "", "a/b", ".", "..", "a\nb", "x" * 600, "a@", "a@0", "a@../b", "-x", "é", "a b"]
)
def test_names_cannot_leave_the_store(text):
    with pytest.raises(ParameterError, match="model name"):
        parse_name(text)


def test_names_and_versions_are_told_apart():
    assert parse_name("als") == ("als", None)
    assert parse_name("my.model-2_x@12") == ("my.model-2_x", "12")


def test_only_columns_that_repeat_get_a_dictionary():
    rng = np.random.default_rng(0)
    columns = {
        "id": [f"user {n}" for n in range(5000)],
        "factor": rng.normal(size=5000),
        "rating": rng.integers(1, 6, 5000).astype(np.float64),
        "item": rng.integers(0, 300, 5000, dtype=np.int32),
        "one": np.zeros(5000, np.float32),
    }
    table = pa.table(columns)
    data = encoded(table)
    file = pq.ParquetFile(pa.BufferReader(data))
    assert file.read().equals(table)
    chunks = [file.metadata.row_group(0).column(k) for k in range(len(columns))]
    repeating = {chunk.path_in_schema for chunk in chunks if "RLE_DICTIONARY" in chunk.encodings}
    assert repeating == {"rating", "item", "one"}
    assert encoded(data) is data
    assert encoded(pa.table({"none": pa.array([], pa.float64())}))
