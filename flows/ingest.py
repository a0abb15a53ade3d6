"""The flow `ingest`: rating files → a dataset, made once for an unchanged input."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from mfpipe_flows import parameters as p
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from pydantic import Field

from mfpipe.dataset import ingest_to


@task(
    name="ingest",
    retries=1,
    retry_delay_seconds=10,
    retry_condition_fn=lambda task, run, state: _is_io(state),
)
def ingest_files(ratings: list[str], out: str) -> dict:
    """Ingest; returns the record of `mfpipe ingest --json`."""
    report, made = ingest_to(ratings, Path(out))
    get_run_logger().info("%s: %s", out, "ingested" if made else "unchanged, kept as it was")
    return report


def _is_io(state) -> bool:
    try:
        state.result()
    except OSError:
        return True
    except Exception:
        return False
    return False


@flow(name="ingest", flow_run_name="ingest to {out}")
def ingest(
    ratings: p.RatingFiles,
    out: Annotated[str, Field(min_length=1, description="Directory of the dataset")] = "mfpipe-ratings",
) -> str:
    """Ingest rating files into a dataset directory; returns the ratings' sha256."""
    report = ingest_files(ratings, out)
    rows = [{"figure": key, "value": str(value)} for key, value in report.items()]
    create_table_artifact(rows, key="ingest-report", description=f"What was read into {out}")
    return report["sha256"]
