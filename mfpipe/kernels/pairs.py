"""Predictions of (user, item) pairs from factors."""

from numba import njit

from mfpipe.kernels import OPTIONS


@njit(**OPTIONS)
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
