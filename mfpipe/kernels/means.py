"""Means of rows, and the squared errors of predicting with them."""

import numpy as np

from mfpipe.kernels import kernel


@kernel
def mean_rows(indptr, columns, values, other, own_share, rows, squared_error):
    """The mean of each row's ratings, and the error of predicting with it.

    The prediction of a rating is  own_share · mean + (1 − own_share) · other[column].

    Parameters
    ----------
    indptr : int64, shape (n + 1,)
    columns : int32, shape (nnz,)
    values : floating, shape (nnz,)
    other : floating, shape (n_other, 1)
        Means of the other side; unused where `own_share` is 1.
    own_share : float
    rows : out, floating, shape (n, 1)
        Zero for a row without ratings.
    squared_error : out, float64, shape (n,)
    """
    for u in range(len(indptr) - 1):
        begin, end = indptr[u], indptr[u + 1]
        total = 0.0
        for j in range(begin, end):
            total += values[j]
        rows[u, 0] = total / (end - begin) if end > begin else 0.0
        error = 0.0
        for j in range(begin, end):
            predicted = rows[u, 0]
            if own_share != 1.0:
                predicted = own_share * predicted + (1 - own_share) * other[columns[j], 0]
            error += (np.float64(values[j]) - predicted) ** 2
        squared_error[u] = error
