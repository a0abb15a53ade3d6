"""Compiled row solvers on plain arrays; they know no Dask, no pandas and no files.

Every kernel releases the GIL, and a row's result depends on its own ratings, in their stored order,
and on the other side only: never on the block it is in. The fast-math flags allow fused and reordered
sums, fixed when the kernel is compiled, so that they are the same for every row of one length.
"""

import numpy as np

OPTIONS = {"nogil": True, "cache": True, "fastmath": {"contract", "reassoc"}, "error_model": "numpy"}


def readonly(*arrays: np.ndarray) -> list[np.ndarray]:
    """The arrays as contiguous, read-only views.

    Arrays that came over a wire or out of a file cannot be written, and numba compiles anew for those;
    passing every input this way makes one compilation serve all.
    """
    views = [np.ascontiguousarray(array)[...] for array in arrays]
    for view in views:
        view.flags.writeable = False
    return views
