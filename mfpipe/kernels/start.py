"""Starting factors from a counter-based generator: each row's own, wherever the row stands."""

import math

import numpy as np

from mfpipe.kernels import kernel, part

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
