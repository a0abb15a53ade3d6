"""Damaged files are named; nothing damaged is read as if it were whole, and nothing else suffers."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_array_equal

from mfpipe import dataset
from mfpipe.cli import main
from mfpipe.errors import ParameterError, StoreError
from mfpipe.sealed import checksum
from mfpipe.store import Store, parse_name
from tests.faults.operations import ingest, publish, seed_of


@pytest.fixture
def store(tmp_path):
    publish(tmp_path, 1)
    publish(tmp_path, 2)
    return Store(tmp_path / "store")


def read_all(store):
    """All that a reader can get from the current version of `m`."""
    version = store.version("m")
    loaded = version.load()
    rest = [version.read(name) for name in version.manifest["files"]]
    return version.manifest, loaded, rest


def complaint(read):
    """What a reader is told, or None if it got what it asked for; anything but a StoreError is a failure."""
    try:
        read()
    except StoreError as error:
        return str(error)
    return None


def same(one, other):
    assert one[0] == other[0]
    assert one[2] == other[2]
    for mine, theirs in zip(one[1].factors, other[1].factors, strict=True):
        assert_array_equal(mine, theirs)


def test_200_flipped_bits_are_named_or_change_nothing(store):
    intact = read_all(store)
    paths = [*sorted(store.version("m").path.iterdir()), store.path / "m" / "current"]
    rng = np.random.default_rng(0)
    named = 0
    for turn in range(200):
        path = paths[turn % len(paths)]
        before = path.read_bytes()
        data = bytearray(before)
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        said = complaint(lambda: same(read_all(store), intact))
        assert said is None or path.name in said
        named += said is not None
        path.write_bytes(before)
    assert named > 190  # the others flipped the case of an exponent's e, or one white space to another
    same(read_all(store), intact)


@pytest.mark.parametrize("name", ["manifest.json", "current"])
def test_a_file_cut_at_any_byte_is_named(store, name):
    intact = read_all(store)
    path = store.path / "m" / ("current" if name == "current" else "2/manifest.json")
    text = path.read_bytes()
    for length in range(len(text)):
        path.write_bytes(text[:length])
        said = complaint(lambda: same(read_all(store), intact))
        if name == "current" and length == len(text) - 1:  # only the last line's end is missing
            assert said is None
        else:
            assert name in said
        if name == "manifest.json" and length < len(text) - 1:
            with pytest.raises(StoreError, match="manifest.json"):
                store.version("m", "2")
    assert seed_of(store.version("m", "1")) == 1


def test_a_dataset_cut_or_flipped_is_named_and_mended_by_the_next_ingest(tmp_path):
    ingest(tmp_path)
    out = tmp_path / "out"
    whole = dataset.read(out)[0].fingerprint()
    rng = np.random.default_rng(0)
    paths = sorted(path for path in out.rglob("*") if path.is_file() and path.name != ".lock")
    for turn in range(60):
        path = paths[turn % len(paths)]
        before = path.read_bytes()
        data = bytearray(before)
        at = int(rng.integers(len(data)))
        data[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(data if turn % 2 else before[:at])
        read = []
        said = complaint(lambda read=read: read.append(dataset.read(out)[0].fingerprint()))
        assert path.name in said if said else read == [whole]
        path.write_bytes(before)
    for path in paths:
        path = next(out.rglob(path.name))
        path.write_bytes(path.read_bytes()[:10])
        ingest(tmp_path)
        assert dataset.read(out)[0].fingerprint() == whole


def test_verify_names_every_damaged_file_and_the_other_versions_stay_usable(store, capsys):
    publish(store.path.parent, 3)
    for number, name in (("2", "user_factors.parquet"), ("2", "timings.json"), ("3", "item_factors.parquet")):
        path = store.path / "m" / number / name
        path.write_bytes(path.read_bytes()[:-1])
    assert main(["models", "verify", "m", "--store", str(store.path), "--json"]) == 5
    damage = json.loads(capsys.readouterr().out)["damage"]
    assert damage["1"] == []
    assert [line.split(":")[0].rsplit("/", 1)[1] for line in damage["2"]] == [
        "user_factors.parquet", "timings.json"
    ]  # fmt: skip
    assert [line.split(":")[0].rsplit("/", 1)[1] for line in damage["3"]] == ["item_factors.parquet"]
    assert seed_of(store.version("m", "1")) == 1
    with pytest.raises(StoreError, match="m/3/item_factors.parquet"):
        store.version("m").load()
    assert seed_of(publish(store.path.parent, 4)) == 4  # and nothing had to be repaired first
    assert store.version("m").number == "4"


def test_verify_sees_a_current_that_leads_nowhere(store, capsys):
    pointed = store.path / "m" / "current"
    pointed.write_text(json.dumps(json.loads(pointed.read_text()) | {"version": "9"}))
    assert main(["models", "verify", "m", "--store", str(store.path)]) == 5
    assert "m@9: no such version" in capsys.readouterr().out


def test_page_checksums_are_verified_beside_the_manifests(store):
    """A file damaged before it was summed: its sha256 is the manifest's, and the pages tell."""
    import hashlib

    version = store.version("m", "2")
    path = version.path / "user_factors.parquet"
    data = bytearray(path.read_bytes())
    ids = pq.ParquetFile(path).metadata.row_group(0).column(0)
    data[ids.data_page_offset + ids.total_compressed_size - 1] ^= 1  # the last byte of their one page
    path.write_bytes(data)
    rewrite(version, "user_factors.parquet", sha256=hashlib.sha256(data).hexdigest())
    with pytest.raises(StoreError, match="user_factors.parquet: not a Parquet file"):
        store.version("m", "2").load()
    (found,) = store.version("m", "2").damage()
    assert "user_factors.parquet" in found


def rewrite(version, file, name=None, **changes):
    """Change a manifest's entry for a file, and its checksum with it."""
    manifest = json.loads((version.path / "manifest.json").read_bytes())
    del manifest["checksum"]
    manifest["files"][file if name is None else name] = manifest["files"].pop(file) | changes
    text = json.dumps(manifest | {"checksum": checksum(manifest)})
    (version.path / "manifest.json").write_text(text)


@pytest.mark.parametrize(
    "outside", ["../1/user_factors.parquet", "/etc/hostname", "a/b", "..", ".hidden", ""]
)
def test_a_manifest_cannot_name_a_file_outside_its_version(store, outside):
    rewrite(store.version("m", "2"), "user_factors.parquet", outside)
    with pytest.raises(StoreError, match="lists a file outside its directory"):
        store.version("m", "2")


def test_links_are_not_followed_out_of_the_store(store, tmp_path):
    home = store.path / "m"
    path = home / "2" / "user_factors.parquet"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="user_factors.parquet"):
        store.version("m", "2").load()
    (home / "2").rename(tmp_path / "two")
    (home / "2").symlink_to(tmp_path / "two")
    with pytest.raises(StoreError, match="not a directory of the store"):
        store.version("m", "2")
    (store.path / "n").symlink_to(home)
    assert store.names() == ["m"]
    for use in (store.version, store.current, store.rollback, lambda name: publish(tmp_path, 1, name=name)):
        with pytest.raises(StoreError, match="is a link"):
            use("n")


def test_a_fifo_in_a_version_is_named_and_hangs_nothing(store):
    import os

    path = store.path / "m" / "2" / "user_factors.parquet"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(StoreError, match="user_factors.parquet: not a regular file"):
        store.version("m", "2").load()


def test_a_version_copied_under_another_number_or_name_is_refused(store):
    import shutil

    shutil.copytree(store.path / "m" / "1", store.path / "m" / "7")
    with pytest.raises(StoreError, match="is of m@1; versions are not copied"):
        store.version("m", "7")


@pytest.mark.parametrize("name", ["quarantine", "reports"])
def test_a_model_cannot_take_the_name_of_a_directory_of_the_store(name):
    with pytest.raises(ParameterError, match="a directory of its own"):
        parse_name(name)


def test_a_model_of_a_later_mfpipe_is_refused_with_words(store):
    version = store.version("m", "2")
    manifest = json.loads((version.path / "manifest.json").read_bytes())
    del manifest["checksum"]
    manifest["params"]["depth"] = 3
    (version.path / "manifest.json").write_text(json.dumps(manifest | {"checksum": checksum(manifest)}))
    with pytest.raises(StoreError, match="not a als that mfpipe .* reads .*depth"):
        store.version("m", "2").load()
