"""Retraining from the command line and from Python: what is published, kept, refused, and what is recorded."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mfpipe import decisions, files, runs
from mfpipe.cli import main
from mfpipe.errors import GateError, ParameterError, StoreError
from mfpipe.fit import fit, starting_factors
from mfpipe.fitted import FittedModel
from mfpipe.job import Data, Place, prepare
from mfpipe.models import ALS, BiasedALS
from mfpipe.pipeline import train
from mfpipe.retraining import Request, retrain, retraining
from mfpipe.runs import Checkpoints
from mfpipe.store import Store
from mfpipe.warm_start import solve_touched, touched, warm_start
from tests.make import ratings_of, write

SERIAL = Place("serial")
PARAMS = {"rank": 3, "regularization": 0.1, "max_iter": 30}

pytestmark = pytest.mark.usefixtures("log_is_seen")


def lines(n=3000, seed=2, shuffled=False, start=0):
    """Ratings of a planted model, by date; the first n - k lines are those of lines(n - k)."""
    rng = np.random.default_rng(seed)
    users, items = rng.normal(0, 1, (80, 2)), rng.normal(0, 1, (60, 2))
    pairs = rng.permutation(80 * 60)[:4500]
    rating = np.clip(np.round(3 + (users[pairs // 60] * items[pairs % 60]).sum(1)), 1, 5)[:n]
    if shuffled:
        rating = rng.permutation(rating)
    rows = zip(pairs[:n], rating, range(n), strict=True)
    text = "".join(f"u{p // 60},{p % 60},{r:.0f},{1_500_000_000 + 600 * t}\n" for p, r, t in rows)
    return "user,item,rating,timestamp\n" + text


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def ask(tmp_path):
    """A request to retrain `m` on that many ratings."""

    def ask(n=3000, shuffled=False, holdout="random:0.1", **options):
        source = write(tmp_path / f"ratings-{n}-{shuffled}.csv", lines(n, shuffled=shuffled))
        return Request(Data([source], (), holdout), "m", **{"params": PARAMS, "place": SERIAL} | options)

    return ask


def current(store):
    return (store.path / "m" / "current").read_bytes()


def test_the_first_is_published_and_the_next_is_kept_until_there_is_something_new(store, ask):
    first = retrain(ask(), store)
    assert (first["decision"], first["version"], first["champion"]) == ("published", "1", None)
    assert "first version" in first["words"]
    before = current(store)
    again = retrain(ask(), store)
    assert (again["decision"], again["version"], again["gate"]) == ("kept", None, None)
    assert current(store) == before
    more = retrain(ask(3300), store)
    assert (more["decision"], more["version"], more["champion"]) == ("published", "2", "1")
    assert more["start"]["how"] == "warm"
    assert set(more["gate"]["systems"]) == {"user-item average", "champion", "challenger"}
    assert [row["decision"] for row in decisions.history(store, "m")] == ["published", "kept", "published"]
    assert store.version("m").manifest["retrain"]["test"]["sha256"] == more["test"]["sha256"]


def test_neither_system_has_trained_on_the_rows_both_are_judged_by(store, ask):
    retrain(ask(3000), store)
    with retraining(ask(3300), store) as steps:
        steps.ingest()
        train_pairs, champion_pairs = (pairs_of(p.ratings) for p in (steps.prepared, prepare(ask(3000).data)))
        test = steps.prepared.test
        held_out = set(zip(test.user.to_pylist(), test.item.to_pylist(), strict=True))
        assert held_out
        assert not held_out & train_pairs
        assert not held_out & champion_pairs
        steps.compare_data()
        steps.decision, steps.words = "kept", "a test"
        steps.conclude()


def pairs_of(ratings):
    users, items = ratings.users.texts.to_pylist(), ratings.items.texts.to_pylist()
    return {(users[u], items[i]) for u, i in zip(ratings.user, ratings.item, strict=True)}


def test_a_time_holdout_takes_only_what_is_newer_than_the_champion(store, ask):
    first = retrain(ask(3000, holdout="time:0.3"), store)
    latest = first["data"]["time"]["latest"]
    with retraining(ask(3100, holdout="time:0.9"), store) as steps:
        steps.ingest()
        all_times = np.array([1_500_000_000 + 600 * t for t in range(3100)]) * 10**6
        assert len(steps.prepared.test) == (all_times > latest).sum()
        assert steps.prepared.ratings.time_range()["latest"] == latest
        steps.decision, steps.words = "kept", "a test"
        steps.conclude()


def test_shuffled_ratings_are_refused_and_recorded_and_current_is_the_same_byte_for_byte(store, ask):
    retrain(ask(), store)
    before, versions = current(store), store.numbers("m")
    with pytest.raises(GateError, match=r"m@1 stays current.*user-item average") as refused:
        retrain(ask(3000, shuffled=True), store)
    assert refused.value.exit_code == 6
    assert (current(store), store.numbers("m")) == (before, versions)
    row = decisions.history(store, "m")[-1]
    assert (row["decision"], row["version"]) == ("refused", None)
    assert row["words"] in str(refused.value)
    assert runs.listed(store.path) == []


def test_force_publishes_what_was_refused_and_says_so(store, ask):
    retrain(ask(), store)
    forced = retrain(ask(3000, shuffled=True, force=True), store)
    assert (forced["decision"], forced["version"], forced["forced"]) == ("published", "2", True)
    manifest = store.version("m").manifest["retrain"]
    assert manifest["forced"]
    assert "forced although refused" in manifest["words"]
    assert not manifest["gate"]["passed"]


def test_ratings_far_from_the_champions_are_refused_before_anything_is_trained(store, ask):
    retrain(ask(3000), store)
    with pytest.raises(GateError, match=r"ratings: 0\.33.* times the champion's, outside 0\.5 to 10"):
        retrain(ask(1000), store)
    record = decisions.history(store, "m")[-1]
    assert (record["decision"], record["rmse"]) == ("refused", None)


def test_a_champion_that_may_have_seen_the_held_out_rows_is_no_champion_to_be_judged_by(store, ask, tmp_path):
    test = write(tmp_path / "test.csv", lines(100))
    train(Data(ask().data.inputs, [test]), ALS(**PARAMS), "m", store, SERIAL)
    with pytest.raises(GateError, match=r"m@1 may have trained on rows .*test files"):
        retrain(ask(3300), store)
    forced = retrain(ask(3300, force=True), store)
    assert forced["start"]["how"] == "cold"
    assert forced["version"] == "2"


def test_a_larger_random_holdout_of_the_champion_holds_the_smaller_one(store, ask):
    retrain(ask(3000, holdout="random:0.2"), store)
    assert retrain(ask(3300, holdout="random:0.1"), store)["decision"] == "published"
    with pytest.raises(GateError, match="may have trained on rows"):
        retrain(ask(3300, holdout="random:0.3"), store)


@pytest.mark.parametrize("harm", ["missing", "torn", "of another", "factors"])
def test_versions_without_an_intact_current_are_an_error_and_nothing_is_published(store, ask, harm):
    retrain(ask(), store)
    path = store.path / "m" / "current"
    if harm == "missing":
        path.unlink()
    elif harm == "torn":
        path.write_bytes(path.read_bytes()[:20])
    elif harm == "of another":
        path.write_text(json.dumps({"version": "7", "manifest_sha256": "0"}))
    else:
        table = store.path / "m" / "1" / "user_factors.parquet"
        table.write_bytes(table.read_bytes()[:-1])
    with pytest.raises(StoreError):
        retrain(ask(3300, force=True), store)
    assert store.numbers("m") == ["1"]


def test_current_that_moved_meanwhile_is_not_replaced(store, ask):
    retrain(ask(), store)

    def stage(message):
        if message == "judging the challenger":
            train(ask().data, ALS(**PARAMS), "m", store, SERIAL)

    with pytest.raises(StoreError, match="has become current"):
        retrain(ask(3300), store, stage=stage)
    assert store.current("m") == "2"


def test_refit_publishes_all_rows_and_is_judged_by_what_was_evaluated(store, ask):
    first = retrain(ask(refit=True), store)
    assert first["version"] == "2"
    manifest = store.version("m").manifest
    assert manifest["evaluated_as"] == "1"
    assert manifest["data"]["n_ratings"] == 3000
    assert store.version("m", "1").manifest["data"]["n_ratings"] < 3000
    reported = [store.version("m", number).json("diagnosis.json") for number in "12"]
    assert reported[0] == reported[1]
    second = retrain(ask(3300, refit=True), store)
    assert (second["judged_by"], second["champion"], second["version"]) == ("m@1", "2", "4")
    assert [row["decision"] for row in decisions.history(store, "m")].count("evaluated") == 2


def test_only_so_many_versions_are_kept_and_the_current_always(store, ask):
    for n in range(3000, 3600, 100):
        retrain(ask(n, keep_versions=2), store)
    assert store.numbers("m") == ["5", "6"]
    assert len(decisions.history(store, "m")) == 6


def test_model_and_parameters_are_the_champions_unless_said_otherwise(store, ask):
    retrain(ask(model="biased-als"), store)
    found = retrain(ask(3300, params={"regularization": 0.09}), store)
    assert found["model"] == "biased-als"
    assert (found["params"]["rank"], found["params"]["regularization"]) == (3, 0.09)
    other = retrain(ask(3400, params={"rank": 4}, force=True), store)
    assert "another rank" in other["start"]["why"]
    with pytest.raises(ParameterError, match="not a parameter of user-mean"):
        ask(model="user-mean")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"holdout": "last:1"}, "--holdout"),
        ({"update": True, "cold_start": True}, "--update"),
        ({"keep_versions": 0}, "--keep-versions"),
        ({"model": "svd"}, "--model"),
    ],
)
def test_what_a_retrain_cannot_do_is_refused_by_name(ask, options, named):
    with pytest.raises(ParameterError, match=named):
        ask(**options)


def fitted(model, ratings):
    from mfpipe.executors import executor

    with executor(ratings, model.storage, "serial") as where:
        return FittedModel.of(fit(model, ratings, where), ratings)


OLD = ratings_of([1, 1, 2, 2, 3, 3], [1, 2, 1, 2, 1, 3], [5, 1, 4, 2, 3, 3])
NEW = ratings_of([1, 1, 2, 2, 3, 3, 3, 9], [1, 2, 1, 2, 1, 3, 2, 8], [5, 1, 4, 2, 3, 3, 2, 4])


@pytest.mark.parametrize("model", [ALS(2, 0.1, dtype="float64"), BiasedALS(2, 0.1, dtype="float64")])
def test_known_rows_start_as_the_champions_and_new_ones_as_the_models(model):
    champion = fitted(model, OLD)
    start = warm_start(champion, model, NEW)
    keyed = starting_factors(model, NEW)
    known = champion.users.rows(NEW.users.texts)
    assert_array_equal(start.factors.user[known >= 0], champion.factors.user[known[known >= 0]])
    assert_array_equal(start.factors.user[known < 0], keyed.user[known < 0])
    assert (start.new, start.touched) == ({"user": 1, "item": 1}, {"user": 2, "item": 2})
    assert touched(champion, NEW, "user").tolist() == [False, False, True, True]
    assert touched(champion, NEW, "item").tolist() == [False, True, False, True]
    assert not touched(champion, OLD, "user").any()


def test_touched_rows_are_solved_as_ridge_solves_them_and_others_stay():
    model = ALS(2, 0.1, dtype="float64")
    champion = fitted(model, OLD)
    start = warm_start(champion, model, NEW)
    found = solve_touched(champion, model, NEW, start)
    # item 2 (row 1): ratings 1, 2, 2 by the known users 1, 2, 3, whose rows are the champion's
    x, y = champion.factors.user[[0, 1, 2]], np.array([1.0, 2.0, 2.0])
    assert_allclose(found.item[1], np.linalg.solve(x.T @ x + 0.3 * np.eye(2), x.T @ y), rtol=1e-12)
    assert_array_equal(found.item[0], start.factors.item[0])
    # user 9 (row 3): one rating, 4, of the new item, whose row nobody known has rated
    q = start.factors.item[3]
    assert_allclose(found.user[3], 4 * q / (q @ q + 0.1), rtol=1e-12)
    assert_array_equal(found.user[:2], champion.factors.user[:2])


def test_update_ends_at_the_objective_of_a_cold_fit_in_fewer_iterations(store, ask):
    tight = {**PARAMS, "tol": 1e-7, "max_iter": 500}
    retrain(ask(3000, params=tight), store)
    update = retrain(ask(3030, params=tight, update=True), store)
    cold = retrain(ask(3030, params=tight, cold_start=True, force=True), store)
    assert update["start"]["how"] == "update"
    assert update["fit"]["converged"]
    assert update["fit"]["objective"] <= 1.001 * cold["fit"]["objective"]
    assert update["fit"]["n_iter"] < cold["fit"]["n_iter"]


class _Stop(BaseException):
    pass


def test_an_interrupted_retrain_goes_on_when_asked_again_and_ends_the_same(store, ask, tmp_path):
    undisturbed = retrain(ask(params={**PARAMS, "tol": 0}), Store(tmp_path / "other"))

    def stop(record):
        if record["iteration"] == 11:
            raise _Stop

    request = ask(params={**PARAMS, "tol": 0}, checkpoints=Checkpoints(iterations=4), run="mine")
    with pytest.raises(_Stop):
        retrain(request, store, [stop])
    assert [run["run"] for run in runs.listed(store.path)] == ["mine"]
    seen = []
    record = retrain(ask(params={**PARAMS, "tol": 0}), store, [lambda r: seen.append(r["iteration"])])
    assert seen[0] > 8
    assert record["run"] == "mine"
    there, here = (s.version("m").manifest["checksums"] for s in (Store(tmp_path / "other"), store))
    assert there == here
    assert record["fit"] == undisturbed["fit"]
    assert runs.listed(store.path) == []


def test_an_interrupted_retrain_that_was_overtaken_is_deleted(store, ask):
    def stop(record):
        raise _Stop

    with pytest.raises(_Stop):
        retrain(ask(), store, [stop])
    retrain(ask(3300), store)
    assert runs.listed(store.path) == []


def test_resume_goes_through_the_gate(store, ask, monkeypatch, capsys):
    retrain(ask(), store)
    before = current(store)

    def stop(record):
        raise _Stop

    with pytest.raises(_Stop):
        retrain(ask(3000, shuffled=True), store, [stop])
    (left,) = runs.listed(store.path)
    assert main(["resume", left["run"], "--store", str(store.path), "--json"]) == 6
    assert json.loads(capsys.readouterr().out)["decision"] == "refused"
    assert current(store) == before


def command(store, source, *more):
    return [
        sys.executable, "-m", "mfpipe", "retrain", source, "--name", "m", "--store", str(store.path),
        "--cluster", "serial", "--rank", "3", "--json", *more,
    ]  # fmt: skip


def test_two_retrains_of_a_model_never_overlap_and_another_models_is_not_kept_waiting(store, ask):
    (source,) = ask().data.inputs
    lock = decisions.home(store, "m") / ".lock"
    with files.locked(lock):
        waiting = subprocess.Popen(
            command(store, source), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        other = subprocess.run([*command(store, source), "--name", "free"], capture_output=True, text=True)
        assert other.returncode == 0, other.stderr
        deadline = time.monotonic() + 30
        while "waiting" not in waiting.stderr.readline():
            assert time.monotonic() < deadline
        time.sleep(0.5)
        assert waiting.poll() is None
        assert not (store.path / "m").exists()
    out, err = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, err
    assert json.loads(out)["version"] == "1"


def test_retrains_at_once_are_each_judged_by_the_one_before(store, ask):
    sources = [ask(n).data.inputs[0] for n in (3000, 3200, 3400)]
    at_once = [
        subprocess.Popen(command(store, source, "--force"), stdout=subprocess.PIPE, text=True)
        for source in sources
    ]
    for process in at_once:
        process.communicate(timeout=90)
        assert process.returncode == 0
    rows = decisions.history(store, "m")
    assert [row["version"] for row in rows] == ["1", "2", "3"]
    assert [row["champion"] for row in rows] == [None, "1", "2"]


def test_the_command_line_prints_the_decision_and_the_history(store, ask, capsys):
    source = ask().data.inputs[0]
    shuffled = ask(3000, shuffled=True).data.inputs[0]
    shared = ("--name", "m", "--store", str(store.path), "--cluster", "serial", "--rank", "3")
    assert main(["retrain", source, *shared]) == 0
    assert "m@1: published" in capsys.readouterr().out
    assert main(["retrain", shuffled, *shared]) == 6
    out = capsys.readouterr()
    assert "NO   better than the user-item average" in out.out
    assert "m@1 stays current" in out.err
    assert main(["models", "history", "m", "--store", str(store.path)]) == 0
    shown = capsys.readouterr().out
    assert "published" in shown
    assert "refused" in shown
    assert main(["models", "history", "nobody", "--store", str(store.path)]) == 5
    assert main(["retrain", source, *shared, "--limit", "x=1"]) == 2


def test_a_damaged_record_is_left_out_of_the_history_and_said(store, ask, caplog):
    retrain(ask(), store)
    retrain(ask(), store)
    record = sorted(Path(decisions.home(store, "m")).glob("*.json"))[-1]
    record.write_text(record.read_text().replace("kept", "sold"))
    assert [row["decision"] for row in decisions.history(store, "m")] == ["published"]
    assert "damaged; left out" in caplog.text
