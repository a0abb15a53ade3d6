"""Ratings of pairs are sorted by counting as a comparison sort would, on any number of threads."""

from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from mfpipe import pairs
from mfpipe.errors import RatingsError
from mfpipe.ids import IdMap
from mfpipe.pairs import Piece, expanded, grouped, sort_pairs

N = 6
IDS = IdMap(pa.array([f"id{n}" for n in range(N)]))
triples = st.tuples(
    st.integers(0, N - 1), st.integers(0, N - 1), st.sampled_from([-0.0, 0.1, 0.2, 0.7, 5.0]), st.integers(-2, 2)
)  # fmt: skip
chunks = st.lists(st.lists(triples, max_size=12), min_size=1, max_size=6)


def pieces_of(chunks, timed=True):
    kinds = (np.int32, np.int32, np.float64, np.int64)
    made = []
    for chunk in chunks:
        columns = list(zip(*chunk, strict=True)) or [()] * 4
        user, item, rating, time = (np.array(c, kind) for c, kind in zip(columns, kinds, strict=True))
        made.append((user, item, rating, time if timed else None))
    return made


@contextmanager
def shared_out(threads):
    """Even a few ratings go to as many threads."""
    with patch.object(pairs, "RATINGS_A_THREAD", 1), patch.object(pairs, "available_cores", lambda: threads):
        yield


def once(chunks, policy, timed):
    """The rule for duplicates, pair by pair."""
    of = {}
    for user, item, rating, time in (triple for chunk in chunks for triple in chunk):
        of.setdefault((user, item), []).append((time if timed else 0, rating))
    out = []
    for (user, item), found in sorted(of.items()):
        latest = max(time for time, _ in found)
        counted = [rating for time, rating in sorted(found) if policy == "mean" or time == latest]
        out.append((user, item, sum(counted) / len(counted), latest))
    return out


@settings(deadline=None)
@given(chunks.filter(any), st.sampled_from(["latest", "mean"]), st.booleans(), st.integers(1, 5))
def test_every_pair_once_in_order(chunks, policy, timed, threads):
    with shared_out(threads):
        user, item, rating, time = sort_pairs(pieces_of(chunks, timed), IDS, IDS, policy)
    expected = once(chunks, policy, timed)
    assert list(zip(user.tolist(), item.tolist(), strict=True)) == [row[:2] for row in expected]
    assert_array_equal(rating, [row[2] for row in expected])
    assert (time is None) == (not timed)
    if timed:
        assert time.tolist() == [row[3] for row in expected]


@settings(deadline=None)
@given(chunks, st.integers(1, 5))
def test_a_group_keeps_the_order_given(chunks, threads):
    pieces = [Piece(*columns) for columns in pieces_of(chunks)]
    with shared_out(threads):
        indptr, whole = grouped(pieces, N)
    rows, *others = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
    order = np.argsort(rows, kind="stable")
    assert_array_equal(expanded(indptr), rows[order])
    for found, given_in_order in zip(whole[1:], others, strict=True):
        assert_array_equal(found, given_in_order[order])


def test_the_first_repeated_pair_is_named():
    rows = [[(3, 1, 1.0, 0), (2, 5, 1.0, 0)], [(3, 1, 2.0, 0), (2, 5, 1.0, 0)]]
    with pytest.raises(RatingsError, match="user id2, item id5: rated more than once"):
        sort_pairs(pieces_of(rows), IDS, IDS, "error")
