"""Squared errors and penalties of rows, summed in float64 whatever the factors' type."""

import numpy as np

from mfpipe.kernels import kernel, part


@kernel
def squared_residual(columns, values, other, mean, biased, row):
    """Σ (r − r̂)² over one row's ratings."""
    total = 0.0
    first = 1 if biased else 0
    for j in range(len(columns)):
        x = other[columns[j]]
        dot = other.dtype.type(0)
        for k in range(first, len(row)):
            dot += x[k] * row[k]
        error = np.float64(values[j]) - np.float64(dot)
        if biased:
            error -= mean + np.float64(row[0]) + np.float64(x[0])
        total += error * error
    return total


@part
def settled(error, digits, columns, values, other, mean, biased, row):
    """Σ (r − r̂)², `error`, once it was found as a difference of numbers as large as `digits`.

    Where that difference has lost too many digits, it is summed over the ratings after all.
    """
    if error < 32 * np.sqrt(np.finfo(other.dtype).eps) * digits:
        return squared_residual(columns, values, other, mean, biased, row)
    return error


@kernel
def row_penalty(row, penalty, bias_penalty, l1_ratio, biased):
    """S (α‖p‖₁ + (1 − α)‖p‖²) + s_b b² of one row."""
    absolute = 0.0
    square = 0.0
    first = 1 if biased else 0
    for k in range(first, len(row)):
        value = np.float64(row[k])
        absolute += abs(value)
        square += value * value
    total = penalty * (l1_ratio * absolute + (1 - l1_ratio) * square)
    if biased:
        total += bias_penalty * np.float64(row[0]) ** 2
    return total


@kernel
def evaluate_rows(
    indptr,
    columns,
    values,
    other,
    penalty,
    bias_penalty,
    own,
    mean,
    biased,
    l1_ratio,
    squared_error,
    penalised,
):
    """The squared error and the penalty of each row as it is; arguments as in `ridge_rows`."""
    for u in range(len(own)):
        begin, end = indptr[u], indptr[u + 1]
        squared_error[u] = squared_residual(
            columns[begin:end], values[begin:end], other, mean, biased, own[u]
        )
        penalised[u] = row_penalty(own[u], penalty[u], bias_penalty[u], l1_ratio, biased)
