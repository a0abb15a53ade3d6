"""Compiled row solvers on plain arrays; they know no Dask, no pandas and no files.

Every kernel releases the GIL, and a row's result depends on its own ratings, in their stored order,
and on the other side only: never on the block it is in. The fast-math flags allow fused and reordered
sums, fixed when the kernel is compiled, so that they are the same for every row of one length. For that a
loop that sums must not store: LLVM vectorises such a loop only after a look at the addresses of the
arrays, and which of the two orders a sum is made in would depend on where they happen to lie.
"""

import hashlib
import logging
import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
from numba import config, njit
from numba.np import linalg

log = logging.getLogger(__name__)


def _load_without_blas() -> None:
    """Load what numba loads at its first kernel, but not scipy.linalg, to see whether there is a BLAS.

    That takes longer than all the rest of it. No kernel here needs one, and numba looks again before it
    compiles a function that does.
    """
    look = linalg.ensure_blas
    linalg.ensure_blas = lambda: None
    try:
        import_module("numba.np.arraymath")
    finally:
        linalg.ensure_blas = look


if hasattr(linalg, "ensure_blas"):
    _load_without_blas()

_OPTIONS = {"nogil": True, "fastmath": {"contract", "reassoc"}, "error_model": "numpy"}


def _cache_directory() -> Path | None:
    """A directory for compiled kernels of exactly these sources; None if none can be written.

    numba looks only at the file of the function that is called, and would go on using machine code in
    which an older version of another file is inlined.
    """
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    name = f"kernels-{digest.hexdigest()[:16]}"
    if config.CACHE_DIR:
        candidates = [Path(config.CACHE_DIR)]
    else:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        candidates = [Path(__file__).with_name("__pycache__"), Path(home, "mfpipe")]
    for candidate in candidates:
        directory = candidate / name
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(directory, os.W_OK | os.X_OK):
            return directory
    log.warning(
        "compiled kernels cannot be kept in %s, so every start compiles them anew: "
        "set NUMBA_CACHE_DIR to a directory that can be written",
        " or ".join(str(candidate) for candidate in candidates),
    )
    return None


_CACHE = _cache_directory()


def kernel(function: Callable) -> Callable:
    """Compile on the first call, and keep the machine code for later runs."""
    users_own = config.CACHE_DIR
    config.CACHE_DIR = str(_CACHE or "")
    try:
        return njit(**_OPTIONS, cache=_CACHE is not None)(function)
    finally:
        config.CACHE_DIR = users_own


part = njit(**_OPTIONS)
"""Compile as a part of the kernels that call it."""


def readonly(*arrays: np.ndarray) -> list[np.ndarray]:
    """The arrays as contiguous, read-only views.

    Arrays that came over a wire or out of a file cannot be written, and numba compiles anew for those;
    passing every input this way makes one compilation serve all.
    """
    views = [np.ascontiguousarray(array)[...] for array in arrays]
    for view in views:
        view.flags.writeable = False
    return views
