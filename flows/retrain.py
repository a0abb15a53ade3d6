"""The flow `retrain`: `mfpipe retrain` step by step, with its outcome as state and artifacts."""

from __future__ import annotations

from typing import Annotated, Any

from mfpipe_flows import artifacts
from mfpipe_flows import parameters as p
from mfpipe_flows.boundaries import (
    BACKOFF,
    CLUSTER_BACKOFF,
    due,
    only_after,
    run_id,
    show_library_log,
    told_at_the_end,
)
from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed, State
from pydantic import Field

from mfpipe.decisions import overtaken
from mfpipe.drift import Limits
from mfpipe.errors import ClusterError, StoreError
from mfpipe.gate import GateRules
from mfpipe.job import Data, Place
from mfpipe.retraining import Request, Steps, retraining
from mfpipe.runs import Checkpoints
from mfpipe.store import Store

# Steps go from task to task in memory: nothing of them is hashed, written or sent anywhere by Prefect.
SETTINGS: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False}


@task(retries=3, retry_delay_seconds=BACKOFF, retry_condition_fn=only_after(OSError), **SETTINGS)
def ingest(steps: Steps) -> dict:
    """Read the ratings; tried again where a file cannot be read just now."""
    return steps.ingest()


@task(name="compare data", **SETTINGS)
def compare_data(steps: Steps) -> bool:
    """Hold the data against the champion's; False where that already decides."""
    return steps.compare_data()


@task(
    retries=3,
    retry_delay_seconds=CLUSTER_BACKOFF,
    retry_condition_fn=only_after(ClusterError),
    **SETTINGS,
)
def train(steps: Steps) -> dict:
    """Fit the challenger; a cluster that was lost is tried again, from the last checkpoint."""
    return steps.train()


@task(**SETTINGS)
def evaluate(steps: Steps) -> dict:
    """Both systems on the same held-out rows."""
    return steps.evaluate()


@task(name="gate", **SETTINGS)
def judge(steps: Steps) -> bool:
    """Whether the challenger is to be published."""
    return steps.judge()


@task(retries=2, retry_delay_seconds=BACKOFF, retry_condition_fn=only_after(StoreError), **SETTINGS)
def publish(steps: Steps) -> dict:
    """Store the challenger and make it current."""
    return steps.publish()


@task(task_run_name="report {name}", **SETTINGS)
def report(name: str, version: str, store: str) -> str:
    """Write the version's HTML report beside the store; where it is."""
    return str(artifacts.leave_report(name, version, store, "retrain-report"))


@flow(name="retrain", flow_run_name="retrain {name}", persist_result=False)
@p.described
def retrain(
    ratings: p.RatingFiles,
    name: p.StoredName = "als",
    store: p.StorePath = "mfpipe-store",
    holdout: p.RepeatableHoldout = "random:0.1",
    model: p.SameModel = None,
    rank: p.SameRank = None,
    regularization: p.SameRegularization = None,
    weighting: p.SameWeighting = None,
    max_iter: p.SameMaxIter = None,
    tol: p.SameTolerance = None,
    seed: p.SameSeed = None,
    dtype: p.SameDtype = None,
    cluster: p.Cluster = "local",
    workers: p.Count = None,
    threads_per_worker: p.Count = None,
    partitions: p.Count = None,
    allow_remote: p.AllowRemote = False,
    update: Annotated[bool, Field(description="Solve rows touched by new ratings first")] = False,
    cold_start: Annotated[bool, Field(description="Not from the current version's factors")] = False,
    refit: Annotated[bool, Field(description="Publish a fit on all rows, once it has passed")] = False,
    force: Annotated[bool, Field(description="Publish even if refused; recorded")] = False,
    margin: Annotated[
        float,
        Field(
            ge=0, allow_inf_nan=False, description="By what share of its RMSE it may be worse than current"
        ),
    ] = 0.01,
    limits: Annotated[
        p.DriftLimits, Field(description="How far the ratings may be from the current version's")
    ] = p.DriftLimits(),
    keep_versions: Annotated[
        int | None, Field(ge=1, description="Delete all but the latest versions; empty: none")
    ] = None,
    checkpoint_seconds: Annotated[
        float, Field(ge=0, allow_inf_nan=False, description="How often the fit is written down; 0: never")
    ] = 60.0,
) -> State:
    """Train a model, judge it against the current version on the same held-out rows, publish or keep.

    Ends Completed where it was published, or kept because nothing is new; `Refused` (a kind of Failed)
    where the gate refused, with the current version as it was.
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
    request = Request(
        Data(ratings, (), holdout),
        name,
        model,
        {key: value for key, value in params.items() if value is not None},
        Place(cluster, workers, threads_per_worker, partitions, allow_remote=allow_remote),
        update=update,
        cold_start=cold_start,
        refit=refit,
        force=force,
        limits=Limits(**limits.model_dump()),
        rules=GateRules(margin),
        keep_versions=keep_versions,
        checkpoints=Checkpoints(checkpoint_seconds),
        run=run_id(),
    )
    progress = artifacts.Progress(name, max_iter)
    with told_at_the_end(), retraining(request, Store(store), [progress]) as steps:
        later = overtaken(Store(store), name, due(), run_id())
        if later:
            return Completed(name="Skipped", message=later)
        ingest(steps)
        if compare_data(steps):
            train(steps)
            evaluate(steps)
            if judge(steps):
                publish(steps)
        record = steps.conclude()
    progress.done()
    artifacts.leave(record, steps.trained and steps.trained.fit)
    if record["version"]:
        report(name, record["version"], store)
    return ended(record)


def ended(record: dict) -> State:
    """The state that a decision ends in."""
    label = f"{record['name']}@{record['version']}" if record["version"] else record["name"]
    message = f"{label}: {record['decision']}: {record['words']}"
    get_run_logger().info(message)
    if record["decision"] == "refused":
        return Failed(name="Refused", message=message)
    return Completed(message=message)
