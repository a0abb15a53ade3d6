"""Matrix factorisation with a ridge penalty, by alternating least squares."""

from __future__ import annotations

from dataclasses import dataclass

from mfpipe.models.base import choice
from mfpipe.models.ridge import RidgeModel


@dataclass(frozen=True)
class ALS(RidgeModel):
    """r̂ = p·q with φ(p) = ‖p‖².

    References
    ----------
    Zhou, Wilkinson, Schreiber, Pan: Large-scale parallel collaborative filtering for the Netflix
    prize, AAIM 2008, equations 1 to 5 (`count` weighting).
    """

    name = "als"

    cold: str = choice(
        "fallback", ("fallback", "zero"), "prediction for an unseen id: the known side's mean, or 0"
    )
