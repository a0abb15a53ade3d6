"""Successive halving: many candidates for a few iterations, the best of them for more, and so on.

scikit-learn's `HalvingGridSearchCV` says the same with the same words (`factor`, `min_resources`), with
iterations as its resource. It is not used here because it fits every survivor again from the start, where a
factor model can go on from its factors: a survivor then costs only the iterations that it has not had yet.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mfpipe.errors import ParameterError
from mfpipe.executors import InProcess
from mfpipe.fit import fit
from mfpipe.independent import Run, independent
from mfpipe.job import Data, Place, Prepared, prepare
from mfpipe.models import FactorModel
from mfpipe.models.base import Factors, Totals, flag
from mfpipe.pipeline import compile_kernels
from mfpipe.ratings import Ratings
from mfpipe.regularization import command, grid, require_validation

log = logging.getLogger(__name__)


class Rung(NamedTuple):
    """How many candidates are judged together, and after how many iterations."""

    candidates: int
    iterations: int


class Turn(NamedTuple):
    """What a worker needs to go on with one candidate."""

    model: FactorModel
    factors: Factors | None


class Standing(NamedTuple):
    """Where a candidate has got to after a turn."""

    factors: Factors
    n_iter: int
    converged: bool
    collapsed: bool
    objective: float
    train_rmse: float
    validation_rmse: float
    seconds: float


class Trial(NamedTuple):
    """What all candidates are fitted to and judged on."""

    prepared: Prepared
    where: InProcess


def rungs(n_candidates: int, factor: int, min_resources: int, max_resources: int) -> list[Rung]:
    """The schedule, as scikit-learn's: each rung keeps 1/factor of the candidates, for factor times as long.

    The last is the one that has no more than `factor` candidates left, or the last that `max_resources`
    allows.
    """
    needed = 1 + _floor_log(n_candidates, factor)
    possible = 1 + _floor_log(max_resources // min_resources, factor)
    made = [Rung(n_candidates, min_resources)]
    while len(made) < min(needed, possible):
        last = made[-1]
        made.append(Rung(math.ceil(last.candidates / factor), last.iterations * factor))
    return made


def _floor_log(value: int, base: int) -> int:
    """The largest k with baseᵏ ≤ value, in integers."""
    power = 0
    while base ** (power + 1) <= value:
        power += 1
    return power


def candidates(
    model: FactorModel,
    ratings: Ratings,
    ranks: Sequence[int],
    lambdas: int | Sequence[float],
    weightings: Sequence[str],
) -> list[FactorModel]:
    """Every combination of rank, weighting and λ; a number of λ makes a grid for each of the others."""
    made: list[FactorModel] = []
    grids: dict[tuple, list[float]] = {}
    for rank in ranks:
        for weighting in weightings:
            one = dataclasses.replace(model, rank=rank, weighting=weighting)
            # The ridge's largest useful λ is a property of the ratings, that of an l1 penalty of the start.
            key = (weighting, rank if model.l1_share else None)
            if key not in grids:
                grids[key] = grid(one, ratings, lambdas)
            made += [dataclasses.replace(one, regularization=value) for value in grids[key]]
    return made


def check_search(ranks, weightings, factor: int, min_resources: int, model: FactorModel) -> None:
    """ParameterError for a value outside what it may be, named by its flag."""
    for name, values, field in (("ranks", ranks, "rank"), ("weightings", weightings, "weighting")):
        if not values or len({*values}) < len(values):
            raise ParameterError(f"{flag(name)} {','.join(map(str, values))!r}: must be different values")
        for value in values:
            dataclasses.replace(model, **{field: value})
    if factor < 2:
        raise ParameterError(f"--factor {factor}: must be 2 or more")
    if not 1 <= min_resources <= model.max_iter:
        raise ParameterError(
            f"--min-resources {min_resources}: must lie between 1 and --max-iter {model.max_iter}"
        )


def update_candidate(trial: Trial, turn: Turn) -> Standing:
    """Go on with one candidate on one thread, from its factors or from the start, and judge it."""
    model, ratings, pairs = turn.model, trial.prepared.ratings, trial.prepared.pairs
    start = turn.factors
    if start is not None and model.balances:  # as between any two iterations, which a fit cannot know of
        counts = Factors(ratings.user_counts, ratings.item_counts)
        start = model.balanced(start, counts, Totals(len(ratings), ratings.mean))
    fitted = fit(model, ratings, trial.where, start=start)
    predicted = model.predict(fitted.factors, pairs.users, pairs.items, fitted.baseline)
    return Standing(
        fitted.factors,
        fitted.n_iter,
        fitted.converged,
        fitted.collapsed,
        fitted.objective,
        fitted.train_rmse,
        float(np.sqrt(np.mean((predicted - pairs.rating) ** 2))),
        fitted.seconds,
    )


def make_trial(prepared: Prepared, dtype: np.dtype, partitions: int) -> Trial:
    """The ratings in both groupings, made once for all candidates."""
    return Trial(prepared, InProcess(prepared.ratings, dtype, partitions))


def climb(
    models: Sequence[FactorModel],
    schedule: Sequence[Rung],
    run: Run,
    stage: Callable[[str], Any] = log.info,
) -> list[dict]:
    """Take candidates through the rungs.

    Returns
    -------
    list of dict
        For each candidate, in the order given: `rank, weighting, regularization, rungs` (one
        `{iterations, n_iter, objective, train_rmse, validation_rmse}` for each rung it was judged on),
        `converged, collapsed, seconds`, and `place`: 1 for the winner, None for those that were left behind.
    """
    standings: list[Standing | None] = [None] * len(models)
    records = [
        {key: model.params[key] for key in ("rank", "weighting", "regularization")}
        | {"rungs": [], "converged": False, "collapsed": False, "seconds": 0.0, "place": None}
        for model in models
    ]
    alive = list(range(len(models)))
    for number, rung in enumerate(schedule, 1):
        alive = _best(alive, standings)[: rung.candidates]
        stage(f"rung {number} of {len(schedule)}: {len(alive)} candidates to {rung.iterations} iterations")
        goes_on = [at for at in alive if not records[at]["converged"]]
        turns = [_turn(models[at], standings[at], records[at], rung) for at in goes_on]
        for at, standing in zip(goes_on, run(update_candidate, turns), strict=True):
            standings[at] = standing
        for at in alive:
            _note(records[at], standings[at], rung, ran=at in goes_on)
    for place, at in enumerate(_best(alive, standings), 1):
        records[at]["place"] = place
    return records


def _best(alive: list[int], standings: list[Standing | None]) -> list[int]:
    """Candidates by validation RMSE, equal ones in the order they were given."""

    def rank(at: int) -> tuple[float, int]:
        standing = standings[at]
        return (standing.validation_rmse if standing else 0.0, at)

    return sorted(alive, key=rank)


def _turn(model: FactorModel, standing: Standing | None, record: dict, rung: Rung) -> Turn:
    done = record["rungs"][-1]["n_iter"] if record["rungs"] else 0
    one = dataclasses.replace(model, max_iter=rung.iterations - done)
    return Turn(one, standing.factors if standing else None)


def _note(record: dict, standing: Standing | None, rung: Rung, ran: bool) -> None:
    assert standing is not None
    done = record["rungs"][-1]["n_iter"] if record["rungs"] else 0
    if ran:
        record["seconds"] += standing.seconds
    figures = {key: getattr(standing, key) for key in ("objective", "train_rmse", "validation_rmse")}
    n_iter = done + (standing.n_iter if ran else 0)
    record["rungs"].append({"iterations": rung.iterations, "n_iter": n_iter} | figures)
    record |= {"converged": standing.converged, "collapsed": standing.collapsed}


def tune(
    data: Data,
    model: FactorModel,
    ranks: Sequence[int] = (4, 8, 16),
    lambdas: int | Sequence[float] = 6,
    weightings: Sequence[str] = ("uniform", "count"),
    factor: int = 3,
    min_resources: int = 5,
    place: Place = Place(),
    quarantine: Path | None = None,
    stage: Callable[[str], Any] = log.info,
) -> dict:
    """Successive halving over rank × λ × weighting, judged on ratings held out from the training ratings.

    Candidates do not depend on each other, so each runs whole on one thread of the place given, which
    needs the ratings to fit into one worker's memory; the result does not depend on where it runs.

    Parameters
    ----------
    data : Data
        Without test files.
    model : FactorModel
        Everything but rank, λ and weighting; `max_iter` is the most iterations any candidate gets.
    ranks, weightings : sequences
    lambdas : int or sequence of float
        See `mfpipe.regularization.grid`.
    factor : int
        Each rung keeps 1/factor of the candidates, and takes them to factor times as many iterations.
    min_resources : int
        Iterations of the first rung.

    Returns
    -------
    dict
        What `tune --json` prints: `model, params, factor, min_resources, schedule, candidates` (see
        `climb`), `best` (its rank, weighting, regularization, n_iter and figures), `iterations` (spent, and
        the most that the last rung's for every candidate could have cost), `command, notes, data, timings`.
    """
    require_validation(data)
    check_search(ranks, weightings, factor, min_resources, model)
    started = time.perf_counter()
    stage("reading ratings")
    prepared = prepare(data, quarantine)
    stage("compiling kernels, or loading them from the cache")
    timings = {"ingest": prepared.seconds, "compile": compile_kernels(model)}
    began = time.perf_counter()
    models = candidates(model, prepared.ratings, ranks, lambdas, weightings)
    schedule = rungs(len(models), factor, min_resources, model.max_iter)
    opening = time.perf_counter()
    settings = place.settings()
    make = partial(make_trial, prepared, model.storage, settings.pop("partitions") or 1)
    with independent(make, **settings) as run:
        opened = time.perf_counter()
        records = climb(models, schedule, run, stage)
        fitted = time.perf_counter()
    timings |= {"grid": opening - began, "start": opened - opening, "fit": fitted - opened}
    timings["total"] = time.perf_counter() - started
    at = next(number for number, record in enumerate(records) if record["place"] == 1)
    best = {key: records[at][key] for key in ("rank", "weighting", "regularization")}
    winner = dataclasses.replace(models[at], max_iter=records[at]["rungs"][-1]["n_iter"])
    return {
        "model": model.name,
        "params": {key: value for key, value in model.params.items() if key not in best},
        "factor": factor,
        "min_resources": min_resources,
        "schedule": [rung._asdict() | _best_of(at, records) for at, rung in enumerate(schedule)],
        "candidates": records,
        "best": best | records[at]["rungs"][-1],
        "iterations": {  # the second where none converged sooner
            "spent": sum(record["rungs"][-1]["n_iter"] for record in records),
            "without_halving": len(models) * schedule[-1].iterations,
        },
        "command": command(data, winner),
        "notes": _notes(records, records[at]),
        "data": prepared.data(),
        "timings": timings,
    }


def _best_of(at: int, records: list[dict]) -> dict:
    judged = (record["rungs"][at]["validation_rmse"] for record in records if len(record["rungs"]) > at)
    return {"validation_rmse": min(judged)}


def _notes(records: list[dict], best: dict) -> list[str]:
    """What a reader of the table should know."""
    notes = []
    same = [r for r in records if all(r[key] == best[key] for key in ("rank", "weighting"))]
    values = sorted(record["regularization"] for record in same)
    for end, value in (("smallest", values[0]), ("largest", values[-1])):
        if len(values) > 1 and best["regularization"] == value:
            notes.append(f"the best λ is the {end} of its grid; give others with --lambdas")
    collapsed = sum(record["collapsed"] for record in records)
    if collapsed:
        notes.append(f"{collapsed} of {len(records)} candidates collapsed to zero")
    return notes
