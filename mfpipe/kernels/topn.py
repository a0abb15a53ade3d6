"""What top-N needs beside a matrix product: the best of each row, and a re-ranking for diversity."""

import numpy as np

from mfpipe.kernels import kernel, part

CHUNK = 64  # scores looked at together before any is looked at alone


@kernel
def best_columns(scores, margins, n, indptr, excluded, found, starts):
    """Columns of each row that may be among its `n` best, given how far its scores may be off.

    A column is left out only where `n` others are better by more than the row's margin, so that the n
    best by the exact scores are among those found, however the product was rounded. Where the margin is
    zero the scores are exact, and of equal ones the first columns are found.

    Parameters
    ----------
    scores : in and out, floating, shape (rows, columns)
        Excluded columns become -inf.
    margins : floating, shape (rows,)
        Twice the largest error of a score.
    n : int
    indptr : int64, shape (rows + 1,)
    excluded : int32, shape (nnz,)
        Columns to leave out, by row; negative ones mean none.
    found : int32, shape (m,)
        Room for the columns found, best guess; replaced by a larger one where it is too small.
    starts : out, int64, shape (rows + 1,)
        Row r's columns are found[starts[r]:starts[r + 1]], ascending.

    Returns
    -------
    int32 array
        `found`, or what replaced it.
    """
    columns = scores.shape[1]
    heap = np.empty(min(n, columns), scores.dtype)
    near = np.empty(columns, np.int32)
    used = 0
    starts[0] = 0
    for r in range(scores.shape[0]):
        row = scores[r]
        for k in range(indptr[r], indptr[r + 1]):
            if excluded[k] >= 0:
                row[excluded[k]] = -np.inf
        count, least = _gather(row, margins[r], heap, near)
        if used + count > len(found):
            larger = np.empty(2 * (used + count), np.int32)
            for k in range(used):  # a slice takes numba 2 s more: to compile what it says if shapes differ
                larger[k] = found[k]
            found = larger
        floor = least - margins[r]
        for k in range(count):
            if row[near[k]] >= floor:
                found[used] = near[k]
                used += 1
        starts[r + 1] = used
    return found


@part
def _gather(row, margin, heap, near):
    """Columns within `margin` of the best seen so far; their number, and the least of the best."""
    heap[:] = -np.inf
    floor = -heap.dtype.type(np.inf)
    count = 0
    for begin in range(0, len(row), CHUNK):
        end = min(begin + CHUNK, len(row))
        above = 0
        for j in range(begin, end):
            above += row[j] > floor
        if above == 0:
            continue
        for j in range(begin, end):
            if row[j] > floor:
                near[count] = j
                count += 1
                if row[j] > heap[0]:
                    _replace_least(heap, row[j])
                    floor = heap[0] - margin
    return count, heap[0]


@part
def _replace_least(heap, value):
    """Put `value` in the place of a heap's least, which stands first."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= len(heap):
            break
        if child + 1 < len(heap) and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= value:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = value


@kernel
def diversify(items, scores, starts, directions, diversity, n, order, kept):
    """Choose `n` of each row's items one after the other, weighing score against likeness to those chosen.

    The next is the one with the largest (1 - d)·relevance - d·likeness: relevance is the score scaled to
    [0, 1] over the row's items, likeness the largest cosine with an item already chosen (0 for the first).
    Of equal ones the first is taken.

    Parameters
    ----------
    items : int32, shape (m,)
        Rows of `directions`; row r of the answer has items[starts[r]:starts[r + 1]], best first.
    scores : float64, shape (m,)
    starts : int64, shape (rows + 1,)
    directions : floating, shape (n_items, rank)
        Factors of length one, or zero.
    diversity : float
        d, from 0 to 1.
    n : int
    order : out, int64, shape (m,)
        Positions in `items` of those chosen, in the order they were; row r's begin at starts[r].
    kept : out, int64, shape (rows,)

    References
    ----------
    Carbonell, Goldstein: The use of MMR, diversity-based reranking for reordering documents and
    producing summaries, SIGIR 1998.
    """
    for r in range(len(starts) - 1):
        begin, end = starts[r], starts[r + 1]
        kept[r] = min(n, end - begin)
        if begin == end:
            continue
        low, high = scores[begin], scores[begin]
        for j in range(begin, end):
            low, high = min(low, scores[j]), max(high, scores[j])
        likeness = np.zeros(end - begin)
        taken = np.zeros(end - begin, np.bool_)
        for k in range(kept[r]):
            best, best_value = -1, 0.0
            for j in range(end - begin):
                if taken[j]:
                    continue
                relevance = (scores[begin + j] - low) / (high - low) if high > low else 1.0
                value = (1 - diversity) * relevance - diversity * likeness[j]
                if best < 0 or value > best_value:
                    best, best_value = j, value
            taken[best] = True
            order[begin + k] = begin + best
            chosen = directions[items[begin + best]]
            for j in range(end - begin):
                if not taken[j]:
                    other = directions[items[begin + j]]
                    cosine = 0.0
                    for f in range(len(chosen)):
                        cosine += np.float64(chosen[f]) * np.float64(other[f])
                    likeness[j] = cosine if k == 0 else max(likeness[j], cosine)
