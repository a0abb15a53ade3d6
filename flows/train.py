"""The flow `train`: fit, evaluate and store a model, and leave the outcome as artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mfpipe_flows import parameters as p
from mfpipe_flows.artifacts import leave_report
from mfpipe_flows.boundaries import show_library_log, told_at_the_end
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from mfpipe.job import Data, Place
from mfpipe.models import MODELS
from mfpipe.pipeline import models_from
from mfpipe.pipeline import train as train_and_store
from mfpipe.store import Store


@task(name="train", task_run_name="train {name}")
def train_model(data: Data, model: Any, name: str, store: str, place: Place) -> dict:
    """Fit, evaluate and store; returns the record of `mfpipe train --json`."""
    return train_and_store(data, model, name, Store(store), place)


@task(name="report", task_run_name="report {name}")
def report_model(record: dict, name: str, store: str) -> Path:
    """Write the version's HTML report beside the store, and the artifacts of the run."""
    path = leave_report(name, record["version"], store, "train-report")
    create_table_artifact(
        [{"stage": stage, "seconds": round(seconds, 3)} for stage, seconds in record["timings"].items()],
        key="train-timings",
        description="Where the time went",
    )
    create_table_artifact(
        [{key: value for key, value in row.items() if value is not None} for row in record["history"]],
        key="train-history",
        description="Objective and RMSE by iteration",
    )
    create_markdown_artifact(_summary(record), key="train-summary", description=f"{name}@{record['version']}")
    return path


def _summary(record: dict) -> str:
    test, data = record["test"], record["data"]
    rows = {
        "model": record["model"],
        "trained on": f"{data['n_ratings']:,} ratings, {data['n_users']:,} users, {data['n_items']:,} items",
        "objective": f"{record['objective']:.8g}",
        "iterations": f"{record['n_iter']}, {'converged' if record['converged'] else 'not converged'}",
        "train RMSE": f"{record['train_rmse']:.6f} stars",
        "test RMSE": f"{record['test_rmse']:.6f} stars over {test['rows']:,} records ({test['cold']:,} cold)",
    }
    lines = [f"| {key} | {value} |" for key, value in rows.items()]
    return "\n".join([f"## {record['name']}@{record['version']}", "", "| | |", "|---|---|", *lines])


@flow(name="train", flow_run_name="train {name}: {model}", persist_result=False)
@p.described
def train(
    ratings: p.RatingFiles,
    test: p.TestFiles = [],  # noqa: B006 - Prefect never changes it, and its schema shows it
    holdout: p.HoldoutRule = None,
    model: p.ModelName = "als",
    name: p.StoredName = "als",
    store: p.StorePath = "mfpipe-store",
    rank: p.Rank = 10,
    regularization: p.Regularization = 0.05,
    weighting: p.Weighting = "count",
    max_iter: p.MaxIter = 50,
    tol: p.Tolerance = 1e-4,
    seed: p.Seed = 0,
    dtype: p.Dtype = "float32",
    cluster: p.Cluster = "local",
    workers: p.Count = None,
    threads_per_worker: p.Count = None,
    partitions: p.Count = None,
    allow_remote: p.AllowRemote = False,
) -> str:
    """Fit, evaluate and store a model.

    Returns
    -------
    str
        The new version, as NAME@VERSION.
    """
    show_library_log()
    params = {
        "rank": rank,
        "regularization": regularization,
        "weighting": weighting,
        "max_iter": max_iter,
        "tol": tol,
        "random_state": seed,
        "dtype": dtype,
    }
    own = MODELS[model].__dataclass_fields__
    (made,) = models_from([model], {key: value for key, value in params.items() if key in own})
    place = Place(cluster, workers, threads_per_worker, partitions, allow_remote=allow_remote)
    with told_at_the_end():
        record = train_model(Data(ratings, test, holdout), made, name, store, place)
    report_model(record, name, store)
    return f"{name}@{record['version']}"
