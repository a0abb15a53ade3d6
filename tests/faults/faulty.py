"""Calls to the system that fail or kill at the k-th, put in the place of the ones `mfpipe.files` makes.

`mfpipe.files` is the only module that writes to a store (a test holds it to that), so these are all the
points at which a crash can leave something half done.
"""

from __future__ import annotations

import errno
import os

from mfpipe import files

CALLS = ("open", "write", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir", "pread")
ALLOCATING = {"open", "write", "fsync", "mkdir", "rename", "replace", "flock"}
KILLED = 77

# What happens at the point: the process dies before the call, after it, or half-way through a write;
# a full disk fails this call and all that need space after it; a broken one this call, or all from now on.
MODES = ("kill before", "kill after", "torn write", "full disk", "one I/O error", "broken disk")


class Faults:
    """Stands for `os` in `mfpipe.files`, and counts its calls.

    Parameters
    ----------
    mode : str
        One of `MODES`.
    point : int
        The call, counted from 1, at which it happens.
    """

    def __init__(self, mode: str, point: int):
        self.mode, self.point = mode, point
        self.count = 0
        self.calls: list[str] = []

    def install(self) -> Faults:
        exclusive, flock = files._EXCLUSIVE, files.fcntl.flock
        files.os = _System(self)
        files.fcntl = _Lock(self, flock)
        files._EXCLUSIVE = lambda *paths: self._exclusive(exclusive, *paths)
        return self

    def _exclusive(self, call, *paths) -> int:
        try:
            return self.at("rename", call, *paths)
        except OSError as error:
            files.ctypes.set_errno(error.errno)
            return -1

    def at(self, name: str, call, *arguments, **options):
        """Make a call of the system, or what becomes of it."""
        if self.mode == "torn write" and name != "write":
            return call(*arguments, **options)
        self.count += 1
        self.calls.append(name)
        here = self.count == self.point
        if self.mode == "kill before" and here:
            os._exit(KILLED)
        if self.mode == "torn write" and here:
            _half(*arguments)
            os._exit(KILLED)
        if self.mode == "full disk" and self.count >= self.point and (here or name in ALLOCATING):
            if name == "write":
                _half(*arguments)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if (here and self.mode == "one I/O error") or (
            self.count >= self.point and self.mode == "broken disk"
        ):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        done = call(*arguments, **options)
        if self.mode == "kill after" and here:
            os._exit(KILLED)
        return done


def _half(handle: int, data: memoryview) -> None:
    os.write(handle, data[: len(data) // 2])


class _System:
    """`os`, with the calls that can fail going through `Faults`."""

    def __init__(self, faults: Faults):
        self._faults = faults

    def __getattr__(self, name: str):
        call = getattr(os, name)
        if name not in CALLS:
            return call
        return lambda *arguments, **options: self._faults.at(name, call, *arguments, **options)


class _Lock:
    """`fcntl`, the same."""

    def __init__(self, faults: Faults, flock):
        from fcntl import LOCK_EX, LOCK_NB, LOCK_SH

        self.LOCK_EX, self.LOCK_NB, self.LOCK_SH = LOCK_EX, LOCK_NB, LOCK_SH
        self.flock = lambda *arguments: faults.at("flock", flock, *arguments)
