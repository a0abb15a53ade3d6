"""How files get to the disk: in which order they are flushed, with which rights, over what."""

import ast
import os
import shutil
import stat
from pathlib import Path

import pytest

from mfpipe import files
from mfpipe.errors import StoreError
from mfpipe.store import Store
from tests.faults.faulty import Faults
from tests.faults.operations import ingest, publish, seed_of

ROOT = Path(__file__).parents[2] / "mfpipe"
STORES = ("store", "version", "sealed", "dataset", "runs", "orders")


@pytest.mark.parametrize("kind", ["empty directory", "full directory", "file", "dangling link"])
@pytest.mark.parametrize("supported", [True, False])
def test_a_rename_never_lands_on_what_is_there(tmp_path, monkeypatch, kind, supported):
    if not supported:
        monkeypatch.setattr(files, "_EXCLUSIVE", None)
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (source / "file").write_text("mine")
    if kind.endswith("directory"):
        target.mkdir()
    if kind == "full directory":
        (target / "file").write_text("theirs")
    if kind == "file":
        target.write_text("theirs")
    if kind == "dangling link":
        target.symlink_to("nowhere")
    with pytest.raises(FileExistsError):
        files.rename_new(source, target)
    assert (source / "file").read_text() == "mine"
    files.remove(target)
    files.rename_new(source, target)
    assert (target / "file").read_text() == "mine"


def test_this_system_can_rename_without_replacing():
    assert files._EXCLUSIVE is not None


def test_a_file_system_that_cannot_is_given_the_other_way(tmp_path, monkeypatch):
    def refuse(source, target):
        files.ctypes.set_errno(22)
        return -1

    monkeypatch.setattr(files, "_EXCLUSIVE", refuse)
    (tmp_path / "a").mkdir()
    files.rename_new(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").is_dir()


class Recorded(Faults):
    """No fault; the paths of what was written, flushed and renamed, in order."""

    def __init__(self):
        super().__init__("none", 0)
        self.events = []
        self._open = {}

    def at(self, name, call, *arguments, **options):
        done = call(*arguments, **options)
        if name == "open":
            self._open[done] = Path(os.fsdecode(arguments[0]))
        elif name in ("write", "fsync"):
            self.events.append((name, self._open[arguments[0]]))
        elif name in ("rename", "replace", "mkdir"):
            self.events.append(
                (name, *(Path(os.fsdecode(a)) for a in arguments[:2] if not isinstance(a, int)))
            )
        return done


@pytest.fixture
def recorded(monkeypatch):
    for name in ("os", "fcntl", "_EXCLUSIVE"):
        monkeypatch.setattr(files, name, getattr(files, name))
    return Recorded().install()


@pytest.mark.parametrize("operation", [lambda path: publish(path, 1), ingest], ids=["publish", "ingest"])
def test_everything_is_flushed_before_it_is_shown_and_the_showing_too(tmp_path, recorded, operation):
    operation(tmp_path)
    events = recorded.events
    shown = [n for n, event in enumerate(events) if event[0] in ("rename", "replace")]
    assert shown
    for at in shown:
        source, target = events[at][1:]
        inside = [e for e in events[:at] if source in (e[1], e[1].parent)]
        written = {path for name, path in (e[:2] for e in inside) if name == "write"}
        assert written
        for path in written:
            assert last(inside, "fsync", path) > last(inside, "write", path)
        if source.suffix != ".aside":  # a directory: its names are flushed after its last file
            assert last(inside, "fsync", source) > max(last(inside, "write", path) for path in written)
        assert ("fsync", target.parent) in events[at:]
    for at, event in enumerate(events):
        if event[0] == "mkdir":
            assert ("fsync", event[1].parent) in events[at:]
    contents = {e[1].parent for e in events if e[0] == "write" and e[1].parent.name.startswith("content-")}
    for content in contents:  # what `dataset.json` will name is flushed before it does
        assert last(events, "fsync", content) > max(n for n, e in enumerate(events) if e[0] == "write" and e[1].parent == content)  # fmt: skip
        assert last(events, "fsync", content) < shown[-1]


def last(events, name, path):
    return max(n for n, event in enumerate(events) if event[:2] == (name, path))


def test_files_and_directories_are_closed_to_others(tmp_path):
    before = os.umask(0)
    try:
        publish(tmp_path, 1)
        ingest(tmp_path)
    finally:
        os.umask(before)
    paths = [tmp_path / "store", *(tmp_path / "store").rglob("*"), *(tmp_path / "out").rglob("*")]
    assert len(paths) > 10
    for path in paths:
        wanted = 0o750 if path.is_dir() else 0o640
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def test_the_number_of_a_removed_version_is_never_given_again(tmp_path):
    store = Store(tmp_path / "store")
    for seed in (1, 2, 3):
        publish(tmp_path, seed)
    store.rollback("m", "1")
    store.remove("m", "3")
    store.remove("m", "2")
    assert publish(tmp_path, 4).number == "4"
    store.rollback("m", "1")
    store.remove("m", "4")
    assert publish(tmp_path, 5).number == "5"
    assert store.numbers("m") == ["1", "5"]


def test_a_reader_goes_on_with_its_version_after_it_was_removed(tmp_path):
    publish(tmp_path, 1)
    store = Store(tmp_path / "store")
    opened = store.version("m")
    publish(tmp_path, 2)
    store.remove("m", "1")
    assert seed_of(opened) == 1
    assert seed_of(store.version("m")) == 2
    with pytest.raises(StoreError, match="m@1: no such version"):
        store.version("m", "1")


def test_a_version_that_is_let_go_leaves_no_file_open(tmp_path):
    publish(tmp_path, 1)
    store = Store(tmp_path / "store")
    before = len(os.listdir("/dev/fd"))
    for _ in range(20):
        store.version("m").load()
    assert len(os.listdir("/dev/fd")) == before


def test_a_store_on_a_read_only_file_system_is_refused_before_training(tmp_path):
    with pytest.raises(StoreError, match="cannot be written"):
        Store("/proc/mfpipe-store").require_writable("m")
    (tmp_path / "store").mkdir()
    Store(tmp_path / "store").require_writable("m")
    assert list((tmp_path / "store").iterdir()) == []


WRITES = {"write_text", "write_bytes", "mkdir", "rename", "replace", "unlink", "rmdir", "rmtree", "touch",
          "symlink_to", "write_table", "fsync", "makedirs", "move", "copytree", "mkdtemp"}  # fmt: skip


@pytest.mark.parametrize("name", STORES)
def test_stores_write_through_one_module_alone(name):
    """What `Faults` does not see cannot be tried, so there must be none of it."""
    for node in ast.walk(ast.parse((ROOT / f"{name}.py").read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in WRITES:
            owner = ast.unparse(node.func.value)
            buffered = node.func.attr == "write_table" and ast.unparse(node.args[1]) == "buffer"
            text = node.func.attr == "replace" and owner not in ("os", "files", "path", "aside")
            assert owner == "files" or buffered or text, ast.unparse(node)


def test_what_another_removes_meanwhile_is_removed(tmp_path, monkeypatch):
    """As Dask does with the directory of a worker that has died."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "file").touch()
    listed = os.listdir

    def listed_and_removed(path):
        names = listed(path)
        shutil.rmtree(path)
        return names

    monkeypatch.setattr(files.os, "listdir", listed_and_removed)
    files.remove(tmp_path / "a")
    assert not (tmp_path / "a").exists()
