"""The regularization path: one model fitted at a grid of λ, each fit started from its neighbour's factors.

Where the penalty is a ridge the path goes from large λ to small: just below the largest useful λ there
is one direction to find, and each step down only adds to what its neighbour knows. Under an l1 penalty
zeros stay zero, so that the path goes from small λ to large, and ends where everything has collapsed.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mfpipe.command_line import train_command
from mfpipe.errors import ParameterError
from mfpipe.executors import executor
from mfpipe.fit import Fit, starting_factors
from mfpipe.job import Data, Place, Prepared, prepare
from mfpipe.models import FactorModel
from mfpipe.models.base import SIDES, Factors
from mfpipe.pipeline import compile_kernels
from mfpipe.ratings import Ratings
from mfpipe.watching import watched

log = logging.getLogger(__name__)

DECADES = 3  # what a grid spans below the largest useful λ
NOTHING = 1e-14  # a largest useful λ, as a share of the ratings' root mean square, that is rounding alone
VANISHED = 1e-3  # a direction's singular value, as a share of the largest, below which it starts anew


def parse_lambdas(text: str) -> int | list[float]:
    """Read a --lambdas value: how many, or which, separated by commas."""
    try:
        if re.fullmatch(r"[0-9]{1,4}", text, re.ASCII) and int(text) > 0:
            return int(text)
        values = [float(part) for part in text.split(",")]
        if all(math.isfinite(value) and value > 0 for value in values) and len({*values}) == len(values):
            return values
    except ValueError:
        pass
    raise ParameterError(
        f"--lambdas {text!r}: must be how many (1 to 9999), or different finite numbers above 0 with commas "
        "between them"
    )


def grid(model: FactorModel, ratings: Ratings, lambdas: int | Sequence[float]) -> list[float]:
    """The λ to try, falling: those given, or so many below the largest useful one."""
    if isinstance(lambdas, int):
        return below(largest_useful(model, ratings), lambdas)
    return sorted(lambdas, reverse=True)


def below(largest: float, n: int, inclusive: bool = False) -> list[float]:
    """Falling λ, equally far apart in log λ over the `DECADES` below the largest, with it or without it.

    They have four digits: the last ones of a largest λ depend on the threads of the BLAS that found it.
    """
    steps = [float(f"{largest * 10 ** (-DECADES * k / n):.4g}") for k in range(1, n + 1)]
    return [largest, *steps[:-1]] if inclusive else steps


def largest_useful(model: FactorModel, ratings: Ratings) -> float:
    """The λ from which on a fit ends with all factors zero.

    For an l1 penalty, where that depends on the start, the λ from which on the first half-step from the
    model's keyed start gives zeros.

    Raises
    ------
    ParameterError
        Nothing is left for factors to explain, whatever λ.
    """
    if not model.signed:
        # The best of fewer factors is no better: where free factors are zero, non-negative ones are too.
        model = type(model)(**model.params | {"nonnegative": False})
    start = starting_factors(model, ratings)
    bound = model.collapse_bound(ratings.user, ratings.item, ratings.rating, start)
    if not bound or bound < NOTHING * math.sqrt(np.mean(ratings.rating**2)):
        raise ParameterError("--lambdas: these ratings leave nothing for factors to explain, whatever λ")
    return bound


def fit_path(
    model: FactorModel,
    lambdas: Sequence[float],
    prepared: Prepared,
    where: Any,
    on_fit: Callable[[Fit, dict], Any] = lambda fitted, record: None,
) -> list[dict]:
    """Fit a model at each λ, in the order given, and say what became of it.

    Returns
    -------
    list of dict
        For each λ that was fitted: `regularization, objective, train_rmse, validation_rmse,
        squared_errors` (of each validation record, in squared stars), `sparsity, user_norm, item_norm`
        (Euclidean norms of all factors of a side), `n_iter, converged, collapsed, start, seconds`, and
        `solver_seconds` (in row solvers, summed over the threads that ran them). Under an l1 penalty none
        follows one with nothing but zeros: they stay zero for every larger λ.
    """
    ratings = prepared.ratings
    keyed = starting_factors(model, ratings)
    records: list[dict] = []
    factors: Factors | None = None
    for value in lambdas:
        start = None if factors is None else with_all_directions(model, factors, keyed)
        here = dataclasses.replace(model, regularization=value)
        fitted = watched(here, ratings, where, f"{model.name}, λ = {value:.4g}", start=start)
        records.append(_record(fitted, prepared, model.init if factors is None else "neighbour"))
        on_fit(fitted, records[-1])
        if model.l1_share and fitted.sparsity == 1:
            break
        factors = None if fitted.collapsed and not model.l1_share else fitted.factors
    return records


def with_all_directions(model: FactorModel, factors: Factors, keyed: Factors) -> Factors:
    """A neighbour's factors, with those directions that have vanished taken from the keyed start.

    A direction that is zero in both sides is a fixed point for every λ, as all of them are after a
    collapse, and with a ridge penalty the path must be able to add it again. Factors are rotated to make
    each direction a column, which changes neither p·q nor the penalty; non-negative ones stay as they are.
    """
    if model.l1_share:
        return factors
    sides = [rows[:, -model.rank :].astype(np.float64) for rows in factors]
    if model.signed:
        _, rotation = np.linalg.eigh(sides[0].T @ sides[0] + sides[1].T @ sides[1])
        turned = [rows @ rotation for rows in sides]
    else:
        turned = sides
    size = np.linalg.norm(turned[0], axis=0) * np.linalg.norm(turned[1], axis=0)
    gone = size < VANISHED * size.max()
    if not gone.any():
        return factors
    whole = []
    for rows, mine, fresh in zip(factors, turned, keyed, strict=True):
        mine[:, gone] = fresh[:, -model.rank :][:, gone]
        whole.append(np.hstack((rows[:, : -model.rank], mine)).astype(model.storage))
    return Factors(*whole)


def _record(fitted: Fit, prepared: Prepared, start: str) -> dict:
    model, pairs = fitted.model, prepared.pairs
    predicted = model.predict(fitted.factors, pairs.users, pairs.items, fitted.baseline)
    squared = (predicted - pairs.rating) ** 2
    rank = model.params["rank"]
    norms = {side: float(np.linalg.norm(getattr(fitted.factors, side)[:, -rank:])) for side in SIDES}
    return {
        "regularization": model.params["regularization"],
        "objective": fitted.objective,
        "train_rmse": fitted.train_rmse,
        "validation_rmse": float(np.sqrt(squared.mean())),
        "squared_errors": squared,
        "sparsity": fitted.sparsity,
        "user_norm": norms["user"],
        "item_norm": norms["item"],
        "n_iter": fitted.n_iter,
        "converged": fitted.converged,
        "collapsed": fitted.collapsed,
        "start": start,
        "seconds": fitted.seconds,
        "solver_seconds": sum(
            part["seconds"]
            for each in fitted.history
            for half in each["half_steps"]
            for part in half["partitions"]
        ),
    }


def path(
    data: Data,
    model: FactorModel,
    lambdas: int | Sequence[float] = 10,
    place: Place = Place(),
    quarantine: Path | None = None,
    stage: Callable[[str], Any] = log.info,
    on_fit: Callable[[Fit, dict], Any] = lambda fitted, record: None,
) -> dict:
    """Fit a model along a grid of λ, judged on ratings held out from the training ratings.

    One chain of warm-started fits is sequential by nature, so what runs in parallel is each half-step,
    over its partitions, as in any other fit: the result does not depend on where it runs.

    Parameters
    ----------
    data : Data
        Without test files: a path chooses λ, and a test set that has chosen is none any more.
    model : FactorModel
        Its own `regularization` is not used.
    lambdas : int or sequence of float
        Which λ, or how many; see `below`.

    Returns
    -------
    dict
        What `path --json` prints: `model, params, largest_useful, path` (see `fit_path`; sorted from
        small λ to large), `best, one_standard_error, command, notes, data, timings`.

    Raises
    ------
    ParameterError, RatingsError, NumericError, ClusterError
    """
    require_validation(data)
    started = time.perf_counter()
    stage("reading ratings")
    prepared = prepare(data, quarantine)
    stage("compiling kernels, or loading them from the cache")
    timings = {"ingest": prepared.seconds, "compile": compile_kernels(model)}
    began = time.perf_counter()
    largest = largest_useful(model, prepared.ratings)
    # Under an l1 penalty the end to reach is a collapse; the ridge's largest λ has nothing to show.
    rising = model.l1_share > 0
    wanted = below(largest, lambdas, inclusive=rising) if isinstance(lambdas, int) else lambdas
    wanted = sorted(wanted, reverse=not rising)
    opening = time.perf_counter()
    with executor(prepared.ratings, model.storage, **place.settings()) as where:
        opened = time.perf_counter()
        how = "from small to large" if rising else "from large to small"
        stage(f"fitting {model.name} at {len(wanted)} λ, {how}")
        records = fit_path(model, wanted, prepared, where, on_fit)
        fitted = time.perf_counter()
    timings |= {"grid": opening - began, "start": opened - opening, "fit": fitted - opened}
    records.sort(key=lambda record: record["regularization"])
    best = min(records, key=lambda record: (record["validation_rmse"], -record["regularization"]))
    found = {
        "model": model.name,
        "params": {name: value for name, value in model.params.items() if name != "regularization"},
        "largest_useful": largest,
        "best": best["regularization"],
        "one_standard_error": one_standard_error(records, best, prepared),
        "notes": _notes(model, records, best, wanted) + _overhead(records, place),
        "command": command(data, dataclasses.replace(model, regularization=best["regularization"])),
        "data": prepared.data(),
    }
    for record in records:
        del record["squared_errors"]
    timings["total"] = time.perf_counter() - started
    return found | {"path": records, "timings": timings}


def require_validation(data: Data) -> None:
    """ParameterError where test files are given: what chooses among models must not be what tests them."""
    if data.test:
        raise ParameterError("--test: not read when λ is chosen; hold out training ratings with --holdout")


def command(data: Data, model: FactorModel) -> str:
    """`mfpipe train` on the same training ratings with the parameters of a model."""
    return train_command(
        data.inputs, model.name, model.params, holdout=str(data.split_by()), rules=data.rules
    )


def one_standard_error(records: list[dict], best: dict, prepared: Prepared) -> dict | None:
    """The largest λ whose mean squared validation error is within one standard error of the best.

    Errors of one user's ratings hang together, so the standard error is that of a mean over clusters
    (users), not over independent records.

    Returns
    -------
    dict or None
        `regularization`, `validation_rmse`, and `standard_error` of the best mean squared error, in squared
        stars; None where all records are of one user.
    """
    users = prepared.test.user.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    n_users, squared = int(users.max()) + 1, best["squared_errors"]
    if n_users == 1:
        return None
    sums = np.bincount(users, squared - squared.mean())
    error = math.sqrt(n_users / (n_users - 1) * float(sums @ sums)) / len(squared)
    limit = squared.mean() + error
    within = [record for record in records if record["squared_errors"].mean() <= limit]
    largest = max(within, key=lambda record: record["regularization"])
    return {key: largest[key] for key in ("regularization", "validation_rmse")} | {"standard_error": error}


def _notes(model: FactorModel, records: list[dict], best: dict, wanted: Sequence[float]) -> list[str]:
    """What a reader of the table should know."""
    notes = []
    collapsed = [record["regularization"] for record in records if record["collapsed"]]
    if collapsed:
        zeros = [record["regularization"] for record in records if record["sparsity"] == 1]
        exact = f"; all are exactly zero from {min(zeros):.4g} on" if zeros else ""
        first = f"{min(collapsed):.4g}"
        notes.append(f"from λ = {first} on collapsed: the factors explain next to nothing{exact}")
    if len(records) < len(wanted):
        notes.append(
            f"{len(wanted) - len(records)} larger λ were not fitted: under an l1 penalty zeros stay zero"
        )
    ends = {records[0]["regularization"]: "smallest", records[-1]["regularization"]: "largest"}
    if best["regularization"] in ends and len(records) > 1:
        end = ends[best["regularization"]]
        notes.append(f"the best λ is the {end} of the grid; give others with --lambdas")
    unfinished = sum(not record["converged"] for record in records)
    if unfinished:
        notes.append(
            f"{unfinished} of {len(records)} fits had not converged after {model.max_iter} iterations; "
            "raise --max-iter, or accept a larger --tol"
        )
    return notes


def _overhead(records: list[dict], place: Place) -> list[str]:
    """Whether most of the time on a cluster went into reaching it, from the fits' own seconds."""
    solving, whole = (sum(record[key] for record in records) for key in ("solver_seconds", "seconds"))
    if place.cluster in ("serial", "threads") or solving > whole / 2:
        return []
    return [
        f"the row solvers took {solving:.2g} of the {whole:.2g} s of all fits, the rest is the cluster's "
        "overhead; --cluster threads has none"
    ]
