"""The ratings a version was trained on, as they are kept with it: who rated what, by row."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa

from mfpipe.arrow import to_arrow
from mfpipe.errors import ParameterError, StoreError
from mfpipe.fitted import FittedModel
from mfpipe.models.base import Block
from mfpipe.ratings import Ratings
from mfpipe.store import Version

FILE = "ratings.parquet"


def table_of(ratings: Ratings) -> pa.Table:
    """Training ratings as a table of user row, item row and rating."""
    return pa.table({name: to_arrow(getattr(ratings, name)) for name in ("user", "item", "rating")})


def block_of(table: pa.Table, n_users: int) -> Block:
    """The training ratings of such a table, by user."""
    users, items, rating = (table[name].to_numpy() for name in ("user", "item", "rating"))
    return _block(users, items, rating, n_users)


def _block(users: np.ndarray, items: np.ndarray, rating: np.ndarray, n_users: int) -> Block:
    indptr = np.zeros(n_users + 1, np.int64)
    np.cumsum(np.bincount(users, minlength=n_users), out=indptr[1:])
    return Block(0, indptr, items, rating)


def pairs_block(users: np.ndarray, items: np.ndarray, n_users: int) -> Block:
    """Pairs of rows in any order as a block without ratings; those with an unknown row (-1) are left out."""
    known = (users >= 0) & (items >= 0)
    users, items = users[known], items[known]
    order = np.argsort(users, kind="stable")
    return _block(users[order], items[order], np.empty(0), n_users)


def select(block: Block, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row bounds and other-side rows of the given rows alone, in their order; none for row -1."""
    known = rows >= 0
    begin = np.where(known, block.indptr[rows], 0)
    counts = np.where(known, block.indptr[rows + 1] - begin, 0)
    indptr = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    at = np.repeat(begin - indptr[:-1], counts) + np.arange(indptr[-1])
    return indptr, block.columns[at]


def joined(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Two such selections of the same rows as one."""
    n_rows = len(first[0]) - 1
    users = np.concatenate([np.repeat(np.arange(n_rows), np.diff(indptr)) for indptr, _ in (first, second)])
    joint = pairs_block(users, np.concatenate((first[1], second[1])), n_rows)
    return joint.indptr, joint.columns


def require(rated: Block | None, what: str) -> Block:
    """The kept ratings; ParameterError if there are none."""
    if rated is None:
        raise ParameterError(
            f"{what} needs the ratings that were trained on, and this version does not keep them: give them "
            "with --seen FILE, or train again"
        )
    return rated


def load(version: Version) -> FittedModel:
    """A stored model with its training ratings, where the version keeps them.

    Raises
    ------
    StoreError
        A file is missing or damaged.
    """
    fitted = version.load()
    if FILE not in version.manifest["files"]:
        return fitted
    table = version.table(FILE)
    for name, ids in (("user", fitted.users), ("item", fitted.items)):
        rows = table[name].to_numpy()
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(ids)):
            raise StoreError(f"{version.path / FILE}: {name} rows beyond {len(ids)}; the file is damaged")
    return dataclasses.replace(fitted, rated=block_of(table, len(fitted.users)))
