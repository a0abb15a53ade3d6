"""Memory that is used again: for arrays as large as a side's factors, made in every half-step."""

from __future__ import annotations

import math
import weakref
from collections import deque

import numpy as np

LINE = 64  # bytes


class _Lease:
    """Memory lent to an array: the array and its views keep this alive, and this the memory."""

    def __init__(self, memory: np.ndarray, shape: tuple[int, ...], dtype: np.dtype):
        self._memory = memory
        self.__array_interface__ = memory.__array_interface__ | {"shape": shape, "typestr": dtype.str}


class Reused:
    """Arrays to write to; the memory of one that nobody holds any more goes to the next.

    Memory fresh from the system costs more than what is written to it: for 18 MB in the middle of a fit on
    a virtual machine 40 ms, against 2. It begins where a line of the cache does, so that a row of factors
    lies in as few lines as it can.

    May be asked, and given memory back, from several threads.
    """

    KEPT = 3  # pieces of each size: a side's rows before, now and next

    def __init__(self) -> None:
        self._free: dict[int, deque[np.ndarray]] = {}

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array with whatever is in its memory, as `numpy.empty`."""
        needed = math.prod(shape) * dtype.itemsize
        free = self._free.setdefault(needed, deque(maxlen=self.KEPT))
        try:
            memory = free.pop()
        except IndexError:
            more = np.empty(needed + LINE, np.uint8)
            memory = more[-more.ctypes.data % LINE :][:needed]
        lease = _Lease(memory, shape, dtype)
        weakref.finalize(lease, free.append, memory).atexit = False
        return np.asarray(lease)
