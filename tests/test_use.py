"""recommend, similar, explain, fold-in and predict as their users meet them: the command line and Python."""

import csv
import json
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone

import mfpipe
from mfpipe import rated
from mfpipe.cli import main
from mfpipe.store import Store
from tests.commands import ran
from tests.make import write
from tests.test_serving import HOSTILE

TRAIN = str(Path(__file__).parents[1] / "data" / "train.csv.gz")
FAST = ("--cluster", "threads", "--rank", 4, "--max-iter", 3, "-q")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A directory with a store: `als` on the sample, and `odd`, whose users and items are hostile ids."""
    home = tmp_path_factory.mktemp("shop")
    rng = np.random.default_rng(0)
    with (home / "odd.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["user", "item", "rating"])
        for u, user in enumerate(HOSTILE):
            rows.writerows(
                [user, HOSTILE[i], rng.integers(1, 6)] for i in rng.permutation(len(HOSTILE))[: 4 + u % 4]
            )
    store = ("--store", home / "mfpipe-store")
    for name, file, model in (("als", TRAIN, "als"), ("odd", home / "odd.csv", "biased-als")):
        command = ["train", file, "--model", model, "--name", name, "--dtype", "float64", *FAST, *store]
        assert main([str(word) for word in command]) == 0
    return home


@pytest.fixture
def run(shop, monkeypatch, capsys):
    """Run a command beside the store; its exit code, standard output and standard error."""
    monkeypatch.chdir(shop)
    return partial(ran, capsys)


@pytest.fixture
def model(shop):
    return mfpipe.load("als", store=shop / "mfpipe-store")


def items_of(found):
    return [(row["item"], row["score"], row["rank"]) for row in found["items"]]


def test_recommend_says_the_same_everywhere(run, model):
    code, out, _ = run("recommend", "als", "--user", 5, 1371, "nobody", "-n", 4, "--json")
    assert code == 0
    found = json.loads(out)
    assert [(one["user"], one["source"]) for one in found["users"]] == [
        ("5", "known"),
        ("1371", "known"),
        ("nobody", "popularity"),
    ]
    mine = model.recommend([5, 1371], n=4)
    assert mine.item.dtype == mine.user.dtype == np.int64
    expected = list(zip(map(str, mine.item), mine.score, mine.rank, strict=True))
    assert items_of(found["users"][0]) + items_of(found["users"][1]) == expected
    assert mine.score.tolist() == model.predict(np.column_stack((mine.user, mine.item))).tolist()

    code, out, _ = run("recommend", "als", "--all", "-n", 4, "-o", "all.parquet", "--json")
    assert code == 0
    table = pq.read_table("all.parquet").to_pandas()
    assert json.loads(out)["rows"] == len(table) == 4 * len(model.users_)
    assert table.user.tolist() == np.repeat(model.users_, 4).astype(str).tolist()
    assert table[table.user == "1371"].item.tolist() == [row[0] for row in expected[4:]]

    code, out, _ = run("recommend", "als", "--user", 1371, "-n", 4, "--json")
    assert items_of(json.loads(out)) == expected[4:]  # of a single user, also at the top
    _, out, _ = run("recommend", "als", "--user", 1371, "-n", 4)
    assert out.splitlines()[0] == "1371 (known)"


def test_what_may_be_recommended(run, model):
    seen = pd.read_csv(TRAIN, dtype=str).query("user_id == '1371'").item_id
    write(Path("allow.txt"), "\ufeff" + "\r\n".join([*seen[:3], "12", "13", "unheard of"]))
    write(Path("deny.txt"), "13\n")
    lists = ("--allow", "allow.txt", "--deny", "deny.txt", "--json")
    code, out, _ = run("recommend", "als", "--user", 1371, *lists)
    held = set(map(str, model.items_[model.fitted_.rated.columns[slice(*_rows(model, 1371))]]))
    assert code == 0
    assert {row[0] for row in items_of(json.loads(out))} == {*seen[:3], "12"} - held
    _, out, _ = run("recommend", "als", "--user", 1371, *lists, "--include-seen")
    assert {row[0] for row in items_of(json.loads(out))} == {*seen[:3], "12"}
    write(Path("seen.csv"), "user,item\n1371,12\nnobody,12\n")
    _, out, _ = run("recommend", "als", "--user", 1371, *lists, "--seen", "seen.csv")
    assert "12" not in {row[0] for row in items_of(json.loads(out))}
    _, out, _ = run("recommend", "als", "--user", 1371, "--min-support", 80, "--diversity", 0.5, "--json")
    found = model.recommend(1371, min_support=80, diversity=0.5)
    assert [row[0] for row in items_of(json.loads(out))] == found.item.astype(str).tolist()
    assert model.fitted_.item_counts[np.searchsorted(model.items_, found.item)].min() >= 80


def _rows(model, user):
    row = np.searchsorted(model.users_, user)
    return model.fitted_.rated.indptr[[row, row + 1]]


def test_people_who_are_not_in_the_model(run, model):
    write(Path("new.csv"), "user,item,rating\nzoe,892,5\nzoe,nothing,3\nyan,12,1\nyan,13,4\nxi,nothing,1\n")
    code, out, _ = run("recommend", "als", "--ratings", "new.csv", "-n", 3, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["left_out"] == 2
    assert [(one["user"], one["source"]) for one in found["users"]] == [
        ("xi", "popularity"),
        ("yan", "folded in"),
        ("zoe", "folded in"),
    ]
    folded = model.fold_in({12: 1.0, 13: 4.0})
    assert items_of(found["users"][1]) == list(
        zip(*(array.tolist() for array in _as_text(folded.recommend(n=3))), strict=True)
    )
    frame = pd.DataFrame({"user": ["zoe", "yan", "yan"], "item": ["892", "12", "13"], "rating": [5, 1, 4]})
    both = model.fold_in(frame)
    assert both.ids.tolist() == ["yan", "zoe"]
    assert (both.factors[0] == folded.factors[0]).all()
    code, out, _ = run("recommend", "als", "--ratings", "new.csv", "--user", "zoe", "--json")
    assert [one["user"] for one in json.loads(out)["users"]] == ["zoe"]
    assert model.fold_in(
        ([[9, "new"]] * 0 + [[9, 10**6], [12, 10**6]], [4, 2]), side="item"
    ).factors.shape == (1, 4)


def _as_text(found):
    return found.item.astype(str), found.score, found.rank


def test_similar(run, model):
    code, out, _ = run("similar", "als", "--item", 892, "-n", 3, "--json")
    assert code == 0
    nearest = model.similar_items(892, n=3)
    expected = list(zip(map(str, nearest.id), nearest.score, nearest.rank, strict=True))
    assert items_of(json.loads(out)) == expected
    code, out, _ = run("similar", "als", "--user", 5, 7, "-n", 2, "--json")
    assert [len(one["users"]) for one in json.loads(out)["similar"]] == [2, 2]
    assert model.similar_users([5, 7], n=2).frame().shape == (4, 4)


def test_explain(run, model):
    code, out, _ = run("explain", "als", "--user", 1371, "--item", 892, "--json")
    assert code == 0
    found = json.loads(out)
    reasons = model.explain(1371, 892)
    assert found["prediction"] == reasons.prediction == model.predict([[1371, 892]])[0]
    assert [row["share"] for row in found["ratings"]] == reasons.shares.share.tolist()
    assert sum(reasons.parts.values()) + reasons.shares.share.sum() == pytest.approx(
        reasons.prediction, abs=1e-9
    )
    assert len(reasons.shares.item) == np.diff(_rows(model, 1371))[0]
    _, out, _ = run("explain", "als", "--user", "nobody", "--item", 892)
    assert "fallback" in out
    assert "prediction" in run("explain", "als", "--user", 1371, "--item", 892)[1]


def test_predict_clips(run, model):
    write(Path("pairs.csv"), "user,item\n1371,892\n5,12\nx,892\n")
    assert run("predict", "als", "pairs.csv", "-o", "out.csv", "--clip", 3.4, 3.6)[0] == 0
    rows = list(csv.DictReader(Path("out.csv").read_text().splitlines()))
    expected = np.clip(model.predict([["1371", "892"], ["5", "12"], ["x", "892"]]), 3.4, 3.6)
    assert [float(row["prediction"]) for row in rows] == expected.tolist()


def test_evaluate_ranks_on_request(run):
    _, out, _ = run("evaluate", "als", TRAIN, "--json")
    assert "ranking" not in json.loads(out)
    code, out, _ = run("evaluate", "als", TRAIN, "--ranking", 5, "--relevant", 4, "--json")
    assert code == 0
    found = json.loads(out)["ranking"]
    assert (found["n"], found["relevant"]) == (5, 4.0)
    assert 0 < found["recall"] < 1
    assert f"{found['ndcg']:.6f}" in run("evaluate", "als", TRAIN, "--ranking", 5, "--relevant", 4)[1]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("recommend als", 2, "say for whom"),
        ("recommend als --user 5 -n 0", 2, "-n 0: must be an integer from 1"),
        ("recommend als --user 5 --diversity 1.5", 2, "--diversity 1.5: must lie between 0 and 1"),
        ("recommend als --user 5 --min-support -1", 2, "--min-support -1: must be 0 or more"),
        ("recommend als --user 5 --min-support 99999", 2, "leave no item"),
        ("recommend als --user 5 --all -o x.parquet", 2, "--all: not with --user"),
        ("recommend als --all", 2, "--all: needs -o"),
        ("recommend als --user \udcff", 2, "not UTF-8"),
        ("recommend nobody --user 5", 5, "nobody: no such model"),
        ("recommend als --user 5 --allow missing.txt", 3, "missing.txt: no such file"),
        ("recommend als --user 5 --seen missing.csv", 3, "missing.csv: no such file"),
        ("recommend als --ratings missing.csv", 3, "missing.csv: no such file"),
        (
            "recommend als --ratings odd.csv --user stranger",
            2,
            "--user 'stranger': has no rating in the files",
        ),
        ("recommend als --all -o missing/x.parquet", 5, "missing/x.parquet: cannot be written"),
        ("similar als", 2, "--item or --user: give one"),
        ("similar als --item 12 --user 5", 2, "--item or --user: give one"),
        ("similar als --item nothing", 2, "item 'nothing' was not trained on"),
        ("predict als odd.csv -o x.csv --clip 5 1", 2, "--clip 5 1: must be two numbers"),
        ("evaluate als odd.csv --ranking 0", 2, "-n 0: must be"),
        ("evaluate als odd.csv --relevant 4", 2, "--relevant: only with --ranking"),
        ("serve als --port 99999", 2, "--port 99999"),
        ("serve nobody --port 0", 5, "nobody: no such model"),
    ],
)
def test_refusals_name_what_is_wrong(run, arguments, code, words):
    got, _, err = run(*arguments.split(" "))
    assert got == code
    assert words in err
    assert "Traceback" not in err


def test_every_id_is_just_an_id(run, shop):
    model = mfpipe.load("odd", store=shop / "mfpipe-store")
    assert set(model.users_) == set(HOSTILE)
    _, out, _ = run("recommend", "odd", "--user", *HOSTILE, "-n", 3, "--json")
    users = json.loads(out)["users"]
    assert [(one["user"], one["source"]) for one in users] == [(mine, "known") for mine in HOSTILE]
    for one in users:
        found = model.recommend(one["user"], n=3)
        assert items_of(one) == list(zip(found.item, found.score, found.rank, strict=True))
    assert model.recommend("07").source[0] == "biases"
    assert model.recommend(7, n=1).score[0] == model.recommend("7", n=1).score[0]
    _, out, _ = run("similar", "odd", "--item", *HOSTILE, "-n", 2, "--json")
    assert [one["item"] for one in json.loads(out)["similar"]] == HOSTILE
    assert run("recommend", "odd", "--all", "-o", "odd.parquet")[0] == 0
    assert set(pq.read_table("odd.parquet")["user"].to_pylist()) == set(HOSTILE)
    for mine in HOSTILE:
        _, out, _ = run("explain", "odd", "--user", mine, "--item", HOSTILE[0], "--json")
        assert json.loads(out)["prediction"] == model.predict(np.array([[mine, HOSTILE[0]]], dtype=object))[0]
    for command in (["recommend", "odd", "--user", *HOSTILE], ["similar", "odd", "--user", *HOSTILE]):
        out = run(*command)[1]
        assert "\u202e" not in out  # text is not turned around on a terminal
        assert "\\u202eevil" in out


def test_estimators_still_clone_and_pickle_and_keep_their_types(model):
    found = model.recommend(pd.Series([5, 7]), n=2)
    again = pickle.loads(pickle.dumps(model)).recommend([5, 7], n=2)
    assert (found.item == again.item).all()
    assert clone(model).get_params() == model.get_params()
    assert found.frame().columns.tolist() == ["user", "rank", "item", "score", "source"]
    assert model.recommend([]).item.size == 0
    for wrong in (True, 1.5, [[1, 2]], ["a", 2], "\ud800"):
        with pytest.raises(ValueError, match="user id"):
            model.recommend(wrong)
    with pytest.raises(ValueError, match="must be 'user' or 'item'"):
        model.fold_in({1: 2}, side="x")
    with pytest.raises(ValueError, match="not finite"):
        model.fold_in({1: np.nan})
    with pytest.raises(ValueError, match="not none"):
        model.fold_in({})


def test_what_was_rated_is_kept_and_comes_back(shop, run):
    version = Store(shop / "mfpipe-store").version("als")
    kept = rated.load(version).rated
    table = version.table(rated.FILE)
    assert table.column_names == ["user", "item", "rating"]
    assert_array_equal(np.repeat(np.arange(kept.n_rows), np.diff(kept.indptr)), table["user"])
    assert_array_equal(kept.columns, table["item"])
    assert_array_equal(kept.values, table["rating"])
    assert len(kept.values) == version.manifest["data"]["n_ratings"]
    path = version.path / rated.FILE
    whole = path.read_bytes()
    path.write_bytes(whole[:-7] + b"0000000")
    try:
        code, _, err = run("recommend", "als", "--user", 5)
        assert code == 5
        assert "ratings.parquet: its checksum" in err
        assert run("recommend", "als", "--user", 5, "--include-seen")[0] == 0
    finally:
        path.write_bytes(whole)
