"""Whole processes, from a CSV file to a stored model."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from benchmarks import data
from benchmarks.data import HERE, HOLDOUT, csv_files
from benchmarks.environments import PEERS, PEERS_BY_NAME, python_of
from benchmarks.judge import predicted
from benchmarks.measure import MOST_SECONDS, observe, three
from benchmarks.must_show import WAYS

WITHIN = 1.005  # of the best held-out RMSE that any peer reached
MFPIPE = (sys.executable, "-m", "mfpipe")


def goals(reached: Sequence[dict], rank: int) -> tuple[float | None, list[dict]]:
    """The RMSE to come to, and for each system how many iterations it takes; None if it never does.

    Without mfpipe's als: from CSV it fits the ratings themselves, not what is left of their mean as here, so
    these numbers of iterations are not those it would take.

    Parameters
    ----------
    reached : sequence of dict
        Rows of the section `reach`.
    rank : int
    """
    rows = [row for row in reached if row["rank"] == rank and row.get("reached")]
    theirs = [at["held_out_rmse"] for row in rows if row["system"] != "mfpipe" for at in row["reached"]]
    if not theirs:
        return None, []
    goal = WITHIN * min(theirs)
    found = []
    for row in rows:
        if row["options"].get("model") == "als":
            continue
        enough = [at["iterations"] for at in row["reached"] if at["held_out_rmse"] <= goal]
        found.append(
            {
                "system": row["system"],
                "solver": row["options"].get("solver", ""),
                "options": row["options"],
                "best": min(at["held_out_rmse"] for at in row["reached"]),
                "iterations": min(enough, default=None),
            }
        )
    return goal, found


def from_csv(
    set_: str,
    rank: int,
    reached: Sequence[dict],
    repeats: int,
    say: Callable[[str], None],
    most_seconds: float = MOST_SECONDS,
    limit: float = MOST_SECONDS,
    regularization: float = 0.05,
) -> dict:
    """Seconds from CSV to stored model with each system's own number of iterations, interleaved."""
    goal, rows = goals(reached, rank)
    train, test = csv_files(set_)
    seconds: list[list[float]] = [[] for _ in rows]
    with tempfile.TemporaryDirectory(prefix="mfpipe-bench-", dir=data.home()) as made:
        for repeat in range(repeats):
            for at, row in enumerate(rows):
                if row["iterations"] is None or "failed" in row or sum(seconds[at]) > most_seconds:
                    continue
                words = command(row, train, rank, regularization, Path(made))
                seen = observe(words, 2, environment(row["system"]), limit, HERE)
                row["command"] = " ".join(
                    Path(word).name if "/" in word else word for word in map(str, words)
                )
                if seen.failure is not None:
                    row["failed"] = seen.failure
                    say(f"{row['system']} from CSV: {row['failed']}")
                    continue
                seconds[at].append(seen.seconds)
                if not repeat:
                    row["peak"] = max((size for _, size in seen.memory), default=0)
                    row["held_out_rmse"] = _held_out(row["system"], Path(made), test)
                say(f"{row['system']} from CSV, run {repeat + 1}: {seen.seconds:.2f} s")
    for row, taken in zip(rows, seconds, strict=True):
        row["seconds"] = three(taken)
    return {"set": set_, "rank": rank, "goal": goal, "rows": rows}


def environment(system: str, threads: int = 2) -> dict[str, str]:
    """What a package reads its number of threads from; a BLAS called from many threads gets one each.

    Python may keep bytecode, as everybody's does: installed packages have theirs.
    """
    if system == "mfpipe":
        return {"PYTHONDONTWRITEBYTECODE": ""}
    count = str(threads)
    return {
        "PYTHONDONTWRITEBYTECODE": "",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": count,
        "LK_NUM_THREADS": count,
        "LK_NUM_BACKEND_THREADS": "1",
    }


def command(row: dict, train: Path, rank: int, regularization: float, made: Path) -> list:
    """The command that makes a stored model of a CSV file, kept under `made`."""
    if row["system"] == "mfpipe":
        changed = [(f"--{name}", row["options"][name]) for name in WAYS if name in row["options"]]
        # It always judges itself, here on a very small holdout. The file has no pair of the set's own one.
        return [
            *MFPIPE, "train", train, "--model", row["options"]["model"], "--rank", rank,
            "--regularization", regularization, "--max-iter", row["iterations"], "--tol", 0,
            "--init", "spectral", *chain(*changed), "--cluster", "threads", "--workers", 2,
            "--name", "bench", "--store", made / "store",
            "--holdout", f"random:{HOLDOUT.amount + 0.0001}", "--json", "-q",
        ]  # fmt: skip
    peer = PEERS_BY_NAME[row["system"]]
    solver = ["--solver", row["solver"]] if row["solver"] else []
    return [
        python_of(peer.name), PEERS / peer.script, "--csv", train, "--rank", rank,
        "--regularization", regularization, "--iterations", row["iterations"], *solver,
        "--factors", made / f"{peer.name}.npz",
    ]  # fmt: skip


def _held_out(system: str, made: Path, test: Path) -> float:
    """RMSE of the stored model on the test file's pairs of known ids."""
    import pyarrow as pa

    from mfpipe.ratings import read_test
    from mfpipe.store import Store

    records = read_test([test])[0]
    if system == "mfpipe":
        fitted = Store(made / "store").version("bench").load()
        guess, source = fitted.predict(records.user, records.item)
        return float(np.sqrt(np.mean((guess - records.rating)[source == 0] ** 2)))
    with np.load(made / f"{system}.npz") as file:
        factors = {name: file[name] for name in file.files}
    from mfpipe.ids import IdMap

    users, items = (
        IdMap(pa.array(factors[side]).cast(pa.string())).rows(ids)
        for side, ids in (("users", records.user), ("items", records.item))
    )
    known = (users >= 0) & (items >= 0)
    guess = predicted(factors, users[known], items[known]) + float(factors["mean"])
    return float(np.sqrt(np.mean((guess - records.rating[known]) ** 2)))
