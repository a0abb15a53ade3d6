"""The flow `ingest`: rating files → a dataset, made once for an unchanged input."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from mfpipe_flows import parameters as p
from mfpipe_flows.boundaries import BACKOFF, only_after, show_library_log
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from pydantic import Field

from mfpipe.dataset import ingest_to


@task(
    name="ingest",
    retries=3,
    retry_delay_seconds=BACKOFF,
    retry_condition_fn=only_after(OSError),
    persist_result=False,
)
def ingest_files(ratings: list[str], out: str) -> dict:
    """Ingest; returns the record of `mfpipe ingest --json`."""
    report, made = ingest_to(ratings, Path(out))
    if made:  # where it was not, the library says so
        get_run_logger().info("%s: ingested", out)
    return report


@flow(name="ingest", flow_run_name="ingest to {out}", persist_result=False)
@p.described
def ingest(
    ratings: p.RatingFiles,
    out: Annotated[str, Field(min_length=1, description="Directory of the dataset")] = "mfpipe-ratings",
) -> str:
    """Ingest rating files into a dataset directory; returns the ratings' sha256."""
    show_library_log()
    report = ingest_files(ratings, out)
    rows = [{"figure": key, "value": str(value)} for key, value in report.items()]
    create_table_artifact(rows, key="ingest-report", description=f"What was read into {out}")
    return report["sha256"]
