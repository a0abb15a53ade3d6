"""The flow `compare`: every system side by side, as a table artifact."""

from __future__ import annotations

from mfpipe_flows import parameters as p
from mfpipe_flows.boundaries import show_library_log, told_at_the_end
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact

from mfpipe.comparison import compare as compare_systems
from mfpipe.job import Data, Place
from mfpipe.models import MODELS
from mfpipe.models.base import Model
from mfpipe.pipeline import models_from
from mfpipe.systems import read_systems


@task(name="compare")
def compare_all(data: Data, systems: dict[str, Model], place: Place, record: int | None) -> dict:
    """Fit every system in every place; returns what `mfpipe compare --json` prints."""
    models, labels = list(systems.values()), list(systems)
    found = compare_systems(data, models, place, record, labels=labels).record()
    for note in found["notes"]:
        get_run_logger().info(note)
    return found


@flow(name="compare", flow_run_name="compare every system", persist_result=False)
@p.described
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
    allow_remote: p.AllowRemote = False,
    systems: p.SystemsFile = None,
) -> None:
    """Fit every system serially, in threads and on a Dask cluster, and hold them against each other."""
    show_library_log()
    params = {
        "rank": rank,
        "regularization": regularization,
        "weighting": weighting,
        "max_iter": max_iter,
        "tol": tol,
        "dtype": dtype,
    }
    if systems is None:
        chosen = dict(zip(MODELS, models_from(list(MODELS), params), strict=True))
    else:
        chosen = read_systems(systems, params)
    place = Place(cluster, workers, allow_remote=allow_remote)
    with told_at_the_end():
        found = compare_all(Data(ratings, test, holdout), chosen, place, record)
    rows = [
        {
            "system": row["label"],
            "test RMSE": round(row["test_rmse"], 6),
            "objective": float(f"{row['objective']:.8g}"),
            "iterations": row["n_iter"],
            **{f"{way}, s": round(seconds, 3) for way, seconds in row["seconds"].items()},
            "identical": "yes" if row["identical"] else "NO",
        }
        for row in found["systems"]
    ]
    create_table_artifact(rows, key="compare-systems", description="Every system on the same data")
