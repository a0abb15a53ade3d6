"""Types of flow parameters: what they may be is checked when a run is created."""

from __future__ import annotations

from collections.abc import Callable
from inspect import cleandoc
from typing import Annotated, Literal, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field

from mfpipe.drift import Limits
from mfpipe.models import MODELS

Function = TypeVar("Function", bound=Callable)
SAME = "; empty: as the current version's"


def described(function: Function) -> Function:
    """A flow's function with its parameters' descriptions in its docstring too.

    Prefect's forms take them from there alone, and drop those that a parameter's type has.
    """
    lines = []
    for name, hint in get_type_hints(function, include_extras=True).items():
        for note in getattr(hint, "__metadata__", ()):
            lines.append(f"    {name}: {note.description}")
    function.__doc__ = f"{cleandoc(function.__doc__ or '')}\n\nArgs:\n" + "\n".join(lines)
    return function


RatingFiles = Annotated[list[str], Field(min_length=1, description="Rating files, directories or globs")]
TestFiles = Annotated[list[str], Field(description="Test files; without any, ratings are held out")]
HoldoutRule = Annotated[
    str | None,
    Field(
        pattern=r"^((random|time):0?\.\d+|last:[1-9]\d*)$",
        description="random:0.1, last:1 or time:0.1; only without test files",
    ),
]
ModelName = Annotated[Literal[*MODELS], Field(description="The model to fit")]
StoredName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", description="Name of the model in the store"),
]
StorePath = Annotated[str, Field(description="Directory of the model store")]
Cluster = Annotated[
    str,
    Field(
        pattern=r"^(serial|threads|local|[a-z]+://.+)$", description="serial, threads, local or an address"
    ),
]
AllowRemote = Annotated[
    bool,
    Field(description="Let a scheduler on another machine do without TLS, where the network is trusted"),
]
Rank = Annotated[int, Field(ge=1, le=4096, description="Number of latent factors")]
Regularization = Annotated[float, Field(ge=0, allow_inf_nan=False, description="λ of the objective")]
Weighting = Annotated[Literal["uniform", "count"], Field(description="How λ is weighted over rows")]
MaxIter = Annotated[int, Field(ge=0, description="Iterations at most")]
Tolerance = Annotated[
    float, Field(ge=0, allow_inf_nan=False, description="Stop when the objective falls by a smaller share")
]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1, description="Seed of the starting factors")]
Dtype = Annotated[Literal["float32", "float64"], Field(description="Type of the factors")]
Count = Annotated[int | None, Field(ge=1, description="By default chosen from the cores")]
SystemsFile = Annotated[
    str | None,
    Field(description="TOML file of systems; those parameters that one does not set are the flow's"),
]
Record = Annotated[int | None, Field(ge=0, description="Show each prediction of this test record, from 0")]

RepeatableHoldout = Annotated[
    str,
    Field(
        pattern=r"^(random|time):0?\.\d+$",
        description="random:0.1 (the same pairs every night) or time:0.1 (newer than the current version's)",
    ),
]
SameModel = Annotated[Literal[*MODELS] | None, Field(description="The model to fit" + SAME)]
SameRank = Annotated[int | None, Field(ge=1, le=4096, description="Number of latent factors" + SAME)]
SameRegularization = Annotated[
    float | None, Field(ge=0, allow_inf_nan=False, description="λ of the objective" + SAME)
]
SameWeighting = Annotated[
    Literal["uniform", "count"] | None, Field(description="How λ is weighted over rows" + SAME)
]
SameMaxIter = Annotated[int | None, Field(ge=0, description="Iterations at most" + SAME)]
SameTolerance = Annotated[
    float | None,
    Field(ge=0, allow_inf_nan=False, description="Stop when the objective falls by a smaller share" + SAME),
]
SameSeed = Annotated[int | None, Field(ge=0, le=2**63 - 1, description="Seed of the starting factors" + SAME)]
SameDtype = Annotated[Literal["float32", "float64"] | None, Field(description="Type of the factors" + SAME)]
_LIMITS = Limits()


def _limit(name: str, description: str, least: float = 0.0):
    return Field(getattr(_LIMITS, name), ge=least, allow_inf_nan=False, description=description)


class DriftLimits(BaseModel):
    """How far the ratings may be from those of the current version; beyond, the retrain is refused."""

    model_config = ConfigDict(extra="forbid")

    fewest: float = _limit(
        "fewest", "Ratings, users and items at least, as multiples of the current version's"
    )
    most: float = _limit("most", "Ratings, users and items at most, as multiples of the current version's")
    mean: float = _limit("mean", "Distance of the mean rating, in the current version's standard deviations")
    spread: float = _limit("spread", "Factor by which the standard deviation may differ, up or down", 1.0)
    unseen_users: float = _limit("unseen_users", "Share of users that the current version does not know")
    unseen_items: float = _limit("unseen_items", "Share of items that the current version does not know")
    days_back: float = _limit("days_back", "Days by which the latest rating may be older")
