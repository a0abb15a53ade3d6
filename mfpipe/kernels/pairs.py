"""What concerns (user, item) pairs: predictions from factors, and hashes for holdouts."""

import numpy as np

from mfpipe.kernels import kernel
from mfpipe.kernels.start import mix


@kernel
def dot_pairs(users, items, user_factors, item_factors, predicted):
    """Set `predicted` to p_u·q_i, in float64, where both rows are known; leave the rest.

    Parameters
    ----------
    users, items : int32, shape (n,)
        -1 where unknown.
    user_factors, item_factors : floating, shape (rows, rank)
    predicted : in and out, float64, shape (n,)
    """
    for n in range(len(users)):
        if users[n] >= 0 and items[n] >= 0:
            p, q = user_factors[users[n]], item_factors[items[n]]
            total = 0.0
            for k in range(len(p)):
                total += p[k] * q[k]
            predicted[n] = total


@kernel
def uniform_pairs(users, items, user_hashes, item_hashes, numbers):
    """A number in [0, 1) for each pair, that depends on the two ids only.

    Parameters
    ----------
    users, items : int32, shape (n,)
    user_hashes, item_hashes : uint64, shape (rows,)
    numbers : out, float64, shape (n,)
    """
    for n in range(len(users)):
        state = mix(mix(user_hashes[users[n]]) + item_hashes[items[n]])
        numbers[n] = np.float64(state >> np.uint64(11)) * 2.0**-53
