"""What every model says: its parameters, how a side starts, how a block of rows is updated."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np

from mfpipe.errors import ParameterError

SIDES = ("user", "item")
OTHER = {"user": "item", "item": "user"}


class Block(NamedTuple):
    """Ratings of a contiguous run of rows of one side, in CSR form.

    `first_row` is the row number of the first; `indptr` is int64, shape (rows + 1,); `columns` int32,
    shape (ratings,), the other side's rows in ascending order; `values` the ratings in stars.
    """

    first_row: int
    indptr: np.ndarray
    columns: np.ndarray
    values: np.ndarray

    @property
    def n_rows(self) -> int:
        return len(self.indptr) - 1


class Update(NamedTuple):
    """New rows of a block with, for each row, its squared error and its penalty s·φ(p), in float64.

    `unfinished` counts the rows that an iterative solver gave up on short of their optimum.
    """

    rows: np.ndarray
    squared_error: np.ndarray
    penalty: np.ndarray
    unfinished: int = 0


class Factors(NamedTuple):
    """One array of rows per side; what a row's columns are is said by `Model.columns`."""

    user: np.ndarray
    item: np.ndarray


class Totals(NamedTuple):
    """What a row update must know of all training ratings: their number N and their mean μ."""

    n_ratings: int
    mean: float


class Updates(Protocol):
    """What an executor can run over the blocks of a side."""

    def update(self, side: str, block: Block, own: np.ndarray, other: np.ndarray, totals: Totals) -> Update:
        """New rows of a block; see `Model.update`."""


class Baseline(NamedTuple):
    """What the training ratings alone say: the global mean and each row's mean, in stars."""

    global_mean: float
    user_means: np.ndarray
    item_means: np.ndarray

    def fallback(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """The mean of whichever side is known (the item's if both are), else the global mean."""
        by_user = known_or(self.user_means, users, self.global_mean)
        return np.where(items >= 0, known_or(self.item_means, items, self.global_mean), by_user)


class Linear(NamedTuple):
    """Predictions as  offset_u + left_u · right_i,  up to rounding.

    `offset` is float64, shape (users,); `left` and `right` have one row a user and one an item.
    """

    offset: np.ndarray
    left: np.ndarray
    right: np.ndarray


def known_or(values: np.ndarray, rows: np.ndarray, otherwise: float) -> np.ndarray:
    """`values[rows]`, and `otherwise` where a row is -1."""
    if len(values) == 0:
        return np.full(len(rows), otherwise)
    return np.where(rows >= 0, values[rows], otherwise)


def parameter(
    default: Any, help: str, check: Callable[[Any], bool], must: str, choices: tuple[Any, ...] = ()
) -> Any:
    """A hyper-parameter: its default, a line of help, what it must be, and all it can be if that is few."""
    metadata = {"help": help, "check": check, "must": must, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


def is_integer(low: int, high: int) -> Callable[[Any], bool]:
    """A check that a value is an integer from low to high."""
    return lambda value: (
        isinstance(value, Integral) and not isinstance(value, bool) and low <= int(value) <= high
    )


def is_not_negative(value: Any) -> bool:
    """Whether a value is a finite number, 0 or more."""
    return (
        isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value) and float(value) >= 0
    )


def is_positive(value: Any) -> bool:
    """Whether a value is a finite number above 0."""
    return is_not_negative(value) and value > 0


def choice(default: str, choices: tuple[str, ...], help: str) -> Any:
    return parameter(default, help, lambda value: value in choices, f"one of {', '.join(choices)}", choices)


def switch(help: str) -> Any:
    """A parameter that is on or off, off by default."""
    return parameter(
        False, help, lambda value: isinstance(value, bool | np.bool_), "true or false", (False, True)
    )


FLAGS = {"random_state": "--seed"}


def flag(name: str) -> str:
    """The command-line flag of a parameter."""
    return FLAGS.get(name, "--" + name.replace("_", "-"))


@dataclass(frozen=True)
class Model(ABC):
    """Hyper-parameters only: immutable, picklable, and cheap to send to a worker."""

    name: ClassVar[str]
    half_steps: ClassVar[tuple[str, ...]] = ("item", "user")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not field.metadata["check"](value):
                raise ParameterError(f"{flag(field.name)} {value!r}: must be {field.metadata['must']}")

    @property
    def params(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @abstractmethod
    def columns(self) -> list[str]:
        """Names of the columns of a row."""

    @abstractmethod
    def start(self, side: str, hashes: np.ndarray) -> np.ndarray:
        """Starting rows from the hashes of the ids; shape (rows, columns)."""

    @abstractmethod
    def update(self, side: str, block: Block, own: np.ndarray, other: np.ndarray, totals: Totals) -> Update:
        """The rows of a block, optimal with the other side fixed, or what a few steps towards that give.

        Parameters
        ----------
        side : {'user', 'item'}
            The side the block's rows belong to.
        block : Block
        own : ndarray, shape (rows, columns)
            The block's rows as they are; empty unless `warm_starts`.
        other : ndarray, shape (n_other, columns)
            The other side's rows, read only.
        totals : Totals
        """

    @abstractmethod
    def predict(
        self, factors: Factors, users: np.ndarray, items: np.ndarray, baseline: Baseline
    ) -> np.ndarray:
        """Predicted ratings of pairs of rows, -1 where unknown; float64, shape (n,), never NaN."""

    @abstractmethod
    def linear(self, factors: Factors, global_mean: float) -> Linear:
        """The predictions of all pairs of the given rows, for ranking by matrix products."""

    def exact(self) -> Self:
        """The same model with `update` going all the way to the optimum."""
        return self

    @property
    def warm_starts(self) -> bool:
        """Whether an update reads the rows as they are."""
        return False

    @property
    def storage(self) -> np.dtype:
        return np.dtype(getattr(self, "dtype", "float64"))
