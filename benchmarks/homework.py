"""The homework's job, whole processes from the shell, and its serial loop.

python -m benchmarks.homework
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from benchmarks import data
from benchmarks.data import HERE, homework_files
from benchmarks.environments import PEERS_BY_NAME
from benchmarks.measure import observe, three
from benchmarks.naive import homework_seconds
from benchmarks.whole import MFPIPE, command, environment

HOMEWORK_FLAGS = (
    "--cluster", "threads", "--rank", "5", "--max-iter", "20", "--tol", "0", "--name", "homework",
)  # fmt: skip


def measured(runs: int, peers: Sequence[str], say: Callable[[str], None], limit: float = 60) -> dict:
    """The homework's files, whole process from the shell, 20 iterations at K=5, on two threads."""
    files = homework_files()
    if files is None:
        return {
            "skipped": "the homework's files are not here (data/README.md); "
            "MFPIPE_HOMEWORK names their directory"
        }
    rows: dict[str, list[float]] = {"mfpipe": []} | {name: [] for name in peers}
    failed: dict[str, str] = {}
    memory: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="mfpipe-bench-", dir=data.home()) as made:
        commands = {"mfpipe": _homework_command(files, Path(made))}
        for name in peers:
            row = {"system": name, "solver": PEERS_BY_NAME[name].solvers[0], "iterations": 20}
            commands[name] = command(row, _three_columns(files[0], Path(made)), 5, 0.05, Path(made))
        observe(commands["mfpipe"], 2, cwd=HERE)  # so that the compiled cache is warm
        for _ in range(runs):
            for name, words in commands.items():
                if name in failed:
                    continue
                seen = observe(words, 2, environment(name), limit, HERE)
                if seen.failure is not None:
                    failed[name] = seen.failure
                else:
                    rows[name].append(seen.seconds)
                    memory[name] = max((size for _, size in seen.memory), default=0)
        say("one iteration of a serial loop over the homework's files")
        naive = homework_seconds(files[0])
    return {
        "rows": [
            {"system": name, "seconds": three(taken), "peak": memory.get(name), "failed": failed.get(name)}
            for name, taken in rows.items()
        ],
        "command": "mfpipe train train.csv --test test.csv " + " ".join(HOMEWORK_FLAGS),
        **naive,
    }


def _homework_command(files: tuple[Path, Path], made: Path) -> list:
    return [*MFPIPE, "train", files[0], "--test", files[1], *HOMEWORK_FLAGS, "--store", made / "store", "-q"]


def _three_columns(train: Path, made: Path) -> Path:
    """The homework's training file as user, item, rating, which is what the packages' scripts read."""
    path = made / "train.csv"
    pd.read_csv(train)[["user_id", "movie_id", "rating"]].to_csv(path, index=False)
    return path


if __name__ == "__main__":
    print(json.dumps(measured(5, [], print), indent=1))
