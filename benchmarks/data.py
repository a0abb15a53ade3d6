"""Sets of ratings to measure on: made once, kept under the benchmark's directory.

Every set is one .npz of training and held-out triples by row number, given to all systems alike, and two
CSV files for the runs from file to stored model. Targets are the ratings less the training mean μ: LensKit
always subtracts a mean, and on these targets the exact solvers of all packages minimise the same J.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv

from mfpipe.evaluate import Holdout
from mfpipe.ids import IdMap
from mfpipe.ratings import Ratings, ingest, read_test
from mfpipe.synth import Synthetic

HERE = Path(__file__).parents[1]
HOMEWORK = HERE.parent / "shared" / "data" / "netflix"
HOLDOUT = Holdout("random", 0.1)
SYNTHETIC = {
    "tiny": Synthetic(300, 120, 6_000),
    "100k": Synthetic(6_000, 2_500, 100_000),
    "2m": Synthetic(70_000, 10_700, 2_000_000),
    "10m": Synthetic(70_000, 10_700, 10_000_000),
    "30m": Synthetic(70_000, 10_700, 30_000_000),
}
NAMES = (*SYNTHETIC, "homework")


class Triples(NamedTuple):
    """Training and held-out triples by row number, as all systems get them.

    `user`, `item` int32 and `target` float32, shape (n,), sorted by user and then item; `mean` is μ, in
    stars, already taken from the targets. Held-out pairs are those of known users and items.
    """

    user: np.ndarray
    item: np.ndarray
    target: np.ndarray
    test_user: np.ndarray
    test_item: np.ndarray
    test_target: np.ndarray
    mean: float
    shape: tuple[int, int]

    def ratings(self) -> Ratings:
        """The training triples with ids made of their row numbers."""
        users, items = (IdMap(pa.array(np.arange(n)).cast(pa.string())) for n in self.shape)
        return Ratings(self.user, self.item, self.target.astype(float), None, users, items)


def home() -> Path:
    """Where sets, environments and results are kept: $MFPIPE_BENCH, by default build/bench."""
    return Path(os.environ.get("MFPIPE_BENCH") or HERE / "build" / "bench").resolve()


def homework_files() -> tuple[Path, Path] | None:
    """The homework's train and test files; None where they are not.

    They are looked for in $MFPIPE_HOMEWORK, by default shared/data/netflix beside the checkout.
    """
    directory = Path(os.environ.get("MFPIPE_HOMEWORK") or HOMEWORK)
    files = directory / "train.csv", directory / "test.csv"
    return files if all(path.is_file() for path in files) else None


def available(name: str) -> bool:
    """Whether a set can be made here."""
    return name in SYNTHETIC or (name == "homework" and homework_files() is not None)


def triples_file(name: str) -> Path:
    """The .npz of a set, made if it is not there."""
    path = home() / "data" / f"{name}.npz"
    if not path.is_file():
        _make(name)
    return path


def csv_files(name: str) -> tuple[Path, Path]:
    """The train and test CSV of a set, made if they are not there."""
    if name == "homework":
        files = homework_files()
        if files is None:
            raise FileNotFoundError("the homework's files are not here (see data/README.md)")
        return files
    triples_file(name)
    return csv_files_of(name)


def load(path: Path) -> Triples:
    """A set from its .npz."""
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    shape = tuple(int(n) for n in arrays.pop("shape"))
    return Triples(**(arrays | {"mean": float(arrays["mean"]), "shape": shape}))


def described(name: str) -> dict:
    """What a set is made from, and its size."""
    data = load(triples_file(name))
    source = {"synth": asdict(SYNTHETIC[name])} if name in SYNTHETIC else {"files": "the homework's"}
    counts = np.bincount(data.user, minlength=data.shape[0])
    return {
        "name": name,
        **source,
        "holdout": str(HOLDOUT) if name in SYNTHETIC else "test.csv",
        "users": data.shape[0],
        "items": data.shape[1],
        "training": len(data.user),
        "held_out": len(data.test_user),
        "mean": data.mean,
        "median_ratings_of_a_user": float(np.median(counts)),
    }


def _make(name: str) -> None:
    directory = home() / "data"
    directory.mkdir(parents=True, exist_ok=True)
    if name in SYNTHETIC:
        train, test = HOLDOUT.split(_synthetic(SYNTHETIC[name]))
        for ratings, path in zip((train, test), csv_files_of(name), strict=True):
            _write_csv(ratings, path)
    else:
        files = csv_files(name)
        train, test = ingest([files[0]])[0], read_test([files[1]])[0]
    users, items = train.users.rows(test.user), train.items.rows(test.item)
    known = (users >= 0) & (items >= 0)
    mean = float(train.rating.mean())
    aside = directory / f".{name}.npz"
    np.savez(
        aside,
        user=train.user,
        item=train.item,
        target=(train.rating - mean).astype(np.float32),
        test_user=users[known],
        test_item=items[known],
        test_target=(test.rating[known] - mean).astype(np.float32),
        mean=mean,
        shape=(len(train.users), len(train.items)),
    )
    aside.replace(directory / f"{name}.npz")


def csv_files_of(name: str) -> tuple[Path, Path]:
    """Where the CSV files of a synthetic set are written."""
    return home() / "data" / f"{name}-train.csv", home() / "data" / f"{name}-test.csv"


def _synthetic(synthetic: Synthetic) -> Ratings:
    """The ratings that `mfpipe synth` would write, without the detour over text."""
    user, item, stars, _ = synthetic.columns()
    order = np.argsort(user * (synthetic.items + 1) + item)
    user, users = _rows(user[order])
    item, items = _rows(item[order])
    return Ratings(user, item, stars[order].astype(float), None, users, items)


def _rows(numbers: np.ndarray) -> tuple[np.ndarray, IdMap]:
    used, rows = np.unique(numbers, return_inverse=True)
    return rows.astype(np.int32), IdMap(pa.array(used).cast(pa.string()))


def _write_csv(ratings, path: Path) -> None:
    """Training `Ratings` or `TestRatings` as CSV, in an order that no reader can profit from."""
    shuffle = np.random.default_rng(0).permutation(len(ratings))
    if isinstance(ratings, Ratings):
        user, item = ratings.users.texts.take(ratings.user), ratings.items.texts.take(ratings.item)
    else:
        user, item = ratings.user, ratings.item
    table = pa.table(
        {
            "user_id": user.cast(pa.int64()),
            "item_id": item.cast(pa.int64()),
            "rating": ratings.rating.astype(np.int64),
        }
    ).take(shuffle)
    with path.open("wb") as file:
        file.write(b"user_id,item_id,rating\n")
        plain = pyarrow.csv.WriteOptions(include_header=False, quoting_style="none")
        pyarrow.csv.write_csv(table, file, plain)
