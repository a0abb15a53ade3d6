"""numpy's arrays as Arrow's and back."""

import numpy as np
import pyarrow as pa
import pytest
from numpy.testing import assert_array_equal

from mfpipe.arrow import to_arrow, to_numpy


@pytest.mark.parametrize("dtype", ["i1", "i4", "i8", "u8", "f4", "f8", "?"])
@pytest.mark.parametrize("step", [1, 3, -1])
def test_there_and_back(dtype, step):
    values = (np.arange(20) % 3).astype(dtype)[::step]
    made = to_arrow(values)
    assert made.equals(pa.array(values))
    assert to_numpy(made).dtype == values.dtype
    assert_array_equal(to_numpy(made), values)
    assert_array_equal(to_numpy(made.slice(2, 3)), values[2:5])
    assert len(to_numpy(to_arrow(values[:0]))) == 0


@pytest.mark.filterwarnings("ignore:Exporting an unversioned DLPack")  # what numpy tries next
def test_what_has_nulls_is_refused():
    with pytest.raises(TypeError):
        to_numpy(pa.array([1, None]))
    with pytest.raises(TypeError):
        to_numpy(pa.array([True, None]))
