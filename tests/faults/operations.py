"""The operations whose crash points are enumerated."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

import numpy as np

from mfpipe import dataset, runs
from mfpipe.decisions import history as nights_of
from mfpipe.errors import StoreError
from mfpipe.fit import Momentum, State, baseline_of
from mfpipe.fitted import FittedModel
from mfpipe.gate import GateRules
from mfpipe.job import Data, Place
from mfpipe.models import ALS
from mfpipe.models.base import Factors
from mfpipe.retraining import Request
from mfpipe.retraining import retrain as one_night
from mfpipe.store import Store
from tests.faults.points import Operation
from tests.make import ratings_of

logging.getLogger("mfpipe").setLevel(logging.ERROR)


@cache
def fitted(seed: int) -> FittedModel:
    """A model of 7 users and 5 items whose factors tell which fit it is."""
    ratings = ratings_of(np.arange(35) // 5, np.arange(35) % 5, np.arange(35) % 4 + 1)
    rng = np.random.default_rng(seed)
    factors = Factors(rng.normal(size=(7, 2)).astype("f4"), rng.normal(size=(5, 2)).astype("f4"))
    counts = np.bincount(ratings.user), np.bincount(ratings.item)
    return FittedModel(ALS(2), ratings.users, ratings.items, factors, baseline_of(ratings), *counts)


def publish(directory: Path, seed: int, name: str = "m", **options):
    """Publish the fit of that seed as the next version."""
    made = fitted(seed)
    about = {"data": {"global_mean": made.baseline.global_mean}, "seed": seed}
    return Store(directory / "store").publish(name, made, about, {"timings.json": {"fit": 1.5}}, **options)


def seed_of(version) -> int:
    """Which fit a version holds, once it is seen to be intact and loaded."""
    assert version.damage() == []
    seed = version.manifest["seed"]
    np.testing.assert_array_equal(version.load().factors.user, fitted(seed).factors.user)
    return seed


def stored(directory: Path) -> tuple:
    """Every version with the fit it holds, and the current one; nothing else is visible."""
    store = Store(directory / "store")
    if not store.numbers("m"):
        return ((), None)
    versions = tuple((number, seed_of(store.version("m", number))) for number in store.numbers("m"))
    current = store.current("m")
    if current is not None:
        assert store.version("m").number == current
    return (versions, current)


def publish_again(directory: Path) -> None:
    """The next publication: under a number of its own, current, and with nothing left lying about."""
    store = Store(directory / "store")
    before = store.numbers("m")
    version = publish(directory, 99)
    assert version.number not in before
    assert (store.current("m"), seed_of(store.version("m"))) == (version.number, 99)
    assert store.numbers("m") == [*before, version.number]
    stored(directory)
    left = {path.name for path in (directory / "store" / "m").iterdir()} - set(store.numbers("m"))
    assert {name for name in left if not name.startswith(".removed-")} == {".lock", "current"}, left
    assert not [name for path in (directory / "store" / "m").glob(".removed-*") for name in path.iterdir()]


def _three(directory: Path) -> None:
    for seed in (1, 2, 3):
        publish(directory, seed)


def _rolled_back(directory: Path) -> None:
    store = Store(directory / "store")
    store.rollback("m", "1")
    assert store.current("m") == "1"
    publish_again(directory)


def _removed(directory: Path) -> None:
    store = Store(directory / "store")
    if "3" in store.numbers("m"):
        store.remove("m", "3")
    publish_again(directory)
    assert store.numbers("m") == ["1", "2", "4"]  # 3 is never given to another


def _prepare_remove(directory: Path) -> None:
    _three(directory)
    Store(directory / "store").rollback("m", "2")


def _source(directory: Path, extra: int) -> str:
    path = directory / "ratings.csv"
    path.write_text(
        "user,item,rating\n" + "".join(f"{n % 7},{n % 5},{n % 4 + 1}\n" for n in range(20 + extra))
    )
    return str(path)


def ingest(directory: Path, extra: int = 0) -> None:
    dataset.ingest_to([_source(directory, extra)], directory / "out")


def ingested(directory: Path) -> str | None:
    """The fingerprint of what a reader of the dataset gets."""
    if not dataset.is_dataset([directory / "out"]):
        return None
    ratings, report = dataset.read(directory / "out")
    assert ratings.fingerprint() == report["sha256"]
    return report["sha256"]


def _ingest_again(directory: Path) -> None:
    ingest(directory, 9)
    assert ingested(directory) is not None
    assert len(list((directory / "out").glob("content-*"))) == 1
    assert not list((directory / "out").glob(".dataset*"))


def begin_run(directory: Path) -> None:
    """Begin a run and leave it, as an interrupted one is left."""
    order = {"name": "m", "model": "als", "params": {}, "checkpoints": {"seconds": 60.0, "iterations": 1}}
    try:
        with suppress(KeyboardInterrupt), runs.started(directory / "store", order):
            raise KeyboardInterrupt
    except StoreError as error:
        raise StoreError(f"{error}; a run that did nothing may be listed") from error


def runs_listed(directory: Path) -> int:
    listed = runs.listed(directory / "store")
    assert all(run["state"] == "interrupted" for run in listed)
    return len(listed)


def _begun_again(directory: Path) -> None:
    before = runs_listed(directory)
    begin_run(directory)
    assert runs_listed(directory) == before + 1
    assert (
        len([path for path in (directory / "store" / ".runs").iterdir() if path.name != ".lock"])
        == before + 1
    )


def _run(directory: Path) -> runs.Run:
    (path,) = (directory / "store" / ".runs").glob("m-*")
    return runs.Run(path, json.loads((path / "run.json").read_bytes()))


def checkpoint(directory: Path, iteration: int) -> None:
    """Write the state after that iteration, whose factors tell which it is."""
    run = _run(directory)
    history = [{"iteration": n + 1, "objective": 1 / (n + 1)} for n in range(iteration)]
    run.keep(
        State(fitted(iteration).factors, {"user": 1.0, "item": 2.0}, history, [1.0, 0.5], 0.1, Momentum())
    )
    if run._written != iteration:
        raise StoreError("the checkpoint may not be written; a warning said so")


def reached(directory: Path) -> int | None:
    """The iteration that a resumption would go on from; None where the run is gone."""
    if not runs.listed(directory / "store"):
        return None
    state = _run(directory).state()
    if state is None:
        return 0
    np.testing.assert_array_equal(state.factors.item, fitted(state.iteration).factors.item)
    return state.iteration


def _checkpoint_again(directory: Path) -> None:
    checkpoint(directory, 9)
    assert reached(directory) == 9
    names = {path.name for path in _run(directory).path.iterdir()} - {".lock", "run.json", "checkpoint-9"}
    assert names <= {"checkpoint-1", "checkpoint-2", "checkpoint-3"}
    assert len(names) <= 1


def finish(directory: Path) -> None:
    run = _run(directory)
    run.delete()
    if run.path.exists():
        raise StoreError("the run may still be listed; a warning said so")


def _finished(directory: Path) -> None:
    begin_run(directory)
    names = {path.name for path in (directory / "store" / ".runs").iterdir()} - {".lock"}
    assert names == {run["run"] for run in runs.listed(directory / "store")}


def _checkpoints(directory: Path, *iterations: int) -> None:
    begin_run(directory)
    for iteration in iterations:
        checkpoint(directory, iteration)


def _ratings_until(directory: Path, n: int) -> str:
    """A file of the first n ratings of a planted model."""
    rng = np.random.default_rng(3)
    users, items = rng.normal(0, 1, (40, 2)), rng.normal(0, 1, (30, 2))
    pairs = rng.permutation(40 * 30)[:n]
    rating = np.clip(np.round(3 + (users[pairs // 30] * items[pairs % 30]).sum(1)), 1, 5)
    lines = (f"{pair // 30},{pair % 30},{stars:.0f}\n" for pair, stars in zip(pairs, rating, strict=True))
    path = directory / "ratings.csv"
    path.write_text("user,item,rating\n" + "".join(lines))
    return str(path)


def retrain(directory: Path, n: int = 900) -> dict:
    """One night on the first n ratings, with a checkpoint half-way."""
    request = Request(
        Data([_ratings_until(directory, n)], (), "random:0.1"),
        "m",
        "als",
        {"rank": 2, "regularization": 0.1, "max_iter": 40, "tol": 1e-3},
        Place("serial", partitions=1),
        rules=GateRules(margin=0.5),  # so few held-out ratings decide nothing more finely
        checkpoints=runs.Checkpoints(0.0, 2),
    )
    return one_night(request, Store(directory / "store"))


def retrained(directory: Path) -> tuple:
    """Every version, each with the factors of an undisturbed night, and the current one."""
    store = Store(directory / "store")
    numbers = tuple(store.numbers("m"))
    for number in numbers:
        version = store.version("m", number)
        assert version.damage() == []
        assert version.manifest["checksums"] == _undisturbed(directory.parent)[number != "1"]
    assert len(nights_of(store, "m")) >= len(numbers)
    return numbers, store.current("m")


@cache
def _undisturbed(directory: Path) -> list[dict]:
    """The checksums of the factors of two nights in a row."""
    nights = directory / "undisturbed"
    for n in (800, 900):
        nights.mkdir(exist_ok=True)
        retrain(nights, n)
    store = Store(nights / "store")
    return [store.version("m", number).manifest["checksums"] for number in ("1", "2")]


def _retrained_again(directory: Path) -> None:
    """The same night again publishes, or finds current what it would; the next leaves no run over."""
    retrain(directory)
    numbers, current = retrained(directory)
    assert current == numbers[-1] != "1"
    retrain(directory, 1000)
    assert {path.name for path in (directory / "store" / ".runs").iterdir()} <= {".lock"}


OPERATIONS = {
    "begin a run": Operation(lambda directory: None, begin_run, runs_listed, _begun_again),
    "checkpoint the first": Operation(
        begin_run, partial(checkpoint, iteration=1), reached, _checkpoint_again
    ),
    "checkpoint the next": Operation(
        lambda directory: _checkpoints(directory, 1, 2),
        partial(checkpoint, iteration=3),
        reached,
        _checkpoint_again,
    ),
    "finish a run": Operation(
        lambda directory: _checkpoints(directory, 1, 2),
        finish,
        reached,
        _finished,
    ),
    "publish the first": Operation(
        lambda directory: None, partial(publish, seed=1), stored, publish_again, (((("1", 1),), None),)
    ),
    "publish the next": Operation(
        lambda directory: publish(directory, 1),
        partial(publish, seed=2),
        stored,
        publish_again,
        (((("1", 1), ("2", 2)), "1"),),
    ),
    "publish aside": Operation(
        lambda directory: publish(directory, 1),
        partial(publish, seed=2, make_current=False),
        stored,
        publish_again,
    ),
    "rollback": Operation(
        _three, lambda directory: Store(directory / "store").rollback("m", "1"), stored, _rolled_back
    ),
    "remove": Operation(
        _prepare_remove, lambda directory: Store(directory / "store").remove("m", "3"), stored, _removed
    ),
    "retrain": Operation(partial(retrain, n=800), retrain, retrained, _retrained_again, ((("1", "2"), "1"),)),
    "ingest the first": Operation(lambda directory: None, ingest, ingested, _ingest_again),
    "ingest the next": Operation(ingest, partial(ingest, extra=5), ingested, _ingest_again),
}
