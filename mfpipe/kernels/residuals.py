"""Squared errors and norms of rows, summed in float64 whatever the factors' type."""

import numpy as np
from numba import njit

from mfpipe.kernels import OPTIONS


@njit(**OPTIONS)
def squared_residual(columns, values, other, row):
    """‖y − Xp‖² in float64."""
    total = 0.0
    rank = other.shape[1]
    for j in range(len(columns)):
        x = other[columns[j]]
        dot = other.dtype.type(0)
        for k in range(rank):
            dot += x[k] * row[k]
        error = np.float64(values[j]) - np.float64(dot)
        total += error * error
    return total


@njit(**OPTIONS)
def squared_norm(row):
    """‖p‖² in float64."""
    total = 0.0
    for k in range(len(row)):
        total += np.float64(row[k]) * np.float64(row[k])
    return total


@njit(**OPTIONS)
def residual_rows(indptr, columns, values, own, other, squared_error, norm):
    """The squared error and the squared norm of each row as it is.

    Parameters
    ----------
    indptr, columns, values
        A block's ratings; see `ridge_rows`.
    own : floating, shape (n, rank)
    other : floating, shape (n_other, rank)
    squared_error, norm : out, float64, shape (n,)
    """
    for u in range(len(own)):
        begin, end = indptr[u], indptr[u + 1]
        squared_error[u] = squared_residual(columns[begin:end], values[begin:end], other, own[u])
        norm[u] = squared_norm(own[u])
