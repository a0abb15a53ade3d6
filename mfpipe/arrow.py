"""Arrays of numpy as Arrow's and back, without copies and without pandas.

`pyarrow.array` and `to_numpy` import pandas to see whether they are given it or asked for it, which takes
a quarter of a second: longer than reading five million ratings.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def to_arrow(values: np.ndarray) -> pa.Array:
    """The Arrow array of the same numbers or truth values."""
    if values.dtype == bool:
        return to_arrow(values.view(np.uint8)).cast(pa.bool_())
    kind = pa.from_numpy_dtype(values.dtype)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def to_numpy(values: pa.Array) -> np.ndarray:
    """The numbers or truth values of an Arrow array without nulls, for reading only."""
    if pa.types.is_boolean(values.type):
        return to_numpy(values.cast(pa.uint8())).view(bool)
    return np.from_dlpack(values)
