"""Every system on the same data, serially, in threads and on a Dask cluster, held against each other."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mfpipe.cluster import connect
from mfpipe.errors import ParameterError
from mfpipe.executors import executor
from mfpipe.fit import starting_factors
from mfpipe.job import Data, Place, Prepared, prepare
from mfpipe.models import FactorModel, Model
from mfpipe.pipeline import Callbacks, Trained, checksums, compile_kernels, fit_and_evaluate
from mfpipe.ratings import Ratings, TestRatings

log = logging.getLogger(__name__)


@dataclass
class Comparison:
    """Every system on the same data: a record each, the fits by label, and what they were made from."""

    systems: list[dict]
    trained: dict[str, Trained]
    prepared: Prepared
    timings: dict[str, float]

    def record(self) -> dict:
        """What `compare --json` prints."""
        return {
            "systems": self.systems,
            "notes": why_slower(self.systems),
            "data": self.prepared.data(),
            "timings": self.timings,
        }


def compare(
    data: Data,
    models: Sequence[Model],
    place: Place = Place(),
    record: int | None = None,
    quarantine: Path | None = None,
    stage: Callable[[str], Any] = log.info,
    on_iteration: Callbacks = (),
    labels: Sequence[str] | None = None,
) -> Comparison:
    """Fit every system serially, in threads and on a Dask cluster, and hold them against each other.

    Parameters
    ----------
    data : Data
    models : sequence of Model
    place : Place
        `cluster` may be `serial` or `threads` to leave out what comes after it.
    record : int, optional
        Also report each system's prediction of this test record, counted from 0.
    labels : sequence of str, optional
        What to call each system; by default its model's name.

    Raises
    ------
    ParameterError
        There is no such test record, or two systems have the same label.
    """
    labels = [model.name for model in models] if labels is None else labels
    for label in labels:
        if labels.count(label) > 1:
            raise ParameterError(f"{label}: more than one system is called so; give each its own label")
    started = time.perf_counter()
    stage("reading ratings")
    prepared = prepare(data, quarantine)
    at = _position(prepared.test, record)
    stage("compiling kernels, or loading them from the cache")
    timings = {"ingest": prepared.seconds, "compile": sum(compile_kernels(model) for model in models)}
    ways = ["serial", "threads", "cluster"]
    ways = ways[: ways.index(place.cluster) + 1] if place.cluster in ways else ways
    fits: dict[tuple[str, int], Trained] = {}
    for way in ways:
        began = time.perf_counter()
        stage(f"fitting every system: {way}")
        with _executors(way, prepared.ratings, place, models) as executors:
            opened = time.perf_counter()
            for number, model in enumerate(models):
                if way == "cluster" and isinstance(model, FactorModel):
                    # One iteration first, so that a worker's first call is not counted as fitting.
                    start = starting_factors(model, prepared.ratings)
                    executors[model.storage].half_step(model, "item", start.item, start.user)
                fits[way, number] = fit_and_evaluate(
                    model,
                    prepared,
                    executors[model.storage],
                    on_iteration if way == ways[-1] else (),
                    name=labels[number],
                )
        timings |= {f"{way}_start": opened - began, way: time.perf_counter() - opened}
    systems = [
        {"label": label} | _system([fits[way, number] for way in ways], ways, prepared, record, at)
        for number, label in enumerate(labels)
    ]
    for system in systems:
        for message in system["warnings"]:
            log.warning("%s: %s", system["label"], message)
    timings["total"] = time.perf_counter() - started
    trained = {label: fits[ways[-1], number] for number, label in enumerate(labels)}
    return Comparison(systems, trained, prepared, timings)


@contextlib.contextmanager
def _executors(way: str, ratings: Ratings, place: Place, models: Sequence[Model]) -> Iterator[dict]:
    """An executor for each storage type the models need, all in one place."""
    with contextlib.ExitStack() as stack:
        settings = place.settings()
        client = None
        if way == "cluster":
            names = ("cluster", "workers", "threads_per_worker", "dashboard_address")
            client = stack.enter_context(connect(**{name: settings[name] for name in names}))
        else:
            settings["cluster"] = way
        yield {
            storage: stack.enter_context(executor(ratings, storage, **settings, client=client))
            for storage in {model.storage for model in models}
        }


def _position(test: TestRatings, record: int | None) -> int | None:
    if record is None:
        return None
    at = int(np.searchsorted(test.record, record))
    if at == len(test) or test.record[at] != record:
        raise ParameterError(
            f"--record {record}: the test files have no usable data line of that number "
            f"(they hold {len(test)} usable lines, counted from 0)"
        )
    return at


def why_slower(systems: Sequence[dict]) -> list[str]:
    """Why the cluster fits some of the factor models more slowly than one thread; nothing where it does not.

    The cluster solves the same rows as threads do, so what an iteration takes beyond theirs (or beyond the
    serial one, where threads save nothing) is the cluster's overhead. It loses where that is more than
    threads save. The seconds are those of the systems' own records, divided by their iterations.
    """
    able = [s for s in systems if s["sparsity"] is not None and s["n_iter"] and "cluster" in s["seconds"]]
    slower = [s for s in able if s["seconds"]["cluster"] > s["seconds"]["serial"]]
    if not slower:
        return []
    each = [{way: 1e3 * seconds / s["n_iter"] for way, seconds in s["seconds"].items()} for s in slower]
    overhead = _range([ms["cluster"] - min(ms["serial"], ms["threads"]) for ms in each])
    saved = [max(0.0, ms["serial"] - ms["threads"]) for ms in each]
    serial = f"the {_range([ms['serial'] for ms in each])} ms that an iteration takes serially"
    if max(saved) > 0:
        why = f"exceeds the {_range(saved)} ms that threads save of {serial}"
    else:
        why = f"comes on top of {serial}, of which threads saved nothing here"
    whom = "every factor model" if len(slower) == len(able) > 1 else ", ".join(s["label"] for s in slower)
    overheads = f"its overhead of about {overhead} ms an iteration"
    return [f"the cluster is slower than serial for {whom}: {overheads} {why}"]


def _range(values: Sequence[float]) -> str:
    """The smallest and the largest, to two digits."""
    ends = [f"{float(f'{value:.2g}'):g}" for value in (min(values), max(values))]
    return " to ".join(dict.fromkeys(ends))


def _system(same: list[Trained], ways: list[str], prepared: Prepared, record, at) -> dict:
    """One row of the comparison, from its fits in every place; see interface.md."""
    first = same[0]
    seconds = {way: trained.fit.seconds for way, trained in zip(ways, same, strict=True)}
    speedups = {way: seconds["serial"] / seconds[way] for way in ways if way != "serial"}
    found = {
        "model": first.fit.model.name,
        "params": first.fit.model.params,
        "objective": first.fit.objective,
        "n_iter": first.fit.n_iter,
        "converged": first.fit.converged,
        "train_rmse": first.fit.train_rmse,
        "test_rmse": first.metrics["rmse"],
        "test_rmse_warm": first.metrics["rmse_warm"],
        "test_rmse_cold": first.metrics["rmse_cold"],
        "sparsity": first.fit.sparsity,
        "seconds": seconds,
        "speedup": max(speedups.values(), default=None),
        "speedups": speedups,
        "identical": all(checksums(other.fitted) == checksums(first.fitted) for other in same),
        "warnings": first.fit.warnings,
        "record": None,
    }
    if at is not None:
        test = prepared.test
        predicted, _ = first.fitted.predict(test.user[at : at + 1], test.item[at : at + 1])
        found["record"] = {
            "record": record,
            "user": test.user[at].as_py(),
            "item": test.item[at].as_py(),
            "predicted": float(predicted[0]),
            "true": float(test.rating[at]),
        }
    return found
