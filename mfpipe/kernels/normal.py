"""What every row solver starts from: the normal equations of a row, and their Cholesky solution.

A row of the other side is its factors, or with biases its bias followed by its factors. With biases the
design matrix has a column of ones in the bias's place, and the targets are the ratings less the mean
and the other side's bias.
"""

import numpy as np
from numba import njit

from mfpipe.kernels import OPTIONS

PANEL = 64  # ratings gathered at a time, so that a panel stays in the nearest cache


@njit(**OPTIONS)
def gather(columns, values, other, mean, biased, panel, targets):
    """Copy the design rows and targets of some ratings into the first rows of `panel` and `targets`."""
    width = other.shape[1]
    for j in range(len(columns)):
        x = other[columns[j]]
        for k in range(width):
            panel[j, k] = x[k]
        targets[j] = values[j]
        if biased:
            panel[j, 0] = 1
            targets[j] -= mean + x[0]


@njit(**OPTIONS)
def normal_equations(columns, values, other, mean, biased, panel, targets, gram, moment):
    """Set the lower triangle of `gram` to XᵀX and `moment` to Xᵀy of one row's ratings."""
    width = other.shape[1]
    gram[:] = 0
    moment[:] = 0
    for start in range(0, len(columns), PANEL):
        size = min(PANEL, len(columns) - start)
        stop = start + size
        gather(columns[start:stop], values[start:stop], other, mean, biased, panel, targets)
        for j in range(size):
            y = targets[j]
            for k in range(width):
                moment[k] += y * panel[j, k]
        _add_gram(panel, size, gram)


@njit(**OPTIONS)
def _add_gram(panel, size, gram):
    """Add XᵀX of the panel's first rows to the lower triangle, four rows at a time."""
    width = gram.shape[0]
    j = 0
    while j + 4 <= size:
        a, b, c, d = panel[j], panel[j + 1], panel[j + 2], panel[j + 3]
        for k in range(width):
            ak, bk, ck, dk = a[k], b[k], c[k], d[k]
            target = gram[k]
            for m in range(k + 1):
                target[m] += ak * a[m] + bk * b[m] + ck * c[m] + dk * d[m]
        j += 4
    while j < size:
        a = panel[j]
        for k in range(width):
            ak = a[k]
            target = gram[k]
            for m in range(k + 1):
                target[m] += ak * a[m]
        j += 1


@njit(**OPTIONS)
def factorise(gram, size):
    """Cholesky factor in place of the lower triangle, its diagonal as reciprocals.

    Returns the number of columns factorised: `size`, or fewer where the next one depends on those
    before it to working precision.
    """
    zero = gram.dtype.type(0)
    largest = zero
    for i in range(size):
        largest = max(largest, gram[i, i])
    floor = largest * size * np.finfo(gram.dtype).eps
    for i in range(size):
        target = gram[i]
        for j in range(i):
            source = gram[j]
            dot = zero
            for k in range(j):
                dot += target[k] * source[k]
            target[j] = (target[j] - dot) * source[j]
        dot = zero
        for k in range(i):
            dot += target[k] * target[k]
        pivot = target[i] - dot
        if not pivot > floor:
            return i
        target[i] = 1 / np.sqrt(pivot)
    return size


@njit(**OPTIONS)
def substitute(gram, vector, size):
    """Solve the system that `factorise` factorised, in place."""
    for i in range(size):
        target = gram[i]
        dot = gram.dtype.type(0)
        for k in range(i):
            dot += target[k] * vector[k]
        vector[i] = (vector[i] - dot) * target[i]
    for i in range(size - 1, -1, -1):
        value = vector[i] * gram[i, i]
        vector[i] = value
        target = gram[i]
        for k in range(i):
            vector[k] -= target[k] * value
