"""Starting factors from a counter-based generator: each row's own, wherever the row stands."""

import math

import numpy as np

from mfpipe.kernels import kernel, part
from mfpipe.kernels.tiles import AHEAD, prefetch

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@part
def mix(state):
    """The output function of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014, figure 16)."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


@kernel
def normal_rows(hashes, seed, side, rows):
    """Fill each row with N(0, 1) numbers that depend on id, seed, side and column only.

    Box and Muller's transform of SplitMix64 at counters 2k and 2k + 1.

    Parameters
    ----------
    hashes : uint64, shape (n,)
    seed, side : uint64
    rows : out, floating, shape (n, rank)
    """
    scale = 2.0**-53
    of_side = mix(mix(seed) + side)
    for u in range(len(hashes)):
        key = hashes[u] ^ of_side
        for k in range(rows.shape[1]):
            counter = np.uint64(2 * k)
            first = mix(key + (counter + np.uint64(1)) * _GOLDEN) >> np.uint64(11)
            second = mix(key + (counter + np.uint64(2)) * _GOLDEN) >> np.uint64(11)
            radius = math.sqrt(-2.0 * math.log((np.float64(first) + 1.0) * scale))
            rows[u, k] = radius * math.cos(2.0 * math.pi * np.float64(second) * scale)


@kernel
def project_rows(indptr, columns, values, other, bias_penalty, mean, biased, rows):
    """Fill each row with Σ y x / √n over its n ratings, after its bias if it has one.

    Parameters
    ----------
    indptr : int64, shape (rows + 1,)
    columns : int32, shape (ratings,)
    values : floating, shape (ratings,)
    other : floating, shape (n_other, rank), or (n_other, 1 + rank) with the bias first
        The x.
    bias_penalty : float64, shape (rows,)
    mean : float64
    biased : bool
        Whether y is  r − mean − bias − the other's bias,  or r.
    rows : out, floating, shape (rows, columns of `other`)
    """
    first = 1 if biased else 0
    for u in range(len(rows)):
        others, ratings = columns[indptr[u] : indptr[u + 1]], values[indptr[u] : indptr[u + 1]]
        offset = 0.0
        if biased:
            total = 0.0
            for j in range(len(others)):
                total += np.float64(ratings[j]) - mean - np.float64(other[others[j], 0])
            rows[u, 0] = total / (len(others) + bias_penalty[u])
            offset = mean + np.float64(rows[u, 0])
        row = rows[u, first:]
        row[:] = 0
        for j in range(len(others)):
            prefetch(other[others[min(j + AHEAD, len(others) - 1)]], 0, other.shape[1], 3)
            x = other[others[j]]
            left = np.float64(ratings[j]) - offset
            if biased:
                left -= np.float64(x[0])
            y = other.dtype.type(left)
            x = x[first:]
            for k in range(len(row)):
                row[k] += y * x[k]
        row /= other.dtype.type(math.sqrt(max(1, len(others))))
