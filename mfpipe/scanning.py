"""Blocks of delimited text without quotes → columns, by compiled kernels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from mfpipe.arrow import to_arrow
from mfpipe.kernels.fields import PADDING, count_lines, gather, intern, refill, split

COMPILED_FROM = 4 << 20
"""Bytes of a block from which the kernels pay; below, loading them takes longer than they save."""
_FIRST_TABLE = 1 << 11


class Scanned(NamedTuple):
    """The rows of a block, and the lines that need a closer look.

    `lines` and `odd_lines` are line numbers within the block, from 0; `columns` are dictionary arrays,
    and string arrays where asked for; `odd` is the text of the odd lines; `ascii` says whether every byte
    of the block is below 128, so that it is UTF-8 for certain.
    """

    lines: np.ndarray
    columns: dict[str, pa.Array]
    odd_lines: np.ndarray
    odd: bytes
    ascii: bool


def can_scan(delimiter: str) -> bool:
    """Whether the kernels know this delimiter: one byte, and not itself the end of a line."""
    return delimiter.isascii() and delimiter not in "\r\n"


def scan(
    block: bytes, delimiter: str, width: int, positions: dict[str, int], distinct: tuple[str, ...]
) -> Scanned:
    r"""Columns of whole lines ended by ``\n``.

    Parameters
    ----------
    block : bytes
        Fewer than 2**31, none of them a quote.
    delimiter : str
        One that `can_scan`.
    width : int
        Fields of a line.
    positions : dict
        For each column that is wanted its place in a line; the places differ.
    distinct : tuple of str
        Columns of few distinct texts, to be returned as dictionary arrays; the others become string
        arrays.
    """
    data = np.empty(len(block) + PADDING, np.uint8)
    data[: len(block)] = np.frombuffer(block, np.uint8)
    data[len(block) :] = 0
    n_lines = count_lines(data, len(block))
    slots = np.full(width, -1, np.int64)
    for slot, position in enumerate(positions.values()):
        slots[position] = slot
    starts, lengths = np.empty((2, len(positions), n_lines), np.int32)
    lines, odd_starts, odd_lengths, odd_lines = np.empty((4, n_lines), np.int32)
    kept, odd, ascii_only = split(
        data,
        len(block),
        np.uint8(ord(delimiter)),
        slots,
        starts,
        lengths,
        lines,
        odd_starts,
        odd_lengths,
        odd_lines,
    )
    columns = {
        role: (_distinct if role in distinct else _texts)(data, starts[slot, :kept], lengths[slot, :kept])
        for slot, role in enumerate(positions)
    }
    spans = zip(odd_starts[:odd].tolist(), odd_lengths[:odd].tolist(), strict=True)
    odd_text = b"".join(block[start : start + length] for start, length in spans)
    return Scanned(lines[:kept].copy(), columns, odd_lines[:odd].copy(), odd_text, bool(ascii_only))


def _distinct(data: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> pa.DictionaryArray:
    codes, firsts = np.empty((2, len(starts)), np.int32)
    size, done, found = _FIRST_TABLE, 0, 0
    keys = np.empty((size // 2, 2), np.uint64)
    table = np.full(size, -1, np.int32)
    while True:
        done, found = intern(data, starts, lengths, done, found, table, keys, codes, firsts)
        if done == len(starts):
            break
        size *= 4
        wider = np.empty((size // 2, 2), np.uint64)
        wider[:found] = keys
        keys, table = wider, np.full(size, -1, np.int32)
        refill(table, keys, found)
    at = firsts[:found]
    return pa.DictionaryArray.from_arrays(to_arrow(codes.copy()), _texts(data, starts[at], lengths[at]))


def _texts(data: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> pa.StringArray:
    offsets = np.empty(len(starts) + 1, np.int32)
    texts = np.empty(int(lengths.sum()) + PADDING, np.uint8)
    gather(data, starts, lengths, offsets, texts)
    return pa.StringArray.from_buffers(len(starts), pa.py_buffer(offsets), pa.py_buffer(texts))
