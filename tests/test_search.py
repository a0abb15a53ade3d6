"""Choosing parameters: the regularization path, and successive halving."""

import json
import os
import re
import shlex
import signal
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from mfpipe.errors import ClusterError, ParameterError
from mfpipe.evaluate import Holdout
from mfpipe.executors import executor
from mfpipe.fit import fit, starting_factors
from mfpipe.halving import Rung, candidates, climb, make_trial, rungs, tune
from mfpipe.independent import independent
from mfpipe.job import Data, Place, Prepared
from mfpipe.models import ALS, BiasedALS, LassoMF
from mfpipe.models.base import Factors
from mfpipe.regularization import (
    below,
    fit_path,
    grid,
    largest_useful,
    parse_lambdas,
    path,
    with_all_directions,
)
from mfpipe.search_report import PATH_PANELS, TUNE_PANELS, write_path_report, write_tune_report
from tests.browser import browser, plots_shown
from tests.make import ratings_of, write
from tests.test_cli import TEST, TINY, TRAIN, run  # noqa: F401 - `run` is a fixture

SERIAL = Place("serial")
ALS_64 = ALS(3, dtype="float64", max_iter=30, tol=1e-6)
MODELS = [
    ALS_64,
    ALS(3, weighting="uniform", nonnegative=True, max_iter=30),
    BiasedALS(2, dtype="float64", max_iter=30),
    LassoMF(3, dtype="float64", max_iter=30),
    LassoMF(3, l1_ratio=0.5, weighting="uniform", max_iter=30),
]


@pytest.fixture(scope="module")
def prepared(small):
    train, held_out = Holdout.parse("random:0.2").split(small)
    return Prepared(train, held_out, {"holdout": "random:0.2"}, train.fingerprint(), 0.0)


@pytest.fixture(scope="module")
def here(prepared):
    with executor(prepared.ratings, np.dtype("f8"), "serial", partitions=3) as where:
        yield where


# --- grids


def test_how_many_lambdas_or_which():
    assert parse_lambdas("12") == 12
    assert parse_lambdas("0.5") == [0.5]
    assert parse_lambdas("1e-3,0.2,3") == [1e-3, 0.2, 3.0]


@pytest.mark.parametrize("text", ["", "0", "-3", "0.1,", "0.1,0.1", "nan", "inf,1", "0.0,1", "a,b", "1 2"])
def test_other_lambdas_are_refused_with_their_text(text):
    with pytest.raises(ParameterError, match=re.escape(repr(text))):
        parse_lambdas(text)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_a_grid_is_below_the_largest_useful_lambda_and_equally_spaced(model, small):
    values = grid(model, small, 6)
    largest = largest_useful(model, small)
    assert_allclose(np.diff(np.log10([largest, *values])), -0.5, atol=1e-3)
    assert values == [float(f"{value:.4g}") for value in values]
    assert below(largest, 6, inclusive=True) == [largest, *below(largest, 6)[:-1]]
    assert grid(model, small, [0.1, 0.3]) == [0.3, 0.1]


def test_the_largest_useful_lambda_is_where_a_fit_collapses(small):
    """Just above it everything is zero in the end, just below it something is not."""
    for model in (ALS_64, BiasedALS(2, dtype="float64")):
        largest = largest_useful(model, small)
        with executor(small, np.dtype("f8"), "serial") as where:
            for share, collapsed in ((1.1, True), (0.8, False)):
                one = type(model)(
                    **model.params | {"regularization": share * largest, "tol": 0, "max_iter": 200}
                )
                assert fit(one, small, where).collapsed == collapsed


def test_a_grid_does_not_depend_on_the_threads_of_the_blas(netflix):
    from threadpoolctl import threadpool_limits

    grids = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            grids.append(grid(BiasedALS(3), netflix[0], 10))
    assert grids[0] == grids[1]


def test_ratings_with_nothing_to_explain_are_refused():
    same = ratings_of([1, 1, 2, 2], [1, 2, 1, 2], [3, 3, 3, 3])
    with pytest.raises(ParameterError, match="nothing for factors to explain"):
        largest_useful(BiasedALS(2), same)


# --- the path


def test_each_fit_starts_from_its_neighbour(prepared, here):
    """A ridge path is the chain of fits written out."""
    values = grid(ALS_64, prepared.ratings, 4)
    records = fit_path(ALS_64, values, prepared, here)
    start = None
    for value, record in zip(values, records, strict=True):
        model = ALS(**ALS_64.params | {"regularization": value})
        if start is not None:
            start = with_all_directions(model, start, starting_factors(model, prepared.ratings))
        fitted = fit(model, prepared.ratings, here, start=start, test=prepared.pairs)
        assert record["regularization"] == value
        assert record["objective"] == fitted.objective
        assert record["validation_rmse"] == pytest.approx(fitted.history[-1]["test_rmse"], rel=1e-12)
        assert record["user_norm"] == pytest.approx(np.sqrt((fitted.factors.user**2).sum()))
        assert record["item_norm"] == pytest.approx(np.sqrt((fitted.factors.item**2).sum()))
        start = fitted.factors
    assert [record["start"] for record in records] == ["random", "neighbour", "neighbour", "neighbour"]


def test_after_a_collapse_a_ridge_path_begins_again(prepared, here):
    largest = largest_useful(ALS_64, prepared.ratings)
    records = fit_path(ALS_64, [3 * largest, largest / 8, largest / 9], prepared, here)
    assert [(record["collapsed"], record["start"]) for record in records] == [
        (True, "random"),
        (False, "random"),
        (False, "neighbour"),
    ]
    alone = fit(ALS(**ALS_64.params | {"regularization": largest / 8}), prepared.ratings, here)
    assert records[1]["objective"] == alone.objective


def test_a_lasso_path_ends_with_its_collapse(prepared, here):
    model = LassoMF(3, dtype="float64", max_iter=200)
    values = below(largest_useful(model, prepared.ratings), 8, inclusive=True)[::-1]
    records = fit_path(model, [*values, 2 * values[-1], 3 * values[-1]], prepared, here)
    assert len(records) <= len(values)
    assert records[-1]["sparsity"] == 1
    assert records[-1]["user_norm"] == records[-1]["item_norm"] == 0
    assert records[-1]["collapsed"]
    sparsity = [record["sparsity"] for record in records]
    assert sparsity[0] < 0.5
    assert all(value < 1 for value in sparsity[:-1])
    again = fit(LassoMF(**model.params | {"regularization": values[-1]}), prepared.ratings, here)
    assert again.sparsity == 1  # the bound holds for the keyed start


@pytest.mark.parametrize("model", [ALS(4, dtype="float64"), BiasedALS(4), ALS(4, nonnegative=True)])
def test_directions_that_vanished_are_added_without_changing_the_others(model, small):
    keyed = starting_factors(model, small)
    first = len(model.columns()) - model.rank
    rng = np.random.default_rng(0)
    flat = Factors(*(rows.copy() for rows in keyed))
    for rows in flat:  # one direction in all columns, or for non-negative factors in one
        shares = [1, 2, 3, 4] if model.signed else [1, 0, 0, 0]
        rows[:, first:] = rng.random((len(rows), 1)) * shares
    whole = with_all_directions(model, flat, keyed)
    assert whole.user.dtype == model.storage
    assert np.linalg.matrix_rank(whole.user[:, first:], tol=1e-4) == 4
    assert_array_equal(whole.user[:, :first], flat.user[:, :first])
    before = flat.user[:, first:] @ flat.item[:, first:].T
    kept = [rows[:, first:][:, [-1 if model.signed else 0]] for rows in whole]
    assert_allclose(kept[0] @ kept[1].T, before, rtol=1e-5, atol=1e-5)
    assert with_all_directions(model, keyed, keyed) is keyed


def test_a_ridge_path_is_not_caught_where_a_direction_has_vanished(netflix):
    """At the second λ one direction is left of five; from it alone the third ended 0.5 % higher."""
    train, held_out = Holdout.parse("random:0.1").split(netflix[0])
    prepared = Prepared(train, held_out, {}, "", 0.0)
    model = ALS(5, weighting="uniform", dtype="float64", max_iter=200)
    values = grid(model, train, 10)[:3]
    with executor(train, np.dtype("f8"), "threads") as where:
        records = fit_path(model, values, prepared, where)
        alone = fit(ALS(**model.params | {"regularization": values[2]}), train, where)
    assert records[2]["objective"] <= alone.objective * (1 + 1e-4)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: f"{model.name} {model.weighting}")
def test_a_path_is_the_same_everywhere(model, small, prepared, client):
    model = type(model)(**model.params | {"max_iter": 3})
    values = grid(model, prepared.ratings, 2)
    ends = []
    for place in (
        {"cluster": "serial", "partitions": 1},
        {"cluster": "threads", "workers": 2},
        {"client": client},
    ):
        with executor(prepared.ratings, model.storage, **place) as where:
            records = fit_path(model, values, prepared, where)
        ends.append([(r["objective"], r["validation_rmse"], r["user_norm"], r["n_iter"]) for r in records])
    assert ends[0] == ends[1] == ends[2]


def test_the_largest_lambda_within_one_standard_error(tmp_path):
    found = path(Data([TRAIN]), ALS(4, max_iter=5), [0.05, 0.1, 0.15, 0.2, 0.3, 1.0], Place("threads"))
    within = found["one_standard_error"]
    rmse = {record["regularization"]: record["validation_rmse"] for record in found["path"]}
    assert found["best"] == min(rmse, key=rmse.get)
    limit = rmse[found["best"]] ** 2 + within["standard_error"]
    assert within["regularization"] == max(value for value in rmse if rmse[value] ** 2 <= limit)
    assert within["validation_rmse"] == rmse[within["regularization"]]


def test_what_a_cluster_costs_is_said(run, tmp_path):  # noqa: F811
    options = ("--lambdas", 2, "--max-iter", 2, "--dashboard-address", "127.0.0.1:0", "--json")
    source = write(tmp_path / "r.csv", TINY)
    found = json.loads(run("path", source, *options)[1])
    assert any("row solvers took" in note for note in found["notes"])
    assert all(0 < row["solver_seconds"] < row["seconds"] for row in found["path"])
    found = json.loads(run("path", source, *options, "--cluster", "serial")[1])
    assert not any("row solvers took" in note for note in found["notes"])


def test_the_standard_error_is_that_of_a_mean_over_users(prepared, here):
    from mfpipe.regularization import one_standard_error

    records = fit_path(ALS_64, [0.1], prepared, here)
    squared, users = records[0]["squared_errors"], prepared.test.user.to_pylist()
    of_user = [squared[[u == user for u in users]] for user in sorted(set(users))]
    n, mean = len(of_user), squared.mean()
    variance = n / (n - 1) * sum((errors - mean).sum() ** 2 for errors in of_user) / len(squared) ** 2
    found = one_standard_error(records, records[0], prepared)
    assert found["standard_error"] == pytest.approx(np.sqrt(variance), rel=1e-12)


# --- successive halving


@given(st.integers(1, 300), st.integers(2, 5), st.integers(1, 20), st.integers(0, 300))
def test_rungs_keep_their_promises(n, factor, least, more):
    made = rungs(n, factor, least, least + more)
    assert made[0] == Rung(n, least)
    assert made[-1].iterations <= least + more
    for one, other in pairwise(made):
        assert other == Rung(-(-one.candidates // factor), one.iterations * factor)
    assert made[-1].candidates <= factor or made[-1].iterations * factor > least + more


@pytest.mark.parametrize(("n", "factor", "least", "most"), [(36, 3, 5, 50), (20, 2, 1, 100), (7, 4, 3, 3)])
def test_rungs_are_those_of_scikit_learn(n, factor, least, most):
    from sklearn.experimental import enable_halving_search_cv  # noqa: F401
    from sklearn.linear_model import SGDRegressor
    from sklearn.model_selection import HalvingGridSearchCV

    search = HalvingGridSearchCV(
        SGDRegressor(tol=None, random_state=0), {"alpha": np.geomspace(1e-4, 1, n)}, resource="max_iter",
        factor=factor, min_resources=least, max_resources=most, cv=2,
    ).fit(np.arange(20.0)[:, None] / 20, np.arange(20.0))  # fmt: skip
    made = rungs(n, factor, least, most)
    assert [rung.candidates for rung in made] == search.n_candidates_
    assert [rung.iterations for rung in made] == search.n_resources_


def climbed(prepared, models, schedule, **place):
    with independent(partial(make_trial, prepared, models[0].storage, 2), **place) as calls:
        return climb(models, schedule, calls)


@pytest.mark.parametrize(
    "model",
    [ALS_64, BiasedALS(2, max_iter=30), LassoMF(2, max_iter=30), LassoMF(2, max_iter=30, balance=True)],
)
def test_a_survivor_went_on_as_if_it_had_never_stopped(model, prepared, here):
    models = candidates(model, prepared.ratings, [1, 3], 3, ["count"])
    schedule = rungs(len(models), 2, 3, 30)
    records = climbed(prepared, models, schedule, cluster="serial")
    assert [len([r for r in records if len(r["rungs"]) > at]) for at in range(3)] == [6, 3, 2]
    at = next(at for at, record in enumerate(records) if record["place"] == 1)
    end = records[at]["rungs"][-1]
    with executor(prepared.ratings, model.storage, "serial") as where:
        whole = fit(
            type(model)(**models[at].params | {"max_iter": end["n_iter"]}),
            prepared.ratings, where, test=prepared.pairs,
        )  # fmt: skip
    assert whole.objective == end["objective"]
    assert whole.history[-1]["test_rmse"] == pytest.approx(end["validation_rmse"], rel=1e-12)
    assert whole.n_iter == end["n_iter"]
    last = [
        r["rungs"][-1]["validation_rmse"]
        for r in sorted(records, key=lambda r: r["place"] or 99)
        if r["place"]
    ]
    assert last == sorted(last)


def test_halving_is_the_same_everywhere(prepared):
    models = candidates(ALS_64, prepared.ratings, [1, 2], 3, ["uniform", "count"])
    schedule = rungs(len(models), 3, 2, 30)
    places = ({"cluster": "serial"}, {"cluster": "threads", "workers": 2},
              {"cluster": "local", "workers": 2, "dashboard_address": "127.0.0.1:0"})  # fmt: skip
    ends = []
    for place in places:
        records = climbed(prepared, models, schedule, **place)
        ends.append([{k: v for k, v in record.items() if k != "seconds"} for record in records])
    assert ends[0] == ends[1] == ends[2]


def test_candidates_are_every_combination_with_a_grid_for_each_weighting(small):
    models = candidates(ALS_64, small, [2, 4], 3, ["uniform", "count"])
    assert [(m.rank, m.weighting) for m in models[::3]] == [
        (2, "uniform"), (2, "count"), (4, "uniform"), (4, "count")
    ]  # fmt: skip
    for model in models[::3]:
        assert model.regularization == pytest.approx(largest_useful(model, small) / 10, rel=1e-3)
    assert {m.regularization for m in candidates(ALS_64, small, [2, 4], [0.5, 0.1], ["count"])} == {0.5, 0.1}


@pytest.mark.timeout(120)
def test_independent_calls_survive_a_worker_and_report_a_call_that_kills_them_all(tmp_path):
    once = tmp_path / "once"

    def call(shared, number):
        if number == 3 and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return shared + number

    def deadly(shared, number):
        os.kill(os.getpid(), signal.SIGKILL)

    place = {"cluster": "local", "workers": 2, "dashboard_address": "127.0.0.1:0"}
    with independent(lambda: 100, **place) as calls:
        assert calls(call, range(6)) == [100, 101, 102, 103, 104, 105]
        assert once.exists()
        with pytest.raises(ClusterError, match="lost for good"):
            calls(deadly, [0])


def test_a_call_that_fails_is_reported_as_it_is():
    for place in ({"cluster": "serial"}, {"cluster": "threads"}):
        with independent(lambda: 0, **place) as calls, pytest.raises(ZeroDivisionError):
            calls(lambda shared, number: number / shared, [1, 2])


# --- the command line


def test_path_prints_a_table_of_80_columns_json_and_a_report(run, tmp_path):  # noqa: F811
    options = ("--cluster", "threads", "--rank", 3, "--lambdas", 4, "--max-iter", 8)
    code, out, err = run("path", TRAIN, *options, "-o", "path.html")
    assert code == 0, err
    table = [line for line in out.splitlines() if "mfpipe train" not in line]
    assert max(map(len, table)) <= 80
    assert "the largest useful λ is" in out
    html = Path("path.html").read_text()
    for panel in PATH_PANELS:
        assert panel.title in html
    assert "<script src" not in html
    code, out, _ = run("path", TRAIN, *options, "--json")
    found = json.loads(out)
    assert [row["regularization"] for row in found["path"]] == sorted(
        r["regularization"] for r in found["path"]
    )
    assert found["data"]["n_ratings"] < 50_000  # the held-out ones are not trained on
    assert "test" not in found["data"]
    assert len(found["path"]) == 4


def test_tunes_command_trains_the_very_model_it_judged(run):  # noqa: F811
    grids = ("--ranks", "2,4", "--lambdas", "0.1,0.3", "--min-resources", 2, "--factor", 2, "--max-iter", 20)
    options = ("--holdout", "random:0.2", "--cluster", "threads", "--duplicates", "mean", "--seed", 5)
    code, out, err = run("tune", TRAIN, *grids, *options, "--json", "-o", "tune.html")
    assert code == 0, err
    found = json.loads(out)
    command = shlex.split(found["command"])
    assert command[0] == "mfpipe"
    code, out, _ = run(*command[1:], "--cluster", "serial", "--json")
    assert code == 0
    trained = json.loads(out)
    assert trained["test_rmse"] == pytest.approx(found["best"]["validation_rmse"], rel=1e-12)
    assert trained["objective"] == found["best"]["objective"]
    assert trained["params"]["random_state"] == 5
    html = Path("tune.html").read_text()
    for panel in TUNE_PANELS:
        assert panel.title in html
    code, out, _ = run("tune", TRAIN, *grids, *options)
    assert code == 0
    assert max(len(line) for line in out.splitlines() if "mfpipe train" not in line) <= 80


@pytest.mark.parametrize("command", ["path", "tune"])
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--test", TEST), "--test"), (("--lambdas", "0"), "--lambdas"), (("--lambdas", "a"), "--lambdas"),
        (("--regularization", "0.1"), "--regularization"), (("--model", "user-mean"), "--model"),
        (("--model", "svd"), "--model"), (("--holdout", "random:2"), "--holdout"),
        (("-o", "nowhere/there.html"), "--output"), (("-o", "."), "--output"), (("--tol", "-1"), "--tol"),
        (("--cluster", "nowhere"), "--cluster"), (("--partitions", "0"), "--partitions"),
    ],
)  # fmt: skip
def test_wrong_parameters_are_exit_2_before_any_file_is_opened(run, command, arguments, named):  # noqa: F811
    code, out, err = run(command, "there-is-no-such-file.csv", *arguments)
    assert code == 2, err
    assert named in err
    assert out == ""


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--ranks", "0"), "--rank"), (("--ranks", "2,x"), "--ranks"), (("--ranks", "4,4"), "--ranks"),
        (("--ranks", ""), "--ranks"), (("--weightings", "both"), "--weighting"),
        (("--weightings", "count,count"), "--weightings"), (("--factor", "1"), "--factor"),
        (("--min-resources", "0"), "--min-resources"), (("--min-resources", "51"), "--min-resources"),
        (("--rank", "3"), "--ranks"), (("--weighting", "count"), "--weightings"),
    ],
)  # fmt: skip
def test_wrong_parameters_of_tune(run, arguments, named):  # noqa: F811
    code, _, err = run("tune", "there-is-no-such-file.csv", *arguments)
    assert code == 2, err
    assert named in err


def test_a_test_file_is_refused_by_the_functions_too(tmp_path):
    source = write(tmp_path / "r.csv", TINY)
    for search in (path, tune):
        with pytest.raises(ParameterError, match="--test"):
            search(Data([source], [source]), ALS(), place=SERIAL)


def test_bad_input_is_exit_3(run, tmp_path):  # noqa: F811
    for command in ("path", "tune"):
        assert run(command, "missing.csv")[0] == 3


def test_both_reports_are_drawn_in_a_browser(tmp_path):
    data = Data([write(tmp_path / "r.csv", TINY)])
    write_path_report(path(data, ALS(2, max_iter=2), 3, SERIAL), tmp_path / "path.html")
    found = tune(data, ALS(2, max_iter=9), [1, 2], 2, ["uniform", "count"], 2, 2, SERIAL)
    write_tune_report(found, tmp_path / "tune.html")
    with browser(tmp_path / "profile") as page:
        for name, panels in (("path", PATH_PANELS), ("tune", TUNE_PANELS)):
            page.get((tmp_path / f"{name}.html").as_uri())
            plots = plots_shown(page, len(panels))
            assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []
            assert (
                page.execute_script("return performance.getEntriesByType('resource').map(r => r.name)") == []
            )
            assert all(plot["size"] > 100 for plot in plots)
            points = {count for plot in plots for count in plot["points"]}
            assert points == ({3, 1} if name == "path" else {4})
            page.set_window_size(390, 2000)
            wide = page.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
            assert wide <= 0


def test_hostile_names_are_shown_as_text(tmp_path):
    name = "<script>alert(1)</script>.csv"
    (tmp_path / "d").mkdir()
    source = write(tmp_path / "d" / "r.csv", TINY)
    found = path(Data([source]), ALS(2, max_iter=2), 3, SERIAL)
    write_path_report(found | {"command": name, "notes": [name]}, tmp_path / "p.html")
    found = tune(Data([source]), ALS(2, max_iter=9), [1, 2], 2, ["count"], 2, 2, SERIAL)
    write_tune_report(found | {"command": name}, tmp_path / "t.html")
    for page in ("p.html", "t.html"):
        html = (tmp_path / page).read_text()
        assert "<script>alert(1)" not in html
        assert "&lt;script&gt;alert(1)" in html
