"""Small data made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from mfpipe.models.base import Block
from mfpipe.ratings import Ratings, encode


def ratings_of(users, items, rating) -> Ratings:
    """Ratings from sequences of ids and values."""
    columns = (pa.array([str(i) for i in ids], pa.string()).dictionary_encode() for ids in (users, items))
    return encode(*([column] for column in columns), np.asarray(rating, dtype=float))


def block_from(rows: list[list[tuple[int, float]]], dtype="float64", first_row: int = 0) -> Block:
    """A block from each row's (other row, rating) pairs."""
    counts = [len(row) for row in rows]
    flat = [pair for row in rows for pair in sorted(row)]
    columns = np.array([column for column, _ in flat], np.int32)
    values = np.array([value for _, value in flat], dtype)
    return Block(first_row, np.concatenate(([0], np.cumsum(counts))).astype(np.int64), columns, values)


def write(path: Path, text: str | bytes) -> str:
    """Write a file and return its path as text."""
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)
