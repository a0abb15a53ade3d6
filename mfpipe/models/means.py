"""The three means: of the user, of the item, and the average of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mfpipe.kernels import readonly
from mfpipe.kernels.means import mean_rows
from mfpipe.models.base import Baseline, Block, Factors, Linear, Model, Update, known_or


@dataclass(frozen=True)
class _Mean(Model):
    """Predicts with means of the training ratings; an unseen id counts with the global mean."""

    own_share: ClassVar[float] = 1.0

    def columns(self) -> list[str]:
        return ["mean"]

    def start(self, side: str, hashes: np.ndarray) -> np.ndarray:
        return np.zeros((len(hashes), 1))

    def update(self, side, block: Block, own, other, totals) -> Update:
        rows, squared_error = np.empty((block.n_rows, 1)), np.empty(block.n_rows)
        share = self.own_share if side == self.half_steps[-1] else 1.0
        mean_rows(*readonly(*block[1:], other), share, rows, squared_error)
        return Update(rows, squared_error, np.zeros(block.n_rows))


@dataclass(frozen=True)
class UserMean(_Mean):
    """r̂ = the user's mean rating."""

    name = "user-mean"
    half_steps = ("user",)

    def predict(self, factors: Factors, users, items, baseline: Baseline) -> np.ndarray:
        return known_or(factors.user[:, 0], users, baseline.global_mean)

    def linear(self, factors: Factors, global_mean: float) -> Linear:
        return Linear(factors.user[:, 0], np.zeros((len(factors.user), 1)), np.zeros((len(factors.item), 1)))


@dataclass(frozen=True)
class ItemMean(_Mean):
    """r̂ = the item's mean rating."""

    name = "item-mean"
    half_steps = ("item",)

    def predict(self, factors: Factors, users, items, baseline: Baseline) -> np.ndarray:
        return known_or(factors.item[:, 0], items, baseline.global_mean)

    def linear(self, factors: Factors, global_mean: float) -> Linear:
        return Linear(np.zeros(len(factors.user)), np.ones((len(factors.user), 1)), factors.item)


@dataclass(frozen=True)
class UserItemMean(_Mean):
    """r̂ = (the user's mean + the item's mean) / 2."""

    name = "user-item-mean"
    own_share = 0.5

    def predict(self, factors: Factors, users, items, baseline: Baseline) -> np.ndarray:
        by_user = known_or(factors.user[:, 0], users, baseline.global_mean)
        return (by_user + known_or(factors.item[:, 0], items, baseline.global_mean)) / 2

    def linear(self, factors: Factors, global_mean: float) -> Linear:
        return Linear(factors.user[:, 0] / 2, np.full((len(factors.user), 1), 0.5), factors.item)
