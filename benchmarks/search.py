"""What warm starts and halving save at the homework's size, and where path and tune run fastest.

    python -m benchmarks.search [TRAIN.csv]

Seconds depend on the machine and what else it does; iterations and figures do not.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from benchmarks.overhead import training_file
from mfpipe.executors import executor
from mfpipe.fit import fit
from mfpipe.halving import candidates, tune
from mfpipe.job import Data, Place, prepare
from mfpipe.models import ALS, BiasedALS, LassoMF
from mfpipe.regularization import fit_path, grid, path

PATH = ALS(5, weighting="count", dtype="float64", max_iter=200)
TUNED = (ALS(), BiasedALS(), LassoMF(cold="zero"))
LOCAL = {"cluster": "local", "dashboard_address": "127.0.0.1:0"}
PLACES = {
    "serial": Place("serial"),
    "threads": Place("threads"),
    "cluster, 1 process": Place(**LOCAL, workers=1),
    "cluster, 2 processes": Place(**LOCAL, workers=2),
}
ROUNDS = 3


def main() -> None:
    """Print the tables."""
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else training_file()
    print(source)
    data = Data([str(source)])
    show_starts(data)
    show_halving(data)
    show_places(data)


def show_starts(data: Data) -> None:
    """Each λ from its neighbour's factors, and from the keyed start."""
    prepared = prepare(data)
    values = grid(PATH, prepared.ratings, 10)
    with executor(prepared.ratings, PATH.storage, "threads") as where:
        warm = fit_path(PATH, values, prepared, where)
        models = [dataclasses.replace(PATH, regularization=value) for value in values]
        keyed = [fit(model, prepared.ratings, where) for model in models]
    print("als, rank 5, count: each λ from its neighbour | from the keyed start")
    for one, other in zip(warm, keyed, strict=True):
        left = f"{one['regularization']:10.4g}  J {one['objective']:10.6f}  {one['n_iter']:4} iterations"
        print(f"{left} | J {other.objective:10.6f}  {other.n_iter:4} iterations")
    print(f"in all {sum(r['n_iter'] for r in warm)} | {sum(each.n_iter for each in keyed)} iterations")


def show_halving(data: Data) -> None:
    """The winner of the default `tune`, and of fitting every candidate to the last rung's iterations."""
    prepared = prepare(data)
    for model in TUNED:
        found = tune(data, model, place=Place("threads"))
        most = found["schedule"][-1]["iterations"]
        judged = []
        with executor(prepared.ratings, model.storage, "threads") as where:
            for one in candidates(model, prepared.ratings, (4, 8, 16), 6, ("uniform", "count")):
                whole = fit(
                    dataclasses.replace(one, max_iter=most), prepared.ratings, where, test=prepared.pairs
                )
                judged.append((whole.history[-1]["test_rmse"], one, whole.n_iter))
        rmse, winner, _ = min(judged, key=lambda each: each[0])
        best = found["best"]
        same = all(best[key] == winner.params[key] for key in ("rank", "weighting", "regularization"))
        print(
            f"{model.name}: rank {best['rank']}, {best['weighting']}, λ {best['regularization']:.4g}: "
            f"{best['validation_rmse']:.4f} after {found['iterations']['spent']} iterations in all; every "
            f"candidate whole: {rmse:.4f} after {sum(n for *_, n in judged)}; "
            f"{'the same winner' if same else winner}"
        )


def show_places(data: Data) -> None:
    """Seconds of the fits of a path and of `tune`, the least of several rounds."""
    print(f"seconds, the least of {ROUNDS} rounds (starting a cluster is not counted)")
    for name, place in PLACES.items():
        paths = min(path(data, PATH, 10, place)["timings"]["fit"] for _ in range(ROUNDS))
        tunes = min(tune(data, ALS(), place=place)["timings"]["fit"] for _ in range(ROUNDS))
        print(f"{name:<22} path {paths:7.3f}  tune {tunes:7.3f}")


if __name__ == "__main__":
    main()
