"""How long a fit will still take, judged by how fast its objective has been settling."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

LOOK_BACK = 10  # iterations that an estimate rests on


def fall(before: float, now: float) -> float:
    """The share by which an iteration lowered the objective: what `tol` is held against."""
    return (before - now) / before if before > 0 else 0.0


def iterations_left(objectives: Sequence[float], tol: float, max_iter: int) -> int | None:
    """Iterations until one lowers the objective by less than `tol`, or until `max_iter`.

    The falls of alternating least squares shrink like a power of the iteration's number, so a straight
    line through both logarithms says when they will reach `tol`; a steady factor an iteration, tried
    too, promises an end several times too soon (docs/measurements.md).

    Parameters
    ----------
    objectives : sequence of float
        After each iteration so far.
    tol : float
    max_iter : int

    Returns
    -------
    int or None
        None where three falls to judge by are not there yet.
    """
    done = len(objectives)
    most = max(0, max_iter - done)
    if tol <= 0 or most == 0:
        return most
    recent = np.asarray(objectives[-LOOK_BACK - 1 :], np.float64)
    falls = np.array([fall(*pair) for pair in pairwise(recent)])
    falling = falls > 0
    if falling.sum() < 3:
        return None
    iterations = np.arange(done - len(falls) + 1, done + 1)[falling]
    slope, at_one = np.polyfit(np.log(iterations), np.log(falls[falling]), 1)
    if slope >= 0:
        return most
    reached = min((np.log(tol) - at_one) / slope, np.log(max_iter))
    return min(most, max(1, round(float(np.exp(reached))) - done))


def seconds_left(
    objectives: Sequence[float], seconds: Sequence[float], tol: float, max_iter: int
) -> float | None:
    """`iterations_left` in seconds, at the median of the last iterations' seconds."""
    left = iterations_left(objectives, tol, max_iter)
    return None if left is None or not seconds else left * float(np.median(seconds[-LOOK_BACK:]))


def duration(seconds: float) -> str:
    """A time to wait, in the two largest units that it has."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
