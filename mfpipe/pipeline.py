"""The main job as plain functions: what the command line and the flows both call."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mfpipe import diagnosis, rated, runs
from mfpipe import evaluate as evaluation
from mfpipe.arrow import to_arrow
from mfpipe.command_line import report_command
from mfpipe.errors import ParameterError
from mfpipe.executors import executor
from mfpipe.fit import Fit, State, baseline_of, cold_start
from mfpipe.fitted import FittedModel
from mfpipe.ids import IdMap
from mfpipe.job import Data, Place, Prepared, prepare
from mfpipe.models import MODELS, FactorModel, Model
from mfpipe.models.base import Factors, flag
from mfpipe.orders import order_of
from mfpipe.ranking import ranking
from mfpipe.ratings import Ratings, Rules, read_test
from mfpipe.runs import Checkpoints, Run
from mfpipe.sealed import encoded
from mfpipe.store import WHATEVER, Store, Version, parse_name
from mfpipe.topn import require_count
from mfpipe.version import factor_tables
from mfpipe.watching import watched

log = logging.getLogger(__name__)

HISTORY = ("iteration", "objective", "train_rmse", "test_rmse", "seconds")
Callbacks = Iterable[Callable[[dict], None]]


def compile_kernels(model: Model) -> float:
    """Seconds to have the model's kernels compiled, or loaded from the cache of an earlier run."""
    started = time.perf_counter()
    rows = np.zeros(1, np.int32)
    one = IdMap(to_arrow(rows).cast(pa.string()))
    ratings = Ratings(rows, rows, np.ones(1), None, one, one)
    with executor(ratings, model.storage, "serial", partitions=1) as here:
        factors = cold_start(model, ratings, here)
        here.half_step(model, model.half_steps[0], factors.item, factors.user)
        if isinstance(model, FactorModel):
            here.half_step(model, "user", factors.user, factors.item, evaluate=True)
    model.predict(factors, rows, rows, baseline_of(ratings))
    return time.perf_counter() - started


@dataclass
class Trained:
    """A fit with its evaluation and where its time went.

    `threads` are those that its half-steps had, `diagnosis` is what its report says of the test
    records, once it is published, and `kept` its training ratings as they are kept, if encoded already.
    """

    fitted: FittedModel
    fit: Fit
    metrics: dict
    timings: dict[str, float]
    threads: int
    version: Version | None = None
    diagnosis: dict | None = None
    kept: memoryview | None = None

    @cached_property
    def checksums(self) -> dict[str, str]:
        return checksums(self.fitted)

    def record(self, prepared: Prepared, name: str | None = None, published: bool = False) -> dict:
        """What `train --json` prints."""
        return {
            "model": self.fit.model.name,
            "name": name,
            "version": self.version and self.version.number,
            "path": self.version and str(self.version.path),
            "params": self.fit.model.params,
            "data": prepared.data(),
            "history": [{key: record[key] for key in HISTORY} for record in self.fit.history],
            "objective": self.fit.objective,
            "train_rmse": self.fit.train_rmse,
            "test_rmse": self.metrics["rmse"],
            "test": {
                key: self.metrics[key] for key in ("rows", "warm", "cold", "rmse_warm", "rmse_cold", "mae")
            },
            "checksums": self.checksums,
            "timings": self.timings,
            "n_iter": self.fit.n_iter,
            "converged": self.fit.converged,
            "warnings": self.fit.warnings,
            "published": published,
        }


def checksums(fitted: FittedModel) -> dict[str, str]:
    """sha256 of the bytes of each side's rows, in row order."""
    return {
        f"{side}_factors": hashlib.sha256(getattr(fitted.factors, side).tobytes()).hexdigest()
        for side in ("user", "item")
    }


def train(
    data: Data,
    model: Model,
    name: str,
    store: Store,
    place: Place = Place(),
    make_current: bool = True,
    on_iteration: Callbacks = (),
    stage: Callable[[str], Any] = log.info,
    checkpoints: Checkpoints = Checkpoints(),
) -> dict:
    """Fit, evaluate and store a model; the record that `train --json` prints.

    Raises
    ------
    RatingsError, NumericError, StoreError, ClusterError
        Nothing is stored then; after an interruption `mfpipe.resuming.resume` goes on.
    """
    name, _ = parse_name(name)
    store.require_writable(name)
    stage("reading ratings")
    prepared = prepare(data, quarantine_file(store))
    fitting = Fitting(model, name, store, place, make_current, on_iteration, stage)
    if not checkpoints.wanted:
        log.warning("checkpoints are off: if it is interrupted, this fit begins again from nothing")
        return fitting.finish(prepared)
    order = order_of(data, model, name, place, make_current, checkpoints, prepared.sums())
    with runs.started(store.path, order) as run:
        stage(f"run {run.id}: a checkpoint {checkpoints}; if it is interrupted: {run.command}")
        return fitting.finish(prepared, run)


@dataclass(frozen=True)
class Fitting:
    """What `train` does once the ratings are read; see there."""

    model: Model
    name: str
    store: Store
    place: Place
    make_current: bool
    on_iteration: Callbacks
    stage: Callable[[str], Any]

    def finish(self, prepared: Prepared, run: Run | None = None, state: State | None = None) -> dict:
        """Fit, evaluate and store; for a run, with checkpoints, and from the state it had reached."""
        started = time.perf_counter()
        # What is stored of the ratings is made while the fit is set up, which keeps one core busy.
        with ThreadPoolExecutor(1, "mfpipe-encoding") as beside:
            encoding = beside.submit(_encoded_ratings, prepared)
            self.stage("compiling kernels, or loading them from the cache")
            compiling = compile_kernels(self.model)
            self.stage(f"fitting {self.model.name} to {len(prepared.ratings):,} ratings")
            with executor(prepared.ratings, self.model.storage, **self.place.settings()) as where:
                keep = run.keep if run else None
                trained = fit_and_evaluate(
                    self.model, prepared, where, self.on_iteration, state, keep,
                    name=self.name, store=self.store,
                )  # fmt: skip
        for message in trained.fit.warnings:
            log.warning(message)
        trained.timings = {"ingest": prepared.seconds, "compile": compiling, **trained.timings}
        self.stage("storing")
        began = time.perf_counter()
        trained.kept = encoding.result()
        by = run.id if run else None
        publish(trained, prepared, self.name, self.store, self.place, self.make_current, run=by)
        ended = time.perf_counter()
        storing = ended - began - trained.timings["diagnose"]
        trained.timings |= {"store": storing, "total": prepared.seconds + ended - started}
        return trained.record(prepared, self.name, self.make_current)


def _encoded_ratings(prepared: Prepared) -> memoryview:
    """The training ratings as a version keeps them; what the manifest says of them is found on the way."""
    prepared.data()
    return encoded(rated.table_of(prepared.ratings))


def quarantine_file(store: Store) -> Path:
    return store.path / "quarantine" / f"{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 10**6:06d}.csv"


def fit_and_evaluate(
    model: Model,
    prepared: Prepared,
    where,
    on_iteration: Callbacks = (),
    state: State | None = None,
    on_state: Callable[[State], None] | None = None,
    start: Factors | None = None,
    name: str | None = None,
    store: Store | None = None,
) -> Trained:
    """Fit on an executor, and evaluate on the test records.

    A fit on a Dask cluster is shown on its dashboard by `name`, by default its model's; with the store that
    it will be in, together with the command for its report.
    """
    fitting = watched(
        model,
        prepared.ratings,
        where,
        name or model.name,
        report=report_command(name, store.path) if name and store else None,
        start=start,
        test=prepared.pairs,
        on_iteration=on_iteration,
        state=state,
        on_state=on_state,
    )
    began = time.perf_counter()
    fitted = FittedModel.of(fitting, prepared.ratings)
    metrics = evaluation.evaluate(fitted, prepared.test)
    timings = {"fit": fitting.seconds, "evaluate": time.perf_counter() - began}
    return Trained(fitted, fitting, metrics, timings, where.workers)


def publish(
    trained: Trained,
    prepared: Prepared,
    name: str,
    store: Store,
    place: Place,
    make_current: bool = True,
    systems: list[dict] | None = None,
    run: str | None = None,
    about: dict | None = None,
    replacing: Any = WHATEVER,
) -> Version:
    """Store a trained model as the next version of `name`, with what its report needs, and `about`."""
    fitting = trained.fit
    with ThreadPoolExecutor(1, "mfpipe-encoding") as beside:
        encoding = beside.submit(_encoded_factors, trained.fitted)
        if trained.diagnosis is None:
            began = time.perf_counter()
            trained.diagnosis = diagnosis.diagnose(trained.fitted, prepared.test, prepared.sums()["test"])
            trained.timings["diagnose"] = time.perf_counter() - began
    described = {
        "data": prepared.data(),
        "objective": fitting.objective,
        "train_rmse": fitting.train_rmse,
        "test_rmse": trained.metrics["rmse"],
        "n_iter": fitting.n_iter,
        "converged": fitting.converged,
        "warnings": fitting.warnings,
        "timings": dict(trained.timings),
        "checksums": trained.checksums,
        "place": place.settings(),
        **(about or {}),
    }
    if run:
        described["run"] = run
    artifacts: dict[str, Any] = encoding.result() | {
        "history.parquet": _history_table(fitting.history),
        "timings.json": {
            "stages": trained.timings,
            "threads": trained.threads,
            "iterations": [
                {"iteration": record["iteration"], "half_steps": record["half_steps"]}
                for record in fitting.history
            ],
        },
        "metrics.json": trained.metrics,
    }
    artifacts[rated.FILE] = trained.kept or rated.table_of(prepared.ratings)
    if systems:
        artifacts["systems.json"] = systems
    artifacts[diagnosis.FILE] = trained.diagnosis
    trained.version = store.publish(name, trained.fitted, described, artifacts, make_current, replacing)
    return trained.version


def _encoded_factors(fitted: FittedModel) -> dict[str, memoryview]:
    return {name: encoded(table) for name, table in factor_tables(fitted).items()}


def _history_table(history: list[dict]) -> pa.Table:
    columns: dict[str, Any] = {
        key: _numbers([record[key] for record in history], np.int64 if key == "iteration" else np.float64)
        for key in HISTORY
    }
    for half in history[0]["half_steps"] if history else ():
        for key in ("objective", "seconds"):
            columns[f"{half['side']}_{key}"] = _numbers(
                [h[key] for record in history for h in record["half_steps"] if h["side"] == half["side"]],
                np.float64,
            )
    return pa.table(columns)


def _numbers(values: list, dtype: type) -> pa.Array:
    if None in values:
        return pa.array(values, pa.from_numpy_dtype(dtype))
    return to_arrow(np.array(values, dtype))


def evaluate(
    store: Store,
    name: str,
    inputs: Sequence[str],
    rules: Rules = Rules(),
    n: int | None = None,
    relevant: float | None = None,
) -> dict:
    """Errors of a stored model on rating files; see `mfpipe.evaluate.evaluate`.

    With `n` also the quality of lists of so many items, under `ranking`; see `mfpipe.ranking`.
    """
    if n is not None:
        require_count(n)
    elif relevant is not None:
        raise ParameterError("--relevant: only with --ranking N")
    version = store.version(*parse_name(name))
    fitted = version.load() if n is None else rated.load(version)
    test, report = read_test(inputs, rules)
    found = {"name": version.name, "version": version.number, "model": fitted.model.name}
    found |= evaluation.evaluate(fitted, test) | {"rejected": report.rejected}
    return found if n is None else found | {"ranking": ranking(fitted, test, n, relevant)}


def models_from(names: Sequence[str], params: dict[str, Any]) -> list[Model]:
    """Models by name, each with those of the parameters that it has.

    Raises
    ------
    ParameterError
        An unknown name, a value outside its range, or a parameter that none of the models has.
    """
    made = []
    used: set[str] = set()
    for name in names:
        if name not in MODELS:
            raise ParameterError(f"--model {name!r}: must be one of {', '.join(MODELS)}")
        own = {key: value for key, value in params.items() if key in MODELS[name].__dataclass_fields__}
        used |= own.keys()
        made.append(MODELS[name](**own))
    for key in params.keys() - used:
        raise ParameterError(f"{flag(key)}: not a parameter of {', '.join(names)}")
    return made
