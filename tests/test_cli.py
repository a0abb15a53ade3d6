"""The command line as its users meet it: results, JSON, and exit codes."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

import mfpipe
from tests.commands import ran
from tests.make import write

SAMPLE = Path(__file__).parents[1] / "data"
TRAIN, TEST = str(SAMPLE / "train.csv.gz"), str(SAMPLE / "test.csv.gz")
TINY = "user,item,rating,date\n" + "".join(
    f"{n % 9},{n % 11},{1 + n % 5},2020-01-{1 + n % 28:02d}\n" for n in range(90)
)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run a command in an empty directory; its exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    return partial(ran, capsys)


def test_train_evaluate_predict_and_report(run, tmp_path):
    code, out, _ = run("train", TRAIN, "--test", TEST, "--cluster", "threads", "--rank", 4, "--json")
    assert code == 0
    trained = json.loads(out)
    assert (trained["name"], trained["version"], trained["published"]) == ("als", "1", True)
    assert trained["data"]["n_ratings"] == 50_000
    assert trained["test"]["rows"] == 12_500
    assert trained["history"][-1]["objective"] == trained["objective"]
    assert trained["n_iter"] == len(trained["history"])
    assert set(trained["timings"]) >= {"ingest", "compile", "fit", "evaluate", "store", "total"}
    assert Path(trained["path"], "manifest.json").is_file()

    code, out, _ = run("evaluate", "als", TEST, "--json")
    assert code == 0
    assert json.loads(out)["rmse"] == trained["test_rmse"]

    pairs = write(tmp_path / "pairs.csv", "user,item\n1371,892\nnobody,892\n1371,nothing\nx,y\n1371,892\n")
    code, out, _ = run("predict", "als@1", pairs, "-o", "out.csv", "--json")
    assert code == 0
    assert json.loads(out)["rows"] == 5
    rows = list(csv.DictReader(Path("out.csv").read_text().splitlines()))
    assert [row["source"] for row in rows] == [
        "known",
        "cold user",
        "cold item",
        "cold user and item",
        "known",
    ]
    assert [row["user"] for row in rows] == ["1371", "nobody", "1371", "x", "1371"]
    assert rows[0]["prediction"] == rows[4]["prediction"]
    model = mfpipe.load("als", store="mfpipe-store")
    assert float(rows[0]["prediction"]) == model.predict([["1371", "892"]])[0]

    assert run("report", "als", "-o", "report.html")[0] == 0
    assert "als@1" in Path("report.html").read_text()
    code, out, _ = run("models", "--json")
    assert [(m["name"], m["version"], m["current"]) for m in json.loads(out)["models"]] == [
        ("als", "1", True)
    ]


def test_ingest_then_train_from_the_dataset_gives_the_same_factors(run):
    code, out, _ = run("ingest", TRAIN, "--out", "ratings", "--json")
    assert code == 0
    report = json.loads(out)
    assert set(report) >= {"rows", "accepted", "rejected", "reasons", "quarantine", "duplicates", "ratings", "users", "items", "sha256"}  # fmt: skip
    options = ("--cluster", "serial", "--rank", 3, "--max-iter", 2, "--tol", 0, "--json")
    one, other = (json.loads(run("train", source, *options)[1]) for source in ("ratings", TRAIN))
    assert one["checksums"] == other["checksums"]
    assert one["data"]["sha256"] == other["data"]["sha256"]
    assert "unchanged, kept as it was" in run("ingest", TRAIN, "--out", "ratings")[1]


def test_the_same_seed_gives_the_same_factors_and_another_seed_others(run, tmp_path):
    source = write(tmp_path / "r.csv", TINY)
    sums = [
        json.loads(run("train", source, "--cluster", place, "--seed", seed, "--json")[1])["checksums"]
        for place, seed in (("serial", 0), ("threads", 0), ("serial", 1))
    ]
    assert sums[0] == sums[1]
    assert sums[0] != sums[2]


def test_compare_shows_every_system_the_same_everywhere(run):
    code, out, _ = run(
        "compare", TRAIN, "--test", TEST, "--record", 7, "--workers", 2, "--max-iter", 3, "--json"
    )
    assert code == 0
    systems = json.loads(out)["systems"]
    assert [s["model"] for s in systems] == [
        "user-mean",
        "item-mean",
        "user-item-mean",
        "lasso-mf",
        "biased-als",
        "als",
    ]
    for system in systems:
        assert system["identical"]
        assert set(system["seconds"]) == {"serial", "threads", "cluster"}
        assert system["record"]["record"] == 7
        assert system["test_rmse"] > 0
    code, out, _ = run("compare", TRAIN, "--test", TEST, "--cluster", "threads", "--model", "user-mean")
    assert code == 0
    assert "user-mean" in out
    assert "als" not in out.replace("false", "")
    assert max(map(len, out.splitlines())) <= 80


def test_no_publish_leaves_the_current_version(run, tmp_path):
    source = write(tmp_path / "r.csv", TINY)
    for extra in ((), ("--no-publish",)):
        assert run("train", source, "--cluster", "serial", "--name", "m", *extra)[0] == 0
    code, out, _ = run("models", "list", "m", "--json")
    assert [(m["version"], m["current"]) for m in json.loads(out)["models"]] == [("1", True), ("2", False)]
    assert run("models", "rollback", "m@2")[0] == 0
    assert json.loads(run("models", "show", "m", "--json")[1])["version"] == "2"
    assert run("models", "remove", "m@1")[0] == 0
    for which in (("m",), ("m@2",), ()):
        code, out, _ = run("models", "verify", *which)
        assert (code, out) == (0, "m@2: intact\n")
    next(Path("mfpipe-store/m/2").glob("user_factors*")).write_bytes(b"")
    assert run("train", source, "--cluster", "serial", "--name", "other")[0] == 0
    for which in (("m",), ()):
        code, out, err = run("models", "verify", *which)
        assert code == 5
        assert "user_factors.parquet" in out
        assert "damaged: m@2" in err
        assert ("other@1: intact" in out) == (which == ())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--rank", "0"), "--rank"), (("--rank", "2.5"), "--rank"), (("--rank", "x"), "--rank"),
        (("--regularization", "nan"), "--regularization"), (("--regularization", "-1"), "--regularization"),
        (("--regularization", ""), "--regularization"), (("--max-iter", "-1"), "--max-iter"),
        (("--tol", "-1"), "--tol"), (("--seed", "-1"), "--seed"), (("--dtype", "int8"), "--dtype"),
        (("--weighting", "x"), "--weighting"), (("--holdout", "random:0"), "--holdout"),
        (("--holdout", "random:nan"), "--holdout"), (("--partitions", "0"), "--partitions"),
        (("--workers", "-2"), "--workers"), (("--cluster", "nowhere"), "--cluster"), (("--model", "svd"), "--model"),
        (("--name", "../x"), "model name"), (("--name", ""), "model name"), (("--nonsense", "1"), "--nonsense"),
        (("--delimiter", "::"), "--delimiter"), (("--max-bad-fraction", "2"), "--max-bad-fraction"),
        (("--duplicates", "sum"), "--duplicates"), (("--rating-range", "5", "1"), "--rating-range"),
        (("--model", "user-mean", "--rank", "3"), "--rank"),
    ],
)  # fmt: skip
def test_a_wrong_parameter_is_exit_2_by_name_before_any_file_is_opened(run, arguments, named):
    if named == "model name" and arguments[1] == "":
        arguments = ("--name", " ")
    code, out, err = run("train", "there-is-no-such-file.csv", *arguments)
    assert code == 2, err
    assert named in err
    assert out == ""
    assert not Path("mfpipe-store").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"), ("user,item,rating\n", "no data line"), ("user,rating\n1,2\n", "no item column"),
        ("user,item,rating\n1,2,x\n", "1 of 1 lines"), (b"\x1f\x8b\x08broken", "damaged gzip"),
    ],
)  # fmt: skip
def test_bad_input_is_exit_3_and_publishes_nothing(run, tmp_path, text, message):
    code, _, err = run("train", write(tmp_path / "r.csv", text), "--cluster", "serial")
    assert code == 3
    assert "r.csv" in err
    assert message in err
    assert "Traceback" not in err
    assert not list(Path().glob("mfpipe-store/als*"))


@pytest.mark.parametrize(
    ("rows", "test"),
    [
        ("1,1,3\n", True),
        ("1,1,3\n1,2,4\n1,3,4\n", True),
        ("1,1,3\n2,1,4\n3,1,5\n", True),
        ("1,1,3\n2,2,3\n3,3,3\n", True),
    ],
    ids=["one rating", "one user", "one item", "constant ratings"],
)
@pytest.mark.parametrize("regularization", ["0", "0.05", "1e12"])
def test_degenerate_ratings_give_defined_values(run, tmp_path, rows, test, regularization):
    source = write(tmp_path / "r.csv", "user,item,rating\n" + rows)
    options = ("--rank", 5, "--regularization", regularization, "--cluster", "threads", "--json")
    code, out, err = run("train", source, "--test", source, *options)
    assert code == 0, err
    record = json.loads(out)  # JSON here has no NaN
    assert record["test_rmse"] >= 0
    assert f"{len(rows.split())} of {len(rows.split())} test records are also in the training ratings" in err


def test_missing_things_have_their_exit_codes(run, tmp_path, monkeypatch):
    monkeypatch.setattr("mfpipe.cluster.CONNECT_SECONDS", 1)
    assert run("evaluate", "nothing", TEST)[0] == 5
    assert run("predict", "nothing", TEST, "-o", "x")[0] == 5
    assert run("models", "show", "nothing")[0] == 5
    assert run("models", "verify", "nothing")[0] == 5
    assert run("train", "missing.csv")[0] == 3
    assert run()[0] == 2
    source = write(tmp_path / "r.csv", TINY)
    assert run("train", source, "--cluster", "tcp://127.0.0.1:9", "-q")[0] == 7
    assert run("train", source, "--cluster", "serial", "--store", source)[0] == 5
    assert run("compare", source, "--cluster", "serial", "--record", 10**6)[0] == 2


def test_a_torn_line_of_pairs_is_refused_and_leaves_no_output(run, tmp_path):
    source = write(tmp_path / "r.csv", TINY)
    run("train", source, "--cluster", "serial")
    code, _, err = run("predict", "als", write(tmp_path / "p.csv", "user,item\n1,2\n3\n"), "-o", "out.csv")
    assert code == 3
    assert "line 3: 1 fields instead of 2" in err
    code, _, err = run("predict", "als", write(tmp_path / "p.csv", "user,item\n1,2\n,3\n"), "-o", "out.csv")
    assert code == 3
    assert "line 3, column user: blank" in err
    assert not [path for path in tmp_path.iterdir() if "out.csv" in path.name]


def test_version_and_quiet(run, tmp_path):
    assert run("--version")[1] == f"mfpipe {mfpipe.__version__}\n"
    source = write(tmp_path / "r.csv", TINY)
    assert run("train", source, "--cluster", "serial", "--tol", "1", "-q")[2] == ""
    assert "iteration 1/50" in run("train", source, "--cluster", "serial", "-v")[2]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
@pytest.mark.parametrize("cluster", ["threads", "local"])
def test_a_signal_ends_the_run_with_its_code_and_leaves_only_what_resuming_takes(
    tmp_path, number, code, cluster
):
    psutil = pytest.importorskip("psutil")
    command = [sys.executable, "-m", "mfpipe", "train", TRAIN, "--cluster", cluster, "--tol", "0", "-v"]
    command += ["--max-iter", "1000000", "--dashboard-address", "127.0.0.1:0"]
    env = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # a background job ignores Ctrl-C
    )
    for line in process.stderr:
        if "iteration 3/" in line:
            break
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    started = time.monotonic()
    _, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert time.monotonic() - started < 10
    assert "nothing was published" in err
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive
    assert {path.name for path in tmp_path.iterdir()} <= {"mfpipe-store", "numba"}
    (run,) = (path for path in Path(tmp_path, "mfpipe-store").glob("*/*") if path.name != ".lock")
    assert f"go on with: mfpipe resume {run.name} --store mfpipe-store" in err


@pytest.mark.timeout(170)
def test_the_demo_from_a_shell(tmp_path):
    command = [sys.executable, "-m", "mfpipe", "demo", "--dashboard-address", "127.0.0.1:0"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=160)
    assert result.returncode == 0, result.stderr
    for word in (
        "user-mean",
        "als",
        "identical",
        "Where the time went",
        "compile",
        "mfpipe-demo/report.html",
    ):
        assert word in result.stdout
    assert "NO" not in result.stdout
    assert (tmp_path / "mfpipe-demo" / "report.html").stat().st_size > 10_000
