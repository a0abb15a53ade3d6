"""Prefect for real: a server, a worker, a Dask cluster, and runs of the deployments."""

import json
from urllib.error import HTTPError

import pytest

pytest.importorskip("prefect")
pytestmark = pytest.mark.timeout(600)


def test_train_completes_and_leaves_a_version_a_report_and_artifacts(prefect):
    result = prefect.deployment("train/manual", "rank=4", "max_iter=2", "name=trained")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Completed" in result.stdout
    home = prefect.checkout / "mfpipe-store"
    assert json.loads((home / "trained" / "current").read_text())["version"] == "1"
    assert json.loads((home / "trained" / "1" / "manifest.json").read_text())["params"]["rank"] == 4
    assert "trained@1" in (home / "reports" / "trained-1.html").read_text()
    listed = prefect("artifact", "ls").stdout
    for key in ("train-report", "train-timings", "train-history", "train-summary"):
        assert key in listed
    (run,) = prefect.runs("trained")
    logged = prefect("flow-run", "logs", run["id"]).stdout
    for line in ("reading ratings", "fitting als to", "watch it learn", "not converged after 2 iterations"):
        assert logged.count(line) == 1, logged


@pytest.mark.parametrize(
    ("deployment", "parameter", "value", "message"),
    [
        ("train/manual", "model", "svd", "is not one of"),
        ("train/manual", "rank", 0, "minimum"),
        ("train/manual", "weighting", "both", "is not one of"),
        ("retrain/nightly", "model", "svd", "svd"),
        ("retrain/nightly", "rank", 2.5, "rank"),
        ("retrain/nightly", "holdout", "last:1", "holdout"),
        ("retrain/nightly", "limits", {"mean": -1}, "limits.mean"),
        ("retrain/nightly", "limits", {"means": 1}, "means"),
        ("retrain/nightly", "name", "../x", "name"),
    ],
)
def test_a_wrong_parameter_is_refused_when_the_run_is_created(prefect, deployment, parameter, value, message):
    made = prefect.ask(f"/deployments/name/{deployment}")
    body = {"parameters": made["parameters"] | {parameter: value}, "enforce_parameter_schema": True}
    with pytest.raises(HTTPError) as refused:
        prefect.ask(f"/deployments/{made['id']}/create_flow_run", body)
    assert message in refused.value.read().decode()


@pytest.mark.parametrize(("parameter", "message"), [("rank=0", "minimum"), ("lambda=1", "lambda")])
def test_the_command_line_refuses_a_wrong_value_and_an_unknown_name(prefect, parameter, message):
    result = prefect.deployment("retrain/nightly", parameter, options=())
    assert result.returncode != 0
    assert message in result.stdout + result.stderr


@pytest.mark.slow
def test_bad_input_fails_the_run_and_publishes_nothing(prefect):
    bad = prefect.checkout / "bad.csv"
    bad.write_text("user,item,rating\n1,2,x\n")
    result = prefect.deployment("train/manual", f'ratings=["{bad}"]', "test=[]", "name=never")
    assert "Failed" in result.stdout
    assert not (prefect.checkout / "mfpipe-store" / "never").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("allowed", "message"), [("false", "unencrypted"), ("true", "no Dask scheduler answers")]
)
def test_a_cluster_on_another_machine_without_tls_takes_allow_remote(prefect, allowed, message):
    elsewhere = ("cluster=tcp://192.0.2.1:8786", f"allow_remote={allowed}", f"name=remote-{allowed}")
    assert "Failed" in prefect.deployment("train/manual", *elsewhere).stdout
    (run,) = prefect.runs(f"remote-{allowed}")
    assert message in run["state"]["message"]


@pytest.mark.slow
def test_compare_takes_systems_from_a_file(prefect):
    two = '[[system]]\nlabel = "low"\nmodel = "als"\nrank = 2\n[[system]]\nmodel = "als"\n'
    (prefect.checkout / "systems.toml").write_text(two)
    result = prefect.deployment("compare/manual", "systems=systems.toml", "max_iter=2", "cluster=threads")
    assert "Completed" in result.stdout, result.stdout + result.stderr
    assert "compare-systems" in prefect("artifact", "ls").stdout


def test_the_deployments_are_those_promised(prefect):
    listed = prefect("deployment", "ls").stdout
    for name in ("train/manual", "ingest/manual", "compare/manual", "retrain/nightly"):
        assert name in listed
