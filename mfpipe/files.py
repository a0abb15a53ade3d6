"""Everything that must outlive a crash is written with these few functions.

Files and directories are made aside, flushed, and appear by one rename; then the directory that shows
them is flushed. Nothing is edited in place, so that whenever a process or the power dies, what was
visible before is complete, and so is what is visible afterwards.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import logging
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

log = logging.getLogger(__name__)

FILE_MODE, DIRECTORY_MODE = 0o640, 0o750
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # never hangs on a FIFO
_BLOCK = 1 << 24


def open_new(path: Path) -> int:
    """A descriptor to write a file with that does not exist yet; readable by owner and group only."""
    return os.open(path, _NEW, FILE_MODE)


def write_new(path: Path, data: bytes | memoryview) -> None:
    """Write and flush a file that does not exist yet; its directory is the caller's to flush."""
    handle = open_new(path)
    try:
        view = memoryview(data).cast("B")
        while view:
            view = view[os.write(handle, view[:_BLOCK]) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def replace(path: Path, data: bytes | memoryview) -> None:
    """Make `path` hold `data` in one step, and flush its directory."""
    aside = path.with_name(f".{path.name}.aside")
    try:
        remove(aside)  # of a process that was killed
        write_new(aside, data)
        os.replace(aside, path)
    except BaseException:
        with suppress(OSError):
            remove(aside)
        raise
    flush(path.parent)


def flush(directory: Path) -> None:
    """Wait until the names in a directory are on disk."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_directory(path: Path) -> None:
    """Make a directory and those above it, each flushed into the one that shows it."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for path in reversed(missing):
        with suppress(FileExistsError):  # made by another process just now, or a file: then the flush fails
            os.mkdir(path, DIRECTORY_MODE)
        flush(path.parent)


def remove(path: Path) -> None:
    """Delete a file, or a directory with all it holds, if it is there; links are not followed."""
    with suppress(FileNotFoundError):  # also where another, Dask for one, is removing it too
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return
        empty(path)
        os.rmdir(path)


def empty(directory: Path) -> None:
    """Delete all that a directory holds."""
    for name in sorted(os.listdir(directory)):
        remove(directory / name)


def rename_new(source: Path, target: Path) -> None:
    """Rename, and flush the directory; FileExistsError where the target exists, even as an empty directory.

    A plain rename silently replaces an empty directory. Linux (renameat2) and macOS (renamex_np) can be
    told not to; on a file system that cannot, such as NFS, the target is looked for first, which leaves
    a moment in which an empty directory made by somebody who does not hold our lock could be replaced.
    """
    if not _rename_exclusively(source, target):
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        os.rename(source, target)
    flush(target.parent)


def _rename_exclusively(source: Path, target: Path) -> bool:
    """Whether the system could do it; OSError where it could and the rename failed."""
    if _EXCLUSIVE is None:
        return False
    if _EXCLUSIVE(os.fsencode(source), os.fsencode(target)) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(source), None, str(target))


def _exclusive_call() -> Callable[[bytes, bytes], int] | None:
    libc = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "darwin" and hasattr(libc, "renamex_np"):
        excl = 4  # RENAME_EXCL
        return lambda source, target: libc.renamex_np(source, target, excl)
    if sys.platform == "linux" and hasattr(libc, "renameat2"):
        here, noreplace = -100, 1  # AT_FDCWD, RENAME_NOREPLACE
        return lambda source, target: libc.renameat2(here, source, here, target, noreplace)
    return None


_EXCLUSIVE = _exclusive_call()


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock that a file stands for; the kernel frees it when its process ends, however that is.

    Raises
    ------
    BlockingIOError
        Another process holds it and `wait` is false.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise
            log.info("%s: held by another process; waiting for it", path)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock; asking creates nothing."""
    try:
        handle = os.open(path, _READ)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def open_regular(path: Path) -> int:
    """A descriptor to read a regular file from; OSError for anything else, links included."""
    handle = os.open(path, _READ)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return handle


def read_open(handle: int) -> bytes:
    """All bytes of an open file, from its start, whoever else reads from the descriptor."""
    parts = []
    at = 0
    while part := os.pread(handle, _BLOCK, at):
        parts.append(part)
        at += len(part)
    return b"".join(parts)


def read(path: Path) -> bytes:
    """The bytes of a regular file; links are not followed."""
    handle = open_regular(path)
    try:
        return read_open(handle)
    finally:
        os.close(handle)
