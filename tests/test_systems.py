"""Systems with parameters of their own, from a TOML file."""

import json
import re
from pathlib import Path

import pytest

from mfpipe.comparison import compare, why_slower
from mfpipe.errors import ParameterError
from mfpipe.job import Data, Place
from mfpipe.models import ALS, BiasedALS, UserMean
from mfpipe.systems import read_systems
from tests.make import write
from tests.test_cli import TEST, TRAIN, run  # noqa: F401 - `run` is a fixture

HOMEWORK = Path(__file__).parents[1] / "docs" / "homework.toml"


def toml(tmp_path, text):
    return write(tmp_path / "systems.toml", text)


def test_a_file_gives_models_by_label_with_shared_parameters(tmp_path):
    path = toml(
        tmp_path,
        """
        [[system]]
        model = "user-mean"
        [[system]]
        label = "low (λ=0.1, K=3)"
        model = "als"
        regularization = 1
        rank = 3
        [[system]]
        model = "biased-als"
        nonnegative = true
        """,
    )
    assert read_systems(path, {"rank": 5, "random_state": 7}) == {
        "user-mean": UserMean(),
        "low (λ=0.1, K=3)": ALS(3, 1.0, random_state=7),
        "biased-als": BiasedALS(5, random_state=7, nonnegative=True),
    }


GOOD = '[[system]]\nmodel = "user-mean"\n'


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", ["no [[system]]"]),
        ("system = 3", ["no [[system]]"]),
        ("[[system]", ["not a TOML file"]),
        (b"\xff", ["not a TOML file"]),
        ("title = 'x'\n" + GOOD, ["title = 'x'"]),
        (GOOD + "[[system]]\nrank = 3", ["system 2", "model = None", "user-mean"]),
        ("[[system]]\nmodel = 'svd'", ["system 1", "model = 'svd'"]),
        ("[[system]]\nmodel = ['als']", ["system 1", "model = ['als']"]),
        (GOOD + "[[system]]\nmodel = 'als'\nrank = 2.5", ["system 2", "rank = 2.5", "an integer from 1 to 4096"]),
        (GOOD + "[[system]]\nmodel = 'als'\nrank = true", ["system 2", "rank = True"]),
        ("[[system]]\nmodel = 'als'\nregularization = -1", ["system 1", "regularization = -1"]),
        ("[[system]]\nmodel = 'als'\nregularization = nan", ["system 1", "regularization = nan"]),
        ("[[system]]\nmodel = 'als'\nregularization = '0.1'", ["system 1", "regularization = '0.1'"]),
        ("[[system]]\nmodel = 'als'\nlambda = 1", ["system 1", "lambda = 1", "regularization"]),
        ("[[system]]\nmodel = 'user-mean'\nrank = 1", ["system 1", "rank = 1", "user-mean"]),
        ("[[system]]\nmodel = 'lasso-mf'\nbalance = true\nl1_ratio = 0.5", ["system 1", "--balance", "0.5"]),
        (GOOD + GOOD, ["system 2", "'user-mean'", "system 1"]),
        (GOOD + "label = ''", ["system 1", "label = ''"]),
        (GOOD + "label = 7", ["system 1", "label = 7"]),
        (GOOD + 'label = "\\u001b[31m"', ["system 1", "label", "printable"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_before_anything_is_opened(run, tmp_path, text, named):  # noqa: F811
    path = toml(tmp_path, text)
    code, out, err = run("compare", "there-is-no-such-file.csv", "--systems", path)
    assert code == 2, err
    assert out == ""
    for words in (path, *named):
        assert words in err


def test_wrong_uses_of_a_file_of_systems(run, tmp_path):  # noqa: F811
    path = toml(tmp_path, GOOD)
    for arguments, named in (
        (("--systems", "nowhere.toml"), "nowhere.toml"),
        (("--systems", tmp_path), "cannot be read"),
        (("--systems", path, "--model", "als"), "--model"),
        (("--systems", path, "--rank", "3"), "--rank"),
        (("--model", "als", "--model", "als"), "--systems"),
    ):
        code, _, err = run("compare", "there-is-no-such-file.csv", *arguments)
        assert code == 2, err
        assert named in err


def test_the_same_model_twice_loses_neither(run, tmp_path):  # noqa: F811
    path = toml(
        tmp_path,
        "[[system]]\nlabel = 'low'\nmodel = 'als'\nregularization = 0.01\nrank = 3\n"
        "[[system]]\nlabel = 'high'\nmodel = 'als'\nregularization = 0.3\nrank = 5\n",
    )
    options = ("--systems", path, "--max-iter", 2, "--cluster", "threads", "--record", 7)
    code, out, _ = run("compare", TRAIN, "--test", TEST, *options, "--json")
    assert code == 0
    low, high = json.loads(out)["systems"]
    assert (low["label"], low["params"]["rank"]) == ("low", 3)
    assert (high["label"], high["params"]["regularization"]) == ("high", 0.3)
    assert low["n_iter"] == high["n_iter"] == 2
    assert low["identical"]
    assert low["speedups"].keys() == {"threads"}
    assert (
        low["speedup"] == low["speedups"]["threads"] == low["seconds"]["serial"] / low["seconds"]["threads"]
    )
    code, out, _ = run("compare", TRAIN, "--test", TEST, *options)
    assert code == 0
    assert len(re.findall("^(?:low|high) ", out, re.M)) == 6
    assert max(map(len, out.splitlines())) <= 80


def test_two_systems_of_one_name_are_refused_and_both_are_kept_under_two(tmp_path):
    data, place = Data([TRAIN], [TEST]), Place("serial")
    models = [ALS(2, max_iter=1), ALS(3, max_iter=1)]
    with pytest.raises(ParameterError, match="als"):
        compare(data, models, place)
    found = compare(data, models, place, labels=["two", "three"])
    assert {label: trained.fit.model.rank for label, trained in found.trained.items()} == {
        "two": 2,
        "three": 3,
    }


def system(label, serial, threads, cluster, n_iter=10, sparsity=0.0):
    seconds = {"serial": serial, "threads": threads, "cluster": cluster}
    return {"label": label, "seconds": seconds, "n_iter": n_iter, "sparsity": sparsity}


def test_why_the_cluster_is_slower_is_worked_out_from_the_seconds_of_the_run():
    assert why_slower([system("a", 0.022, 0.017, 0.01)]) == []
    assert why_slower([system("mean", 0.01, 0.01, 1.0, sparsity=None)]) == []
    (one,) = why_slower([system("a", 0.022, 0.017, 0.55), system("b", 9.0, 5.0, 6.0)])
    # 55 - 1.7 ms of overhead against 2.2 - 1.7 ms saved
    assert one == (
        "the cluster is slower than serial for a: its overhead of about 53 ms an iteration exceeds the 0.5 ms "
        "that threads save of the 2.2 ms that an iteration takes serially"
    )
    (two,) = why_slower([system("a", 0.022, 0.017, 0.55), system("b", 0.03, 0.04, 0.07)])
    assert (
        "for every factor model: its overhead of about 4 to 53 ms an iteration exceeds the 0 to 0.5 ms" in two
    )


def test_why_the_cluster_is_slower_where_threads_save_nothing():
    (note,) = why_slower([system("a", 0.02, 0.03, 0.05)])
    assert note.endswith(
        "about 3 ms an iteration comes on top of the 2 ms that an iteration takes serially, of which threads "
        "saved nothing here"
    )


def test_the_homeworks_systems_in_one_table(netflix_files, run):  # noqa: F811
    train, test = netflix_files
    options = ("--systems", HOMEWORK, "--cluster", "threads", "--record", 8560)
    code, out, err = run("compare", train, "--test", test, *options, "--json")
    assert code == 0, err
    systems = {system["label"]: system for system in json.loads(out)["systems"]}
    assert list(systems) == list(read_systems(HOMEWORK))
    assert all(system["identical"] for system in systems.values())
    rmse = {label: round(system["test_rmse"], 4) for label, system in systems.items()}
    assert rmse["user-mean"] == 1.0166
    assert rmse["bias+MF (λ=0.1, K=3)"] == rmse["bias+MF (λ=0.3, K=5)"] == 0.9711
    assert rmse["bias+MF (λ=3e-4, K=3)"] <= 0.961
    assert abs(rmse["Lasso-MF (alpha=0.1, K=3)"] - 1.09) <= 0.01
    assert abs(rmse["Lasso-MF (alpha=0.3, K=5)"] - 1.09) <= 0.005
    for system in systems.values():
        assert system["params"].get("dtype", "float64") == "float64"
    assert systems["user-item-mean"]["record"]["predicted"] == 4.524252491694352
