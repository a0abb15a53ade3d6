"""What the models with a ridge penalty share: how their rows are solved."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Self

from mfpipe.errors import ParameterError
from mfpipe.models.base import choice, is_integer, parameter, switch
from mfpipe.models.factors import FactorModel


@dataclass(frozen=True)
class RidgeModel(FactorModel):
    """A factor model with φ(p) = ‖p‖²."""

    nonnegative: bool = switch("keep every factor at zero or above (biases stay free)")
    solver: str = choice(
        "cholesky",
        ("cholesky", "cg"),
        "solve every row exactly, or take a few steps of conjugate gradients from where it is",
    )
    cg_steps: int = parameter(
        3, "steps of --solver cg a row and half-step", is_integer(1, 4096), "an integer from 1 to 4096"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps and self.nonnegative:
            raise ParameterError("--solver cg: not with --nonnegative, whose rows are solved by descent")

    @property
    def signed(self) -> bool:
        return not self.nonnegative

    def exact(self) -> Self:
        return dataclasses.replace(self, solver="cholesky")

    @property
    def steps(self) -> int:
        return self.cg_steps if self.solver == "cg" else 0
