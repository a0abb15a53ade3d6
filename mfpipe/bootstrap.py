"""How sure an error is: intervals from resampled users, for many slices of the records at once.

Users are drawn with replacement, each with all of its records, because a user's errors depend on each
other. All figures are judged on the same draws, so differences between two systems are paired.

With more users than `GROUPS`, they are dealt into that many groups of equal size at random, and groups
are drawn: sums over groups of independent users vary as sums over users do, and the cost no longer grows
with their number.

References
----------
Efron, Tibshirani: An Introduction to the Bootstrap, 1993, chapters 8 (units) and 13 (percentiles).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from mfpipe.arrow import to_numpy

GROUPS = 1000
DRAWS = 1000
CONFIDENCE = 0.95
FEWEST = 10  # users (or groups of them) in a slice, below which its draws say little


class Bootstrap:
    """The same resamples of users for every figure.

    Parameters
    ----------
    users : pyarrow string array, shape (n,)
        The user of each record.
    seed : int
    """

    def __init__(self, users: pa.Array, seed: int = 0):
        code = to_numpy(users.dictionary_encode().indices)
        self.n_users = int(code.max(initial=-1)) + 1
        self.n_groups = min(self.n_users, GROUPS)
        rng = np.random.default_rng(seed)
        if self.n_users > GROUPS:
            code = (rng.permutation(self.n_users) % GROUPS)[code]
        self.group = code.astype(np.int64)
        self._times = times_drawn(self.n_groups, rng)

    def by_group(self, values: np.ndarray | None, of: np.ndarray, n: int) -> np.ndarray:
        """Sums of values (or numbers of records) of each group in each slice; shape (groups, n).

        `of` is the slice of each record; records of a negative one are in none.
        """
        keep = of >= 0
        at = self.group[keep] * n + of[keep]
        weights = None if values is None else values[keep]
        return np.bincount(at, weights, self.n_groups * n).reshape(self.n_groups, n).astype(np.float64)

    def drawn(self, sums: np.ndarray) -> np.ndarray:
        """Sums in every draw from those of groups; shape (draws, n)."""
        return self._times @ sums

    def slices(self, residual: np.ndarray, of: np.ndarray, n: int) -> list[dict[str, Any]]:
        """Errors of each slice with their intervals.

        Parameters
        ----------
        residual : ndarray of float64, shape (records,)
            Predicted minus true rating, in stars.
        of : ndarray of int, shape (records,)
            The slice of each record; negative for none.
        n : int
            Slices.

        Returns
        -------
        list of dict
            For each slice `rows`, `rmse`, `rmse_interval`, `mean_residual` and `mean_interval`, in stars.
            An interval is None where fewer than `FEWEST` users, or groups of them, have a record; the
            other figures are None of nothing.
        """
        sums = [self.by_group(values, of, n) for values in (None, residual**2, residual)]
        rows, squares, residuals = (each.sum(axis=0) for each in sums)
        drawn, drawn_squares, drawn_residuals = (self.drawn(each) for each in sums)
        with np.errstate(invalid="ignore", divide="ignore"):  # a slice that a draw has no record of
            rmse = intervals(np.sqrt(drawn_squares / drawn))
            mean = intervals(drawn_residuals / drawn)
        sure = (sums[0] > 0).sum(axis=0) >= FEWEST
        return [
            {
                "rows": int(rows[at]),
                "rmse": float(np.sqrt(squares[at] / rows[at])) if rows[at] else None,
                "rmse_interval": rmse[at] if sure[at] else None,
                "mean_residual": float(residuals[at] / rows[at]) if rows[at] else None,
                "mean_interval": mean[at] if sure[at] else None,
            }
            for at in range(n)
        ]


def times_drawn(n: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of n is drawn in each of `DRAWS` resamples; float64, shape (draws, n)."""
    drawn = rng.integers(0, n, (DRAWS, n)) if n else np.empty((DRAWS, 0), np.int64)
    at = drawn + n * np.arange(DRAWS)[:, None]
    return np.bincount(at.ravel(), minlength=DRAWS * n).reshape(DRAWS, n).astype(np.float64)


def intervals(figures: np.ndarray) -> list[list[float] | None]:
    """The percentile interval of each column of draws, NaN left out; None for a column of NaN alone."""
    ordered, known = np.sort(figures, axis=0), (~np.isnan(figures)).sum(axis=0)  # NaN comes last
    tail = (1 - CONFIDENCE) / 2
    at = np.rint(np.outer((tail, 1 - tail), np.maximum(known - 1, 0))).astype(int)
    ends = np.take_along_axis(ordered, at, axis=0).T.tolist()
    return [column if n else None for column, n in zip(ends, known, strict=True)]


def mean_intervals(values: np.ndarray, seed: int = 0) -> list[list[float] | None]:
    """Intervals of the means of columns, one row a user; None with fewer than `FEWEST` rows."""
    if len(values) < FEWEST:
        return [None] * values.shape[1]
    rng = np.random.default_rng(seed)
    n = min(len(values), GROUPS)
    group = rng.permutation(len(values)) % n
    sums = np.column_stack([np.bincount(group, column, n) for column in values.T])
    times = times_drawn(n, rng)
    return intervals(times @ sums / (times @ np.bincount(group, minlength=n))[:, None])


def paired_difference(
    first: np.ndarray, second: np.ndarray, rows: np.ndarray, seed: int = 0
) -> dict[str, Any]:
    """The difference of two RMSEs on the same records, first − second, judged on the same draws.

    Parameters
    ----------
    first, second : ndarray of float64, shape (groups,)
        Squared errors of each group of users, in squared stars.
    rows : ndarray, shape (groups,)
        Records of each group.
    seed : int

    Returns
    -------
    dict
        `rmse`, in stars, and its `interval`, None with fewer than `FEWEST` groups.
    """
    times = times_drawn(len(rows), np.random.default_rng(seed))
    drawn = times @ rows
    differences = np.sqrt(times @ first / drawn) - np.sqrt(times @ second / drawn)
    whole = np.sqrt(first.sum() / rows.sum()) - np.sqrt(second.sum() / rows.sum())
    sure = len(rows) >= FEWEST
    return {"rmse": float(whole), "interval": intervals(differences[:, None])[0] if sure else None}
