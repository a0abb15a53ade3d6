"""Matrix factorisation with a lasso or elastic-net penalty."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mfpipe.errors import ParameterError
from mfpipe.models.base import Factors, choice, is_not_negative, parameter, switch
from mfpipe.models.factors import FactorModel


@dataclass(frozen=True)
class LassoMF(FactorModel):
    """r̂ = p·q with φ(p) = α‖p‖₁ + (1 − α)‖p‖².

    References
    ----------
    Zou, Hastie: Regularization and variable selection via the elastic net, J. R. Statist. Soc. B 67,
    2005, equation 3 (the row problem).
    """

    name = "lasso-mf"

    l1_ratio: float = parameter(
        1.0, "α: 1 is the lasso, 0 the ridge penalty", lambda v: is_not_negative(v) and v <= 1, "from 0 to 1"
    )
    nonnegative: bool = switch("keep every factor at zero or above")
    balance: bool = switch("between iterations, rescale each factor of both sides to the least penalty")
    cold: str = choice(
        "fallback", ("fallback", "zero"), "prediction for an unseen id: the known side's mean, or 0"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.balance and 0 < self.l1_ratio < 1:
            raise ParameterError(f"--balance: not with --l1-ratio {self.l1_ratio}; only with 0 or 1")
        if self.balance and self.accelerate:
            raise ParameterError("--balance: not with --accelerate, whose steps it would rescale")

    @property
    def balances(self) -> bool:
        return self.balance

    @property
    def l1_share(self) -> float:
        return self.l1_ratio

    @property
    def signed(self) -> bool:
        return not self.nonnegative

    def collapse_bound(self, user, item, rating, start: Factors) -> float | None:
        """The λ from which on the first half-step from this start ends with all factors zero."""
        if not self.l1_share:
            return super().collapse_bound(user, item, rating, start)
        import scipy.sparse  # which most fits do without

        shape = len(start.item), len(start.user)
        reach = np.abs(scipy.sparse.csr_array((rating, (item, user)), shape) @ start.user).max(axis=1)
        weights = np.bincount(item) if self.weighting == "count" else len(rating)
        return float((2 * reach / (self.l1_share * weights)).max())

    def collapse(self, user, item, rating, start: Factors) -> str | None:
        """Zero is absorbing under an l1 penalty; the bound is for the first half-step of this start."""
        if not self.l1_share:
            return super().collapse(user, item, rating, start)
        bound = self.collapse_bound(user, item, rating, start)
        return (
            "under an l1 penalty factors that reach zero stay there, and from this start they reach it in "
            f"the first half-step when --regularization is {bound:.5g} or more (it is "
            f"{self.regularization:g}); lower it, or try another --seed"
        )
