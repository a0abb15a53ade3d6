"""Calls that fail while the process lives on: what the store says is what is found afterwards."""

import shutil
from types import SimpleNamespace

import pytest

from mfpipe import files
from mfpipe.errors import MfpipeError, StoreError
from mfpipe.store import Store
from tests.faults import points
from tests.faults.faulty import Faults
from tests.faults.operations import OPERATIONS, fitted, publish, seed_of


def in_this_process(operation, work, mode, point):
    """Run an operation with a fault, as `points` does in a process of its own."""
    with pytest.MonkeyPatch.context() as patched:
        for name in ("os", "fcntl", "_EXCLUSIVE"):
            patched.setattr(files, name, getattr(files, name))
        faults = Faults(mode, point).install()
        try:
            operation.run(work)
        except MfpipeError as error:
            return points.REFUSED, str(error)
    return (points.DONE if faults.count >= point else points.NO_SUCH_POINT), ""


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("publish the next", "one I/O error"),
        ("publish the next", "broken disk"),
        ("rollback", "one I/O error"),
        ("remove", "one I/O error"),
    ],
)
def test_each_call_that_fails_is_an_error_that_says_what_became_of_the_store(
    tmp_path, monkeypatch, name, mode
):
    monkeypatch.setattr(points, "_interrupted", in_this_process)
    counts, wrong = points.enumerate_points(OPERATIONS[name], [mode], tmp_path / "work")
    assert wrong == []
    assert counts[mode] >= 10


@pytest.fixture
def store(tmp_path):
    publish(tmp_path, 1)
    return Store(tmp_path / "store")


def test_a_publication_in_place_of_another_than_was_judged_is_refused(tmp_path, store):
    publish(tmp_path, 2)
    with pytest.raises(StoreError, match="m: 2 has become current in place of 1; nothing was published"):
        publish(tmp_path, 3, replacing="1")
    with pytest.raises(StoreError, match="in place of none"):
        publish(tmp_path, 3, replacing=None)
    assert store.numbers("m") == ["1", "2"]
    assert publish(tmp_path, 3, replacing="2").number == "3"


def test_a_run_is_published_once_and_a_damaged_version_is_not_taken_for_it(store):
    about = {"data": {"global_mean": 1.0}, "seed": 7}
    first = store.publish("m", fitted(7), about | {"run": "r-1"}, {})
    store.publish("m", fitted(8), about | {"run": "r-2"}, {})
    assert (
        store.publish("m", fitted(7), about | {"run": "r-1"}, {}, make_current=False).number == first.number
    )
    (first.path / "manifest.json").write_text("{}")
    assert store.publish("m", fitted(7), about | {"run": "r-1"}, {}).number == "4"


def test_a_version_that_cannot_be_read_back_is_said_to_be_published(tmp_path, store, monkeypatch):
    point = Store._point

    def then_damage(self, home, number):
        point(self, home, number)
        (home / number / "manifest.json").write_text("{}")

    monkeypatch.setattr(Store, "_point", then_damage)
    with pytest.raises(StoreError, match="m@2 is published, but cannot be read back: .*manifest.json"):
        publish(tmp_path, 2)


def test_a_reader_whose_version_is_removed_under_its_feet_gets_the_new_one(tmp_path, store, monkeypatch):
    opening = Store._open

    def late(self, home, number, expected=None):
        if number == "1":  # `current` said so just now
            monkeypatch.setattr(Store, "_open", opening)
            publish(tmp_path, 2)
            store.remove("m", "1")
        return opening(self, home, number, expected)

    monkeypatch.setattr(Store, "_open", late)
    assert seed_of(store.version("m")) == 2


def test_a_version_replaced_while_it_is_opened_is_not_mixed_with_the_other(tmp_path, store, monkeypatch):
    reading = files.read

    def replaced(path):
        monkeypatch.setattr(files, "read", reading)
        shutil.move(path.parent, tmp_path / "away")
        shutil.copytree(tmp_path / "away", path.parent)
        return reading(path)

    monkeypatch.setattr(files, "read", replaced)
    with pytest.raises(StoreError, match="m@1: no such version"):
        store.version("m", "1")


def test_what_a_store_lacks_is_said(tmp_path, store):
    with pytest.raises(StoreError, match="no version before the current one"):
        store.rollback("m")
    with pytest.raises(StoreError, match="m@9: no such version"):
        store.remove("m", "9")
    with pytest.raises(StoreError, match=r"nothing.json: not a file of this version"):
        store.version("m").read("nothing.json")
    assert store.version("m").json("timings.json") == {"fit": 1.5}
    publish(tmp_path, 1, "aside", make_current=False)
    with pytest.raises(StoreError, match="aside: has no current version; name one as aside@VERSION"):
        store.version("aside")
    shutil.rmtree(store.path / "m" / "1")
    with pytest.raises(StoreError, match="m: has no versions"):
        store.rollback("m", "1")
    (store.path / "m" / "2").mkdir()
    with pytest.raises(StoreError, match=r"manifest.json: No such file .*; the version is damaged"):
        store.version("m", "2")


def test_a_model_that_is_not_known_here_is_named(store, monkeypatch):
    version = store.version("m")
    monkeypatch.setattr("mfpipe.version.MODELS", {})
    with pytest.raises(StoreError, match="model 'als' is not known to mfpipe"):
        version.load()


@pytest.mark.parametrize(("platform", "calls"), [("darwin", [(b"a", b"b", 4)]), ("other", None)])
def test_other_systems_have_their_own_exclusive_rename_or_none(monkeypatch, platform, calls):
    made = []
    libc = SimpleNamespace(renamex_np=lambda *arguments: made.append(arguments))
    monkeypatch.setattr(files, "sys", SimpleNamespace(platform=platform))
    monkeypatch.setattr(files, "ctypes", SimpleNamespace(CDLL=lambda *_, **__: libc))
    exclusive = files._exclusive_call()
    assert (exclusive is None) == (calls is None)
    if exclusive:
        exclusive(b"a", b"b")
        assert made == calls
