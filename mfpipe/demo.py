"""The main job on the shipped sample: from CSV files to stored models and a report."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from mfpipe.comparison import compare
from mfpipe.dataset import ingest_to
from mfpipe.errors import StoreError
from mfpipe.files import make_directory
from mfpipe.job import Data, Place
from mfpipe.models import MODELS
from mfpipe.pipeline import models_from, publish
from mfpipe.report import write_report
from mfpipe.store import Store

PARAMS = {"rank": 8, "regularization": 0.15}
REPORTED = "als"


def demo(out: Path, place: Place, stage: Callable[[str], Any]) -> dict:
    """Ingest the sample, compare and store every system, and write the report.

    Parameters
    ----------
    out : Path
        A directory for `ratings/`, `store/` and `report.html`.
    place : Place
    stage : callable
        Told what is being done.

    Returns
    -------
    dict
        What `compare --json` gives, with the seconds of every stage and the report's path.
    """
    started = time.perf_counter()
    try:
        make_directory(out)
    except OSError as error:
        raise StoreError(f"{out}: cannot be written ({error.strerror or error})") from error
    store = Store(out / "store")
    with as_file(files("mfpipe_sample")) as sample:
        stage("ingesting the sample")
        ingest_to([str(sample / "train.csv.gz")], out / "ratings")
        ingested = time.perf_counter() - started
        data = Data([str(out / "ratings")], [str(sample / "test.csv.gz")])
        compared = compare(data, models_from(list(MODELS), PARAMS), place, record=0, stage=stage)
    stage("storing every system")
    began = time.perf_counter()
    for trained in compared.trained.values():
        publish(trained, compared.prepared, trained.fit.model.name, store, place, systems=compared.systems)
    stored = time.perf_counter()
    report = out / "report.html"
    stage("writing the report")
    write_report(store.version(REPORTED), report)
    ended = time.perf_counter()
    timings = {"ingest_once": ingested} | compared.timings
    del timings["total"]
    timings |= {"store": stored - began, "report": ended - stored, "total": ended - started}
    return compared.record() | {"timings": timings, "report": str(report)}
