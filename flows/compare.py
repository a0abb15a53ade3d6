"""The flow `compare`: every system side by side, as a table artifact."""

from __future__ import annotations

from mfpipe_flows import parameters as p
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact

from mfpipe.comparison import compare as compare_systems
from mfpipe.models import MODELS
from mfpipe.pipeline import Data, Place, models_from


@task(name="compare")
def compare_all(data: Data, models: list, place: Place, record: int | None) -> list[dict]:
    """Fit every system in every place; returns the systems of `mfpipe compare --json`."""
    return compare_systems(data, models, place, record, stage=get_run_logger().info).systems


@flow(name="compare", flow_run_name="compare every system")
def compare(
    ratings: p.RatingFiles,
    test: p.TestFiles = [],  # noqa: B006 - Prefect never changes it, and its schema shows it
    holdout: p.HoldoutRule = None,
    rank: p.Rank = 10,
    regularization: p.Regularization = 0.05,
    weighting: p.Weighting = "count",
    max_iter: p.MaxIter = 50,
    tol: p.Tolerance = 1e-4,
    dtype: p.Dtype = "float32",
    record: p.Record = None,
    cluster: p.Cluster = "local",
    workers: p.Count = None,
) -> None:
    """Fit every system serially, in threads and on a Dask cluster, and hold them against each other."""
    params = {
        "rank": rank,
        "regularization": regularization,
        "weighting": weighting,
        "max_iter": max_iter,
        "tol": tol,
        "dtype": dtype,
    }
    models = models_from(list(MODELS), params)
    systems = compare_all(Data(ratings, test, holdout), models, Place(cluster, workers), record)
    rows = [
        {
            "system": row["model"],
            "test RMSE": round(row["test_rmse"], 6),
            "objective": float(f"{row['objective']:.8g}"),
            "iterations": row["n_iter"],
            **{f"{way}, s": round(seconds, 3) for way, seconds in row["seconds"].items()},
            "identical": "yes" if row["identical"] else "NO",
        }
        for row in systems
    ]
    create_table_artifact(rows, key="compare-systems", description="Every system on the same data")
