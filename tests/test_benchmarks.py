"""The benchmark's harness, on a set that takes no time; nothing here judges a time."""

import json
import math
import shutil
import sys
from functools import partial

import numpy as np
import pytest
from numpy.testing import assert_allclose

from benchmarks import data, machine, measure, must_show
from benchmarks.__main__ import arguments, main
from benchmarks.environments import PEERS
from benchmarks.judge import judge
from benchmarks.page import page
from benchmarks.plan import full, quick
from benchmarks.plan import must_show as must_show_plan
from benchmarks.tables import tables
from benchmarks.whole import goals


def in_short(measured, ranks, repeats, quick):
    """The machine's rates from small arrays, whatever the plan is."""
    return measured(ranks, repeats, quick=True)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A whole run of small sections on the tiny set, without packages to compare with."""
    home = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MFPIPE_BENCH", str(home))
        patch.setenv("MFPIPE_HOMEWORK", str(home / "absent"))
        patch.setattr(machine, "measured", partial(in_short, machine.measured))
        words = "--plan full --sets tiny --ranks 4 --peers none --repeats 1 --sections"
        main([*words.split(), "sets,roofline,peers,models,whole,homework", "--out", str(home / "out")])
        yield json.loads((home / "out" / "results.json").read_text()), home


def test_a_run_measures_and_judges(results):
    found, _ = results
    (row,) = found["sections"]["peers"]
    assert row["repeats"] == 1
    assert row["seconds"]["n"] == row["iterations"] - 1
    assert row["seconds"]["min"] <= row["seconds"]["median"] <= row["seconds"]["max"]
    assert row["quality"]["objective"] == pytest.approx(row["said"]["objective_reached"], rel=1e-5)
    assert row["quality"]["train_rmse"] == pytest.approx(row["said"]["train_rmse"], rel=1e-5)
    assert row["quality"]["held_out_rmse"] > row["quality"]["train_rmse"]
    assert found["sections"]["homework"]["skipped"].startswith("the homework's files are not here")
    assert {model["options"]["model"] for model in found["sections"]["models"]} == {
        "als",
        "biased-als",
        "lasso-mf",
    }


def test_what_was_not_measured_is_said(results):
    found, _ = results
    assert {each["not_run"] for each in found["peers"]} == {"not chosen"}
    assert all(each.met is None for each in must_show.figures(found))
    assert "not measured in this run" in page(found)


def test_page_and_report_hold_every_table(results):
    found, home = results
    text, html = page(found), (home / "out" / "report.html").read_text()
    for table in tables(found):
        if table.rows:
            assert f"## {table.title}\n" in text
            assert f"<h2>{table.title}</h2>" in html.replace("&#39;", "'")
            assert all(len(row) == len(table.columns) for row in table.rows)


@pytest.fixture
def again(results, tmp_path, monkeypatch):
    """A function that runs once more over a copy of the results, and returns what is there then."""
    _, home = results
    shutil.copytree(home / "out", tmp_path / "again")
    monkeypatch.setenv("MFPIPE_BENCH", str(home))

    def run(*words):
        main([*words, "--sets", "tiny", "--ranks", "4", "--peers", "none", "--out", str(tmp_path / "again")])
        return json.loads((tmp_path / "again" / "results.json").read_text())

    return run


def test_a_second_run_keeps_what_is_there(results, again):
    assert again("--resume", "--sections", "peers") == results[0]


def test_a_section_run_anew_leaves_the_others(results, again):
    found = again("--sections", "roofline")["sections"]
    assert found["roofline"] != results[0]["sections"]["roofline"]
    assert found | {"roofline": None} == results[0]["sections"] | {"roofline": None}


def test_results_of_another_plan_are_not_mixed_in(again):
    with pytest.raises(SystemExit, match="is of --plan full"):
        again("--plan", "quick", "--sections", "roofline")


def test_must_show_compares_medians():
    """10 M set, rank 64: 3.6 s against 0.9 s is 4×; J 0.5 against 0.4 is worse, RMSE 1.1 against 1 too."""

    def row(system, seconds, quality, **options):
        times = {"median": seconds, "min": seconds / 2, "max": 2 * seconds, "n": 3}
        judged = dict(zip(("objective", "train_rmse", "held_out_rmse"), quality, strict=True))
        return {
            "system": system,
            "set": "10m",
            "rank": 64,
            "iterations": 3,
            "options": options,
            "seconds": times,
            "quality": judged,
            "said": {"course": [judged] * 3},
        }

    sections = {"peers": [row("mfpipe", 0.9, (0.5, 1.1, 1.2)), row("lenskit", 3.6, (0.4, 1.0, 1.2))]}
    found = {each.what: each for each in must_show.figures({"sections": sections})}
    faster = found["exact ALS, 10 M set, against LensKit, rank 64"]
    assert faster.met is True
    assert faster.measured == "4× (1 to 16): 0.9 against 3.6 s"
    assert found["exact ALS, 10 M set, against LensKit, rank 64: no worse"].met is False
    assert found["exact ALS, 10 M set, against LensKit, rank 128"].met is None


def test_the_fastest_way_to_the_best_rmse_counts():
    def row(system, *reached, **options):
        at = [{"iterations": n, "seconds": s, "held_out_rmse": rmse} for n, s, rmse in reached]
        return {"system": system, "set": "10m", "rank": 16, "options": options, "reached": at}

    small = row("mfpipe", (1, 0.5, 0.9), (2, 1.0, 0.79), model="als", **{"init-scale": "0.01"})
    reach = [row("mfpipe", (1, 0.4, 0.81), model="als"), small]
    found = {each.what: each for each in must_show.figures({"sections": {"reach": [
        *reach, row("cmfrec", (2, 2.0, 0.85), (4, 3.0, 0.8), solver="cg"),
    ]}})}  # fmt: skip
    figure = found["fit to the best held-out RMSE of cmfrec's conjugate gradients, 10 M set, rank 16"]
    assert figure.measured == (
        "als never, 0.8100 at best; als --init-scale 0.01 1 s, 2 iterations; "
        "cmfrec 0.8000 after 4 iterations, 3 s"
    )
    assert figure.met is True


def test_goals_are_half_a_percent_above_the_best_peer():
    def row(system, *reached, **options):
        at = [{"iterations": n, "seconds": 1.0, "held_out_rmse": rmse} for n, rmse in reached]
        return {"system": system, "rank": 32, "options": options, "reached": at}

    goal, found = goals(
        [
            row("mfpipe", (1, 0.9), (2, 0.803), model="als"),
            row("mfpipe", (1, 0.9), (2, 0.803), model="biased-als"),
            row("lenskit", (1, 0.9), (3, 0.8)),
            row("libmf", (1, 0.9)),
        ],
        32,
    )
    assert goal == pytest.approx(0.804)
    assert [each["iterations"] for each in found] == [2, 3, None]


def test_arithmetic_of_three_rows():
    """Users of 1 and 3 ratings, items of 2, 1 and 1, rank 2.

    Primal: n K² + K³/3 over five rows is 8·4 + 5·8/3. In the dual a row of one rating needs 2 + 1/3; the
    others, of 2 and 3 ratings, are not shorter than the rank.
    """
    user, item = np.array([0, 1, 1, 1], np.int32), np.array([0, 0, 1, 2], np.int32)
    triples = data.Triples(
        user, item, np.ones(4, np.float32), user, item, np.ones(4, np.float32), 0.0, (2, 3)
    )
    found = machine.arithmetic(triples, 2)
    assert found["primal"] == pytest.approx(32 + 40 / 3)
    assert found["least"] == pytest.approx((2 + 3) * 4 + 2 * 8 / 3 + 3 * (2 + 1 / 3))


def test_judge_agrees_with_the_oracle(tmp_path):
    rng = np.random.default_rng(3)
    user, item = (array.astype(np.int32) for array in np.nonzero(rng.random((7, 5)) < 0.6))
    target = rng.normal(size=len(user)).astype(np.float32)
    triples = data.Triples(user, item, target, user[:3], item[:3], target[:3], 3.0, (7, 5))
    factors = {"user": rng.normal(size=(7, 2)).astype("f4"), "item": rng.normal(size=(5, 2)).astype("f4")}
    np.savez(tmp_path / "factors.npz", **factors)
    found = judge(tmp_path / "factors.npz", triples, 0.1)
    residual = target - np.einsum("nk,nk->n", factors["user"][user], factors["item"][item])
    penalty = sum((factors[side][rows] ** 2).sum() for side, rows in (("user", user), ("item", item)))
    assert_allclose(found["objective"], (residual @ residual + 0.1 * penalty) / len(user), rtol=1e-6)
    assert_allclose(found["held_out_rmse"], math.sqrt(np.mean(residual[:3] ** 2)), rtol=1e-6)


def test_a_process_is_observed(tmp_path):
    code = "import json,time;x=bytearray(50_000_000);print(json.dumps({'event':'a','n':1}));time.sleep(.3);print('Epoch 1')"
    seen = measure.observe([sys.executable, "-c", code], 1)
    assert seen.failure is None
    assert seen.events["a"][1] == {"n": 1}
    assert seen.lines[1][1] == "Epoch 1"
    assert 0.2 < seen.lines[1][0] - seen.lines[0][0] < seen.seconds
    assert seen.peak(0, seen.seconds) > 50_000_000


def test_a_process_that_fails_or_hangs_is_named():
    assert (
        measure.observe([sys.executable, "-c", "raise ValueError('no data')"]).failure
        == "exit code 1: ValueError: no data"
    )
    hanging = measure.observe([sys.executable, "-c", "import time; time.sleep(60)"], most_seconds=0.3)
    assert "without an end" in hanging.failure


def test_cases_take_turns_and_two_failures_are_enough():
    cases = [measure.Case("mfpipe", "tiny", rank, 2) for rank in (1, 2)]
    order = []

    def run_one(case, repeat):
        order.append(case.rank)
        if case.rank == 2:
            return {"failed": "no"}
        times = dict.fromkeys(("first", "prepare", "fit", "whole", "peak", "peak_in_fit"), 1.0)
        return {"seconds": [float(repeat)], "said": {}, **times}

    good, bad = measure.interleave(cases, run_one, 3, 100, lambda text: None)
    assert order == [1, 2, 1, 2, 1]
    assert good["seconds"] == {"median": 1.0, "min": 0.0, "max": 2.0, "n": 3}
    assert bad["failed"] == "no"


@pytest.mark.parametrize(
    "plan", [quick(["lenskit"]), must_show_plan(), full(["100k", "2m", "10m", "30m"], [16, 64], ["spark"])]
)
def test_plans_name_sections_and_sets_that_are(plan):
    groups = [group for groups in plan.groups.values() for group in groups]
    assert {case.set for group in groups for case in group} <= set(data.NAMES)
    assert all(case.iterations > 1 for group in groups for case in group)


def test_wrong_words_are_refused(capsys):
    with pytest.raises(SystemExit):
        arguments(["--peers", "nobody"])
    assert "--peers nobody: must be of lenskit" in capsys.readouterr().err


PEER = '''
import numpy as np
import peer

def prepare(data, options):
    return data

def fit(data, options, iterations, steps):
    """Constant factors of rank one, so that every figure is known."""
    factors = peer.Factors(np.full((data.shape[0], 1), 2.0), np.ones((data.shape[1], 1)), offset=0.5)
    for _ in range(iterations):
        steps.done(lambda: factors)
    return factors

peer.main(prepare, fit, lambda options: {"settings": {"threads": options.threads}}, stepwise=True)
'''


def test_a_peers_script_is_run_and_judged(tmp_path):
    """Targets are 1 and 3 and every prediction is 2·1 + 0.5: held-out RMSE is √((1.5² + 0.5²)/2)."""
    user, item = np.array([0, 1], np.int32), np.array([1, 0], np.int32)
    target = np.array([1, 3], np.float32)
    arrays = {"user": user, "item": item, "target": target}
    tests = {f"test_{name}": array for name, array in arrays.items()}
    np.savez(tmp_path / "set.npz", **arrays, **tests, mean=3.0, shape=(2, 2))
    (tmp_path / "script.py").write_text(PEER)
    case = measure.Case("peer", "set", 1, 3, threads=1)
    words = ["--ratings", tmp_path / "set.npz", "--rank", 1, "--iterations", 3, "--at", "1,3"]
    command = [sys.executable, tmp_path / "script.py", *words, "--factors", tmp_path / "factors.npz"]
    found = measure.run(case, command, {"PYTHONPATH": str(PEERS)})
    assert len(found["seconds"]) == 2
    assert found["peak"] >= found["peak_in_fit"] >= 0
    assert found["said"]["settings"] == {"threads": 2}
    expected = math.sqrt((1.5**2 + 0.5**2) / 2)
    assert [at["iterations"] for at in found["reached"]] == [1, 3]
    assert [at["held_out_rmse"] for at in found["reached"]] == pytest.approx([expected] * 2)
    judged = judge(tmp_path / "factors.npz", data.load(tmp_path / "set.npz"), 0.1)
    assert judged["train_rmse"] == pytest.approx(expected)
    assert judged["objective"] == pytest.approx(expected**2 + 0.1 * (2 * 2.0**2 + 2 * 1.0**2) / 2)
