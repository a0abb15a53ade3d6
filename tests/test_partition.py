"""Partitions: equal numbers of ratings, nothing lost, from one to more than there are rows."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from mfpipe.partition import block_of, cut, frame, group, read_partition, split, write


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60), st.integers(1, 90))
def test_cuts_cover_every_row_once_and_balance_as_whole_rows_allow(counts, n_partitions):
    indptr = np.concatenate(([0], np.cumsum(counts)))
    bounds = cut(indptr, n_partitions)
    assert len(bounds) == n_partitions + 1
    assert (bounds[0], bounds[-1]) == (0, len(counts))
    assert (np.diff(bounds) >= 0).all()
    held = np.diff(indptr[bounds])
    assert held.max() <= indptr[-1] / n_partitions + max(counts)


def test_one_giant_row_is_a_partition_of_its_own():
    indptr = np.concatenate(([0], np.cumsum([5, 5, 1000, 5, 5])))
    bounds = cut(indptr, 3)
    assert [2, 3] in [bounds[k : k + 2].tolist() for k in range(3)]


def test_blocks_are_rebuilt_from_their_files_as_they_were(small, tmp_path):
    for side in ("user", "item"):
        whole = group(small, side, np.dtype("float32"))
        for n_partitions in (1, 3, 7, 500):
            blocks = split(whole, n_partitions)
            specs = write(blocks, side, tmp_path)
            for block, spec in zip(blocks, specs, strict=True):
                again = block_of(read_partition(spec["path"]), spec["first_row"], spec["n_rows"])
                assert again.first_row == block.first_row
                for mine, theirs in zip(block[1:], again[1:], strict=True):
                    assert mine.dtype == theirs.dtype
                    assert_array_equal(mine, theirs)
            assert sum(len(block.values) for block in blocks) == len(small)


def test_frames_are_plain_numbers_sorted_by_row_and_then_by_the_other(small, tmp_path):
    for side, other in (("user", "item"), ("item", "user")):
        specs = write(split(group(small, side, np.dtype("float64")), 5), side, tmp_path)
        ddf = frame(specs, side, np.dtype("float64"))
        assert ddf.npartitions == 5
        assert list(ddf.columns) == [side, other, "rating"]
        table = ddf.compute(scheduler="synchronous")
        assert [str(kind) for kind in table.dtypes] == ["int32", "int32", "float64"]
        rows, columns = table[side].to_numpy(), table[other].to_numpy()
        order = np.lexsort((columns, rows))
        assert_array_equal(order, np.arange(len(small)))
        assert table["rating"].sum() == small.rating.sum()
