"""Ids as written in the files, and the dense rows that stand for them."""

from __future__ import annotations

import hashlib
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mfpipe.arrow import to_arrow, to_numpy

FEW = 1000  # ids asked for at a time, up to which a dictionary kept in memory is faster than Arrow
_UNKNOWN = to_arrow(np.array([-1], np.int32))[0]
_LINE_END = pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, 1], np.int32)), pa.py_buffer(b"\n"))[0]
CANONICAL_INTEGER = "^(0|-?[1-9][0-9]{0,17})$"


class IdMap:
    """The ids of one side in row order: row r stands for ``texts[r]``.

    Parameters
    ----------
    texts : pyarrow.StringArray
        Distinct ids, exactly as written in the files.
    """

    def __init__(self, texts: pa.StringArray):
        self.texts = texts

    @classmethod
    def sorted(cls, texts: pa.StringArray) -> IdMap:
        """Distinct ids in row order: by value where all are integers, by UTF-8 bytes otherwise."""
        keys = texts.cast(pa.int64()) if are_integers(texts) else texts
        return cls(texts.take(pc.sort_indices(keys)))

    def __len__(self) -> int:
        return len(self.texts)

    def __eq__(self, other) -> bool:
        return isinstance(other, IdMap) and self.texts.equals(other.texts)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self):
        return IdMap, (self.texts,)

    def __getitem__(self, row: int) -> str:
        return self.texts[int(row)].as_py()

    def rows(self, texts: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Rows of the given ids.

        Parameters
        ----------
        texts : pyarrow string or dictionary array, shape (n,)

        Returns
        -------
        ndarray of int32, shape (n,)
            -1 where the id is unknown.
        """
        if isinstance(texts, pa.ChunkedArray):
            texts = texts.combine_chunks()
        if pa.types.is_dictionary(texts.type):
            return self.rows(texts.dictionary)[to_numpy(texts.indices)]
        if len(texts) <= FEW:
            return np.array([self._row_of.get(text, -1) for text in texts.to_pylist()], np.int32)
        found = pc.index_in(texts, value_set=self.texts)
        return to_numpy(pc.fill_null(found, _UNKNOWN))

    def subset(self, keep: np.ndarray) -> IdMap:
        """The ids where `keep`, bool, shape (rows,), is true, in the same order."""
        kept = IdMap(self.texts.filter(to_arrow(keep)))
        if "hashes" in vars(self):  # found before, which takes longer than all of this
            kept.hashes = self.hashes[keep]
        return kept

    def lines(self) -> pa.Buffer:
        """The UTF-8 bytes of all ids with a newline between."""
        every = pa.ListArray.from_arrays(to_arrow(np.array([0, len(self)], np.int32)), self.texts)
        return pc.binary_join(every, _LINE_END)[0].as_buffer()

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {text: row for row, text in enumerate(self.texts.to_pylist())}

    @cached_property
    def hashes(self) -> np.ndarray:
        """A stable 64-bit hash of each id's text; uint64, shape (rows,)."""
        return hashes_of(self.texts)


def hashes_of(texts: pa.StringArray) -> np.ndarray:
    """A stable 64-bit hash of each text; uint64, shape (n,)."""
    digests = (hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts.to_pylist())
    return np.frombuffer(b"".join(digests), dtype="<u8")


def are_integers(texts: pa.StringArray) -> bool:
    """Whether every text is an integer in its one canonical spelling, within 18 digits."""
    return bool(pc.all(pc.match_substring_regex(texts, CANONICAL_INTEGER)).as_py())
