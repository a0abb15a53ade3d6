"""Ratings → the two groupings, cut into partitions that hold equal numbers of ratings."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mfpipe.models.base import OTHER, Block
from mfpipe.pairs import Piece, grouped
from mfpipe.ratings import Ratings

if TYPE_CHECKING:
    import dask.dataframe as dd
    import pandas as pd


def group(ratings: Ratings, side: str, dtype: np.dtype) -> Block:
    """All ratings as one block of one side: rows ascending, and within a row the other side's rows."""
    return _grouped(ratings, side, ratings.rating.astype(dtype, copy=False))


def both(ratings: Ratings, dtype: np.dtype) -> dict[str, Block]:
    """The groups of either side, from one copy of the values."""
    values = ratings.rating.astype(dtype, copy=False)
    return {side: _grouped(ratings, side, values) for side in ("user", "item")}


def _grouped(ratings: Ratings, side: str, values: np.ndarray) -> Block:
    if side == "item":
        pieces = [Piece(ratings.item, ratings.user, values, np.empty(0, np.int64))]
        indptr, piece = grouped(pieces, len(ratings.items))
        return Block(0, indptr, piece.columns, piece.values)
    return Block(0, np.concatenate(([0], np.cumsum(ratings.user_counts))), ratings.item, values)


def cut(indptr: np.ndarray, n_partitions: int) -> np.ndarray:
    """Row bounds of partitions that hold as equal numbers of ratings as whole rows allow.

    Returns
    -------
    ndarray of int64, shape (n_partitions + 1,)
        Partition k holds rows bounds[k] to bounds[k + 1]; empty ones are possible.
    """
    targets = indptr[-1] * np.arange(1, n_partitions) / n_partitions
    above = np.searchsorted(indptr, targets)
    below = np.maximum(above - 1, 0)
    nearest = np.where(targets - indptr[below] <= indptr[above] - targets, below, above)
    return np.concatenate(([0], nearest, [len(indptr) - 1])).astype(np.int64)


def split(block: Block, n_partitions: int) -> list[Block]:
    """The partitions of a whole side, as views of its arrays."""
    bounds = cut(block.indptr, n_partitions)
    return [_part(block, start, stop) for start, stop in pairwise(bounds)]


def _part(block: Block, start: int, stop: int) -> Block:
    begin, end = block.indptr[start], block.indptr[stop]
    indptr = block.indptr[start : stop + 1] - begin
    return Block(int(start), indptr, block.columns[begin:end], block.values[begin:end])


def write(blocks: list[Block], side: str, directory: Path) -> list[dict]:
    """Write each partition's ratings as a Parquet file of (row, other side's row, rating).

    Returns
    -------
    list of dict
        For each partition its `path`, `first_row` and `n_rows`.
    """
    specs = []
    for number, block in enumerate(blocks):
        path = directory / f"by_{side}-{number:05d}.parquet"
        rows = np.repeat(np.arange(block.n_rows, dtype=np.int32), np.diff(block.indptr)) + np.int32(
            block.first_row
        )
        table = pa.table({side: rows, OTHER[side]: block.columns, "rating": block.values})
        pq.write_table(table, path, compression="none", use_dictionary=False, write_page_checksum=True)
        specs.append({"path": str(path), "first_row": block.first_row, "n_rows": block.n_rows})
    return specs


def frame(specs: list[dict], side: str, dtype: np.dtype) -> dd.DataFrame:
    """The partitions as a Dask DataFrame with the columns (row, other side's row, rating)."""
    import dask.dataframe as dd
    import pandas as pd

    meta = pd.DataFrame(
        {side: np.empty(0, "i4"), OTHER[side]: np.empty(0, "i4"), "rating": np.empty(0, dtype)}
    )
    return dd.from_map(read_partition, [spec["path"] for spec in specs], meta=meta, enforce_metadata=False)


def read_partition(path: str) -> pd.DataFrame:
    """The ratings of one partition file."""
    return pq.read_table(path, page_checksum_verification=True).to_pandas()


def block_of(part: pd.DataFrame, first_row: int, n_rows: int) -> Block:
    """A partition's ratings as CSR arrays."""
    rows, columns, values = (part[name].to_numpy() for name in part.columns)
    indptr = np.zeros(n_rows + 1, np.int64)
    np.cumsum(np.bincount(rows - first_row, minlength=n_rows), out=indptr[1:])
    return Block(first_row, indptr, np.ascontiguousarray(columns), np.ascontiguousarray(values))
