"""A fit that was interrupted goes on as if it had not been: to the last bit, anywhere."""

import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from mfpipe import files, orders, runs
from mfpipe.cli import main
from mfpipe.errors import NumericError, RatingsError, StoreError
from mfpipe.executors import executor
from mfpipe.fit import fit
from mfpipe.job import Data, Place
from mfpipe.models import ALS, BiasedALS, LassoMF, UserItemMean
from mfpipe.pipeline import train
from mfpipe.resuming import resume
from mfpipe.runs import Checkpoints
from mfpipe.store import Store
from tests.make import write

EVERY = Checkpoints(iterations=1)
MODEL = LassoMF(3, 0.02, max_iter=12, tol=0, balance=True)

pytestmark = pytest.mark.usefixtures("log_is_seen")


def lines(n=600):
    rng = np.random.default_rng(2)
    pairs = rng.choice(40 * 25, n, replace=False)
    ratings = rng.integers(1, 6, n)
    text = "".join(f"u{p // 25},{p % 25},{r}\n" for p, r in zip(pairs, ratings, strict=True))
    return "user,item,rating\n" + text


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "ratings.csv", lines())


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def outcome(record):
    """All of a training record that must not depend on where and in how many pieces it was made."""
    history = [{k: v for k, v in r.items() if k != "seconds"} for r in record["history"]]
    same = (
        "model",
        "params",
        "objective",
        "train_rmse",
        "test_rmse",
        "test",
        "checksums",
        "n_iter",
        "converged",
    )
    return {key: record[key] for key in same} | {"history": history}


def interrupt_at(iteration, error=KeyboardInterrupt):
    def interrupt(record):
        if record["iteration"] == iteration:
            raise error

    return interrupt


def left(store):
    """Runs of a store, and anything else that lies where they lie."""
    directory = store.path / ".runs"
    return (
        sorted(path.name for path in directory.iterdir() if path.name != ".lock")
        if directory.exists()
        else []
    )


@pytest.mark.parametrize(
    "model",
    [
        ALS(3, max_iter=8, tol=0),
        ALS(3, max_iter=8, tol=0, init="spectral"),
        ALS(3, max_iter=8, tol=0, solver="cg"),
        BiasedALS(2, max_iter=8, tol=0, accelerate=True),
        ALS(3, max_iter=8, tol=0, dtype="float64", nonnegative=True),
        BiasedALS(2, max_iter=8, tol=0),
        BiasedALS(2, max_iter=8, tol=0, block_order="separate", bias_regularization=0.1),
        LassoMF(3, 0.05, max_iter=8, tol=0, balance=True),
        LassoMF(3, 0.05, max_iter=40, tol=1e-2, l1_ratio=0.5),
        UserItemMean(),
    ],
    ids=lambda model: model.name,
)
@pytest.mark.parametrize("at", [1, 5])
def test_a_fit_goes_on_from_a_checkpoint_to_the_last_bit(tmp_path, small, model, at):
    states = []
    with executor(small, model.storage, "serial", partitions=3) as where:
        whole = fit(model, small, where, on_state=states.append)
    state = states[min(at, len(states)) - 1]
    order = {
        "name": "m",
        "checkpoints": {"seconds": 60.0, "iterations": 1},
        "params": {},
        "model": model.name,
    }
    with suppress(KeyboardInterrupt), runs.started(tmp_path, order) as run:
        run.keep(state)
        raise KeyboardInterrupt
    with runs.reopened(tmp_path, run.id) as again:
        read = again.state()
    for mine, theirs in zip(read.factors, state.factors, strict=True):
        assert mine.dtype == theirs.dtype
        assert_array_equal(mine, theirs)
    with executor(small, model.storage, "threads", workers=2, partitions=7) as where:
        rest = fit(model, small, where, state=read)
    for mine, theirs in zip(rest.factors, whole.factors, strict=True):
        assert_array_equal(mine, theirs)
    assert rest.objectives == whole.objectives
    assert (rest.objective, rest.train_rmse) == (whole.objective, whole.train_rmse)
    assert (rest.n_iter, rest.converged, rest.warnings) == (whole.n_iter, whole.converged, whole.warnings)
    assert [r["objective"] for r in rest.history] == [r["objective"] for r in whole.history]
    assert rest.seconds > state.seconds


@pytest.mark.parametrize("place", [{"cluster": "threads", "workers": 2}, {"partitions": 5}], ids=str)
def test_an_interrupted_training_is_listed_and_resumed_with_the_same_outcome(source, store, place):
    whole = train(Data([source]), MODEL, "whole", store, Place("serial"))
    with pytest.raises(KeyboardInterrupt) as interrupted:
        train(Data([source]), MODEL, "m", store, Place("serial"), on_iteration=[interrupt_at(7)])
    (listed,) = runs.listed(store.path)
    assert (listed["name"], listed["state"], listed["iteration"]) == ("m", "interrupted", 6)
    assert listed["objective"] == whole["history"][5]["objective"]
    (note,) = interrupted.value.__notes__
    assert note == f"go on with: mfpipe resume {listed['run']} --store {store.path}"
    assert store.numbers("m") == []
    record = resume(listed["run"], store, **place)
    assert outcome(record) == outcome(whole)
    assert (record["name"], record["version"], record["published"]) == ("m", "1", True)
    assert store.version("m").manifest["checksums"] == whole["checksums"]
    assert left(store) == []


def test_a_run_resumed_and_interrupted_again_and_again_ends_the_same(source, store):
    whole = train(Data([source]), MODEL, "whole", store, Place("serial"), checkpoints=Checkpoints(0))
    with pytest.raises(KeyboardInterrupt):
        train(Data([source]), MODEL, "m", store, Place("serial"), False, [interrupt_at(1)], checkpoints=EVERY)
    (run,) = left(store)
    for at in (1, 2, 6, 7, 12):
        with pytest.raises(KeyboardInterrupt):
            resume(run, store, [interrupt_at(at)])
    record = resume(run, store)
    assert outcome(record) == outcome(whole)
    assert not record["published"]
    assert store.current("m") is None


def test_resumed_on_a_cluster(source, store, client, tmp_path):
    whole = train(Data([source]), MODEL, "whole", store, Place("serial"))
    with pytest.raises(KeyboardInterrupt):
        train(Data([source]), MODEL, "m", store, Place("serial"), on_iteration=[interrupt_at(4)])
    (run,) = left(store)
    record = resume(run, store, cluster=client.scheduler.address, partitions=3)
    assert outcome(record) == outcome(whole)


def test_checkpoints_come_by_time_or_by_iteration_and_two_are_kept(source, store, caplog):
    with pytest.raises(KeyboardInterrupt):
        train(Data([source]), MODEL, "m", store, Place("serial"), True, [interrupt_at(8)],
              checkpoints=Checkpoints(iterations=3))  # fmt: skip
    (run,) = left(store)
    names = {path.name for path in (store.path / ".runs" / run).iterdir()}
    assert names == {".lock", "run.json", "checkpoint-6", "checkpoint-7"}  # the 7th on the way out
    assert Checkpoints(1e-9).wanted
    assert not Checkpoints(0).wanted


def test_the_start_says_how_often_and_off_is_loud(source, store, caplog):
    with caplog.at_level(logging.INFO, "mfpipe"):
        train(Data([source]), MODEL, "m", store, Place("serial"))
    assert "a checkpoint every 60 s; if it is interrupted: mfpipe resume m-" in caplog.text
    assert not [
        record
        for record in caplog.records
        if record.levelno >= logging.WARNING and "checkpoint" in record.message
    ]
    caplog.clear()
    train(Data([source]), MODEL, "m", store, Place("serial"), checkpoints=Checkpoints(0))
    (said,) = (r for r in caplog.records if "checkpoints are off" in r.message)
    assert said.levelno == logging.WARNING
    assert left(store) == []


def interrupted(source, store, at=6, data=None):
    with pytest.raises(KeyboardInterrupt):
        train(
            data or Data([source]),
            MODEL,
            "m",
            store,
            Place("serial"),
            True,
            [interrupt_at(at)],
            checkpoints=EVERY,
        )
    (run,) = left(store)
    return run


def test_a_damaged_checkpoint_is_not_read_and_the_one_before_is(source, store, caplog):
    whole = train(Data([source]), MODEL, "whole", store, Place("serial"))
    run = interrupted(source, store)
    directory = store.path / ".runs" / run
    for name in ("checkpoint-5", "checkpoint-4"):
        path = directory / name / "user.parquet"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        stages = []
        with pytest.raises(KeyboardInterrupt):
            resume(run, store, [interrupt_at(5 if name == "checkpoint-5" else 1)], stages.append)
        assert any(f"from iteration {4 if name == 'checkpoint-5' else 0}" in stage for stage in stages)
        assert f"{name}/user.parquet" in caplog.text
    assert outcome(resume(run, store)) == outcome(whole)


def test_a_changed_input_is_refused_by_name(source, store, tmp_path, monkeypatch, capsys):
    test = write(tmp_path / "test.csv", lines(40))
    run = interrupted(source, store, data=Data([source], [test]))
    kept = Path(source).read_text()
    write(Path(source), kept.replace("u1,", "u2,", 1))
    assert main(["resume", run, "--store", str(store.path)]) == 3
    said = capsys.readouterr().err
    assert "the ratings changed since run" in said
    assert "changed files:" in said
    assert "ratings.csv" in said
    assert "test.csv" not in said
    assert left(store) == [run]  # restoring the file is still a way on
    write(Path(source), kept)
    write(Path(test), lines(41))
    with pytest.raises(RatingsError, match=r"the test changed since run .*test\.csv"):
        resume(run, store)
    write(Path(test), lines(40))
    monkeypatch.chdir("/")
    assert resume(run, store)["version"] == "1"


def test_another_machine_is_said(source, store, monkeypatch, caplog):
    run = interrupted(source, store)
    then = orders.machine()
    monkeypatch.setattr(orders, "machine", lambda: then | {"cpu": "another"})
    record = resume(run, store)
    assert f"cpu {then['cpu']} then, another now" in record["warnings"][-1]
    assert record["warnings"][-1] in caplog.text


def test_a_run_that_was_published_before_it_was_killed_is_not_published_twice(source, store, monkeypatch):
    monkeypatch.setattr(runs.Run, "delete", lambda run: None)
    record = train(Data([source]), MODEL, "m", store, Place("serial"))
    (run,) = left(store)
    monkeypatch.undo()
    again = resume(run, store)
    assert (again["version"], again["checksums"]) == (record["version"], record["checksums"])
    assert store.numbers("m") == ["1"]
    assert left(store) == []


def test_a_fit_that_would_fail_again_is_not_kept(source, store):
    with pytest.raises(NumericError) as failed:
        train(
            Data([source]),
            MODEL,
            "m",
            store,
            Place("serial"),
            on_iteration=[interrupt_at(3, NumericError("x"))],
        )
    assert not getattr(failed.value, "__notes__", ())
    assert left(store) == []


def test_a_full_disk_at_a_checkpoint_is_warned_about_and_the_fit_goes_on(source, store, monkeypatch, caplog):
    sealing = runs.seal

    def full(aside, target, *rest, **options):
        if target.name == "checkpoint-3":
            raise OSError(28, "No space left on device")
        sealing(aside, target, *rest, **options)

    monkeypatch.setattr(runs, "seal", full)
    assert train(Data([source]), MODEL, "m", store, Place("serial"), checkpoints=EVERY)["n_iter"] == 12
    (said,) = (r.message for r in caplog.records if "No space left" in r.message)
    assert "no checkpoint of iteration 3" in said


def test_a_store_that_fills_up_at_publication_keeps_the_fit(source, store, monkeypatch):
    monkeypatch.setattr(
        "mfpipe.store.seal", lambda *a, **k: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    with pytest.raises(StoreError, match="free some space") as failed:
        train(Data([source]), MODEL, "m", store, Place("serial"))
    (note,) = failed.value.__notes__
    (run,) = left(store)
    assert run in note
    monkeypatch.undo()
    stages = []
    assert resume(run, store, stage=stages.append)["n_iter"] == 12
    assert any("from iteration 12" in stage for stage in stages)


def test_only_one_process_goes_on_with_a_run(source, store, capsys):
    run = interrupted(source, store)
    with ExitStack() as held:
        held.enter_context(files.locked(store.path / ".runs" / run / ".lock"))
        assert runs.listed(store.path)[0]["state"] == "running"
        for command in (("resume", run), ("runs", "remove", run)):
            assert main([*command, "--store", str(store.path)]) == 5
            assert "is still running" in capsys.readouterr().err
    assert main(["runs", "--store", str(store.path), "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)["runs"]
    assert (listed["run"], listed["state"], listed["iteration"]) == (run, "interrupted", 5)
    assert main(["runs", "--store", str(store.path)]) == 0
    assert run in capsys.readouterr().out
    assert main(["runs", "remove", run, "--store", str(store.path)]) == 0
    assert left(store) == []


@pytest.mark.parametrize(
    ("run", "code"), [("nothing-abc", 5), ("../x", 2), ("", 2), (".finished-m", 2), ("a/b", 2)]
)
def test_a_run_that_is_not_there_or_could_not_be(store, run, code, capsys):
    assert main(["resume", run, "--store", str(store.path)]) == code
    assert "mfpipe: " in capsys.readouterr().err
    assert not store.path.exists()


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"format": 99, "checksum": ""}', '{"format": 1, "checksum": ""}']
)
def test_a_damaged_order_is_named(source, store, text):
    run = interrupted(source, store)
    (store.path / ".runs" / run / "run.json").write_text(text)
    with pytest.raises(StoreError, match="run.json"):
        resume(run, store)
    assert runs.listed(store.path) == []


SAMPLE = str(Path(__file__).parents[2] / "data" / "train.csv.gz")


DRIVER = str(Path(__file__).with_name("driver.py"))


def killed(arguments, store, most, seconds, beyond):
    """Start a driver, kill it with SIGKILL while it fits, and return the iteration it can go on from.

    It stands still `most` iterations after where it began, so that it is never done first. The kill comes
    `seconds` after the driver holds its run, and not before there is a checkpoint later than `beyond`.
    """
    process = subprocess.Popen(
        [sys.executable, DRIVER, f"mfpipe.executors:InProcess.half_step#{2 * most}", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    try:
        while not any(run["state"] == "running" for run in runs.listed(store.path)):
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(seconds)
        while runs.listed(store.path)[0]["iteration"] <= beyond:
            assert process.poll() is None
            time.sleep(0.02)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    return runs.listed(store.path)[0]["iteration"]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kills", "iterations"), [(2, 300), pytest.param(20, 3000, marks=pytest.mark.slow)])
def test_a_driver_killed_at_random_times_ends_as_if_it_had_not_been(tmp_path, kills, iterations):
    """Its resumptions too, each on other numbers of threads and partitions; every third makes headway."""
    rng = random.Random(kills)
    store = Store(tmp_path / "store")
    model = LassoMF(6, 0.02, max_iter=iterations, tol=0, dtype="float64", balance=True)
    whole = train(Data([SAMPLE]), model, "whole", store, Place("threads"), checkpoints=Checkpoints(0))
    command = [
        "train",
        SAMPLE,
        "--name",
        "m",
        "--model",
        "lasso-mf",
        "--rank",
        "6",
        "--tol",
        "0",
        "--balance",
    ]
    command += ["--regularization", "0.02", "--dtype", "float64", "--max-iter", str(iterations)]
    command += ["--checkpoint-iterations", "10", "--cluster", "serial"]
    reached = [0]
    for turn in range(kills):
        beyond = reached[-1] if turn % 3 == 0 else -1
        there = ["--store", str(store.path)]
        most = iterations // (kills + 1)
        reached.append(killed([*command, *there], store, most, rng.uniform(0, 1), beyond))
        (run,) = left(store)
        command = ["resume", run, "--cluster", "threads"]
        command += ["--workers", str(turn % 3 + 1), "--partitions", str(turn % 5 + 1)]
    print(f"{kills} kills, at iterations {reached[1:]} of {iterations}")
    assert reached == sorted(reached)
    assert store.numbers("m") == []
    assert resume(run, store, cluster="threads")["checksums"] == whole["checksums"]
    version = store.version("m")
    assert version.manifest["objective"] == whole["objective"]
    columns = ("objective", "train_rmse", "test_rmse", "item_objective")
    mine, theirs = (each.table("history.parquet") for each in (version, store.version("whole")))
    assert len(mine) == iterations == whole["n_iter"]
    assert mine.select(columns).equals(theirs.select(columns))
    assert left(store) == []
