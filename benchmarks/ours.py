"""One fit by mfpipe, in a process of its own, speaking as the scripts in `benchmarks/peers` do.

python -m benchmarks.ours --ratings SET.npz --rank 64 --iterations 5 …
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path

import numpy as np

import mfpipe
from benchmarks import data
from mfpipe.executors import executor
from mfpipe.fit import Fit, Pairs, cold_start, fit
from mfpipe.models import MODELS
from mfpipe.pipeline import compile_kernels


def event(name: str, **more) -> None:
    """Tell the measuring process what happened."""
    print("\n" + json.dumps({"event": name} | more), flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--ratings", type=Path, required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--iterations", type=int, required=True)
    parser.add_argument("--regularization", type=float, default=0.05)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", default="als")
    parser.add_argument("--init", default="spectral")
    parser.add_argument("--init-scale", type=float, default=1.0)
    parser.add_argument("--solver", help="of the models that have a choice")
    parser.add_argument("--cg-steps", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--weighting", default="count")
    parser.add_argument("--cluster", default="threads")
    parser.add_argument("--processes", type=int, help="worker processes of a local cluster")
    parser.add_argument("--partitions", type=int)
    parser.add_argument("--factors", type=Path)
    parser.add_argument("--at", default="", help="iterations after which held-out RMSE is wanted")
    return parser.parse_args()


def main() -> None:
    """Fit, and say what was seen."""
    options = arguments()
    triples = data.load(options.ratings)
    ratings = triples.ratings()
    solver = {"solver": options.solver, "cg_steps": options.cg_steps} if options.solver else {}
    model = MODELS[options.model](
        rank=options.rank,
        regularization=options.regularization,
        weighting=options.weighting,
        init=options.init,
        init_scale=options.init_scale,
        dtype=options.dtype,
        max_iter=options.iterations,
        tol=0,
        **solver,
    )
    test = Pairs(triples.test_user, triples.test_item, triples.test_target) if options.at else None
    event("loaded")
    compiled = compile_kernels(model)
    with executor(ratings, model.storage, **_place(options)) as where:
        event("prepared", compile=compiled)
        began = time.perf_counter()
        start = cold_start(model, ratings, where)
        to_start = time.perf_counter() - began
        fitted = fit(model, ratings, where, start, test)
        event("fitted")
    if options.factors:
        np.savez(options.factors, mean=triples.mean, **_factors(fitted, options.rank))
    event(
        "result",
        seconds=[record["seconds"] for record in fitted.history],
        start=to_start,
        reached=_reached(fitted, to_start, [int(n) for n in options.at.split(",") if n]),
        course=[{key: record[key] for key in ("objective", "train_rmse")} for record in fitted.history],
        objective_reached=fitted.objective,
        train_rmse=fitted.train_rmse,
        compile=compiled,
        versions={"mfpipe": mfpipe.__version__},
        settings=dataclasses.asdict(model) | _place(options) | {"workers": options.threads},
        objective=f"J of {options.model} with {options.weighting} weighting",
    )


def _place(options) -> dict:
    """Where the half-steps run, as `executor` is told."""
    place = {"cluster": options.cluster, "partitions": options.partitions}
    if options.cluster == "threads":
        return place | {"workers": options.threads}
    if options.cluster == "local":
        each = {"threads_per_worker": max(1, options.threads // (options.processes or 1))}
        return place | each | {"workers": options.processes, "dashboard_address": "127.0.0.1:0"}
    return place


def _factors(fitted: Fit, rank: int) -> dict:
    """Factors, and biases where the model has them."""
    found = {side: rows[:, -rank:] for side, rows in zip(("user", "item"), fitted.factors, strict=True)}
    if fitted.factors.user.shape[1] > rank:
        biases = {"user_bias": fitted.factors.user[:, 0], "item_bias": fitted.factors.item[:, 0]}
        found |= biases | {"offset": fitted.baseline.global_mean}
    return found


def _reached(fitted: Fit, to_start: float, wanted: list[int]) -> list[dict]:
    seconds = to_start + np.cumsum([record["seconds"] for record in fitted.history])
    return [
        {
            "iterations": n,
            "seconds": float(seconds[n - 1]),
            "held_out_rmse": fitted.history[n - 1]["test_rmse"],
        }
        for n in wanted
    ]


if __name__ == "__main__":
    main()
