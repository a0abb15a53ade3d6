"""Directories for files that nobody needs after this process: removed at its end, whatever its end is.

    TMPDIR/mfpipe-scratch-…/.lock     held while the process lives; freed by the kernel however it ends

What a killed process left is recognised by its free lock and removed by the next one.
"""

from __future__ import annotations

import logging
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mfpipe import files
from mfpipe.errors import StoreError

log = logging.getLogger(__name__)

PREFIX = "mfpipe-scratch-"
_held: set[Path] = set()


@contextmanager
def directory() -> Iterator[Path]:
    """A new directory of mode 0700, removed at the end with all it holds.

    Raises
    ------
    StoreError
        The temporary directory cannot be written.
    """
    try:
        _remove_stale(Path(tempfile.gettempdir()))
        # Locked before it has the name by which it is known, so that nobody takes it for a dead one's.
        aside = Path(tempfile.mkdtemp(prefix=".mfpipe-"))
    except OSError as error:
        raise unusable(error) from error
    path = aside.with_name(PREFIX + secrets.token_hex(6))
    _held.update((aside, path))
    try:
        with files.locked(aside / ".lock"):
            os.rename(aside, path)
            yield path
    finally:
        remove(aside, path)


def unusable(error: OSError) -> StoreError:
    """What to say where temporary files cannot be written."""
    where = os.environ.get("TMPDIR") or "/tmp"
    return StoreError(
        f"temporary directory {where}: cannot be written ({error.strerror or error}); "
        "set TMPDIR to one with some space"
    )


def remove(*paths: Path) -> None:
    """Remove directories of this process."""
    for path in paths:
        try:
            files.remove(path)
            _held.discard(path)
        except OSError as error:
            log.warning("%s: cannot be removed (%s)", path, error.strerror or error)


def remove_all() -> None:
    """Remove every directory of this process, where it must end without unwinding."""
    remove(*_held.copy())


def _remove_stale(where: Path) -> None:
    for path in where.glob(PREFIX + "*"):
        with suppress(OSError):  # gone meanwhile, or another process is removing it
            found = path.lstat()
            mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
            if mine and (path / ".lock").exists() and not files.is_locked(path / ".lock"):
                log.info("%s: left by a process that was killed; removed", path)
                files.remove(path)
