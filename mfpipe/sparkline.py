"""A course of values as one short line of text."""

from __future__ import annotations

import math
from collections.abc import Sequence

BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """Bars of eighths from the least to the greatest value, on a logarithmic scale if all are positive.

    Parameters
    ----------
    values : sequence of float
        Finite.
    width : int
        Bars at most; of more values every so-manyth is shown, the first and the last among them.
    """
    if not values:
        return ""
    n = min(width, len(values))
    shown = [values[round(k * (len(values) - 1) / max(1, n - 1))] for k in range(n)]
    if min(shown) > 0:
        shown = [math.log(value) for value in shown]
    low, spread = min(shown), max(shown) - min(shown)
    eighths = [0 if spread == 0 else (value - low) / spread * (len(BARS) - 1) for value in shown]
    return "".join(BARS[round(value)] for value in eighths)
