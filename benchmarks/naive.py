"""A serial loop such as a homework has, for the ratio: a selection, an explicit sum and an inverse a row.

    python -m benchmarks.naive [TRAIN.csv]

The homework's own code is not in this repository. This one iteration walks over all rows of one side, selects
each row's ratings from the whole table, adds up XᵀX and Xᵀy rating by rating, and inverts.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.data import HERE, homework_files
from benchmarks.measure import three
from mfpipe.executors import executor
from mfpipe.fit import fit
from mfpipe.models import ALS
from mfpipe.ratings import ingest

RANK, REGULARIZATION = 5, 1e-4


def half_step(rows: list, others: list, values: list, other: np.ndarray, n: int) -> np.ndarray:
    """New rows of one side by the plain loop; λN as `uniform` weighting has it."""
    made = np.zeros((n, RANK))
    for row in range(n):
        gram, moment = REGULARIZATION * len(values) * np.eye(RANK), np.zeros(RANK)
        for at in range(len(values)):
            if rows[at] == row:
                x = other[others[at]]
                gram += np.outer(x, x)
                moment += values[at] * x
        made[row] = np.linalg.inv(gram) @ moment
    return made


def homework_seconds(train: Path) -> dict:
    """Seconds of one iteration by the loop and by mfpipe in threads, and their ratio."""
    ratings, _ = ingest([train])
    rng = np.random.default_rng(0)
    users, items, values = (array.tolist() for array in (ratings.user, ratings.item, ratings.rating))
    user_factors = rng.normal(size=(len(ratings.users), RANK))
    began = time.perf_counter()
    item_factors = half_step(items, users, values, user_factors, len(ratings.items))
    half_step(users, items, values, item_factors, len(ratings.users))
    spent = time.perf_counter() - began
    model = ALS(RANK, REGULARIZATION, "uniform", max_iter=40, tol=0, dtype="float64")
    with executor(ratings, model.storage, "threads", workers=2) as where:
        history = fit(model, ratings, where).history[1:]
    ours = three([record["seconds"] for record in history])
    assert ours is not None
    return {"naive": spent, "ours": ours, "ratio": spent / ours["median"]}


if __name__ == "__main__":
    files = homework_files()
    default = files[0] if files else HERE / "data" / "train.csv.gz"
    print(homework_seconds(Path(sys.argv[1]) if len(sys.argv) > 1 else default))
