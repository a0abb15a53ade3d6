"""How far the shape of new ratings is from that of the champion's, and whether that is too far."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mfpipe.errors import ParameterError
from mfpipe.fitted import FittedModel
from mfpipe.ratings import Ratings

DAY = 86_400_000_000  # microseconds


@dataclass(frozen=True)
class Limits:
    """How far the new training ratings may be from the champion's.

    Parameters
    ----------
    fewest, most : float
        Ratings, users and items, as multiples of the champion's.
    mean : float
        Distance of the mean ratings, in the champion's standard deviations.
    spread : float, at least 1
        By which factor the standard deviation may differ, up or down.
    unseen_users, unseen_items : float, in [0, 1]
        Share of the ids that the champion does not know.
    days_back : float
        How much older the latest rating may be than the champion's.
    """

    fewest: float = 0.5
    most: float = 10.0
    mean: float = 0.25
    spread: float = 1.5
    unseen_users: float = 0.5
    unseen_items: float = 0.5
    days_back: float = 1.0

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if not value >= 0 or not math.isfinite(value):
                raise ParameterError(f"--limit {name}={value}: must be a finite number, 0 or more")
        if self.spread < 1:
            raise ParameterError(f"--limit spread={self.spread}: must be 1 or more")

    @classmethod
    def parse(cls, texts: list[str]) -> Limits:
        """Limits from NAME=VALUE texts; ParameterError for another name or no number."""
        given = {}
        for text in texts:
            name, _, value = text.partition("=")
            try:
                given[name] = float(value)
            except ValueError:
                raise ParameterError(f"--limit {text!r}: must be NAME=NUMBER") from None
            if name not in cls.__dataclass_fields__:
                names = ", ".join(cls.__dataclass_fields__)
                raise ParameterError(f"--limit {text!r}: the name must be one of {names}")
        return cls(**given)


def drift(before: Mapping[str, Any], now: Mapping[str, Any], champion: FittedModel, ratings: Ratings) -> dict:
    """How the shape of the training ratings differs from the champion's.

    Parameters
    ----------
    before, now : mapping
        The `data` of the champion's manifest and of the challenger's; what an older mfpipe did not write
        there gives None.
    champion : FittedModel
    ratings : Ratings
        What the challenger is to be trained on.

    Returns
    -------
    dict
        `ratings, users, items` (multiples of the champion's), `mean` (in its standard deviations), `spread`
        (a multiple), `unseen_users, unseen_items` (shares), `days_back` (negative: newer).
    """
    spread, then, latest = before.get("spread"), before.get("time"), now.get("time")
    mean = now["global_mean"] - before["global_mean"]
    return {
        **{what: now[f"n_{what}"] / before[f"n_{what}"] for what in ("ratings", "users", "items")},
        "mean": mean / spread if spread else None,
        "spread": now["spread"] / spread if spread else None,
        "unseen_users": float((champion.users.rows(ratings.users.texts) < 0).mean()),
        "unseen_items": float((champion.items.rows(ratings.items.texts) < 0).mean()),
        "days_back": (then["latest"] - latest["latest"]) / DAY if then and latest else None,
    }


def too_far(found: Mapping[str, Any], limits: Limits) -> list[str]:
    """What is beyond its limit, a line each with the figure and the limit; what is None is not judged."""
    said = []
    for what in ("ratings", "users", "items"):
        if not limits.fewest <= found[what] <= limits.most:
            said.append(
                f"{what}: {found[what]:.3g} times the champion's, outside {limits.fewest:g} to "
                f"{limits.most:g} (fewest, most)"
            )
    mean, spread, back = found["mean"], found["spread"], found["days_back"]
    if mean is not None and abs(mean) > limits.mean:
        said.append(
            f"mean rating: {mean:+.3g} of the champion's standard deviation, beyond {limits.mean:g} (mean)"
        )
    if spread is not None and not 1 / limits.spread <= spread <= limits.spread:
        said.append(
            f"standard deviation: {spread:.3g} times the champion's, beyond {limits.spread:g} (spread)"
        )
    for what in ("unseen_users", "unseen_items"):
        share, limit = found[what], getattr(limits, what)
        if share > limit:
            said.append(f"{what.replace('_', ' ')}: {100 * share:.1f} %, over {100 * limit:g} % ({what})")
    if back is not None and back > limits.days_back:
        said.append(
            f"latest rating: {back:.3g} days older than the champion's, over {limits.days_back:g} (days_back)"
        )
    return said
