import weakref

import numpy as np

from mfpipe.memory import Reused


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_that_nobody_holds_is_used_again():
    memory = Reused()
    first = memory.empty((5, 3), np.dtype("float32"))
    assert first.shape == (5, 3)
    assert first.dtype == "float32"
    assert first.flags.writeable
    assert first.flags.c_contiguous
    where = address(first)
    assert where % 64 == 0
    del first
    assert address(memory.empty((3, 5), np.dtype("float32"))) == where


def test_memory_is_not_used_again_while_a_view_of_it_lives():
    memory = Reused()
    first = memory.empty((4, 4), np.dtype("float64"))
    first[:] = 1
    view = first[1:3].T
    del first
    second = memory.empty((4, 4), np.dtype("float64"))
    second[:] = 2
    np.testing.assert_array_equal(view, np.ones((4, 2)))


def test_an_array_of_no_rows():
    assert Reused().empty((0, 3), np.dtype("float64")).shape == (0, 3)


def test_no_more_memory_is_kept_than_a_few_pieces():
    memory = Reused()
    arrays = [memory.empty((100,), np.dtype("float64")) for _ in range(10)]
    pieces = [weakref.ref(array.base._memory) for array in arrays]
    del arrays
    assert sum(piece() is not None for piece in pieces) == Reused.KEPT
