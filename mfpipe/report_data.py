"""What the report of a version is drawn from: its files, as far as they are there, and the version before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from mfpipe import diagnosis
from mfpipe.bootstrap import paired_difference
from mfpipe.errors import StoreError
from mfpipe.fitted import FittedModel
from mfpipe.models import MODELS, FactorModel
from mfpipe.store import Store
from mfpipe.version import Version

FACTORS = "item_factors.parquet"
HISTORY, TIMINGS, METRICS, SYSTEMS = "history.parquet", "timings.json", "metrics.json", "systems.json"


@dataclass(frozen=True)
class Before:
    """The version that was current before, or the last one with a lower number, and how it did.

    `difference` is this version's RMSE less that one's with its interval, where both were judged on the same
    records; `why_not` says why there is none.
    """

    label: str
    manifest: dict[str, Any] | None = None
    difference: dict[str, Any] | None = None
    why_not: str = ""


@dataclass
class Stored:
    """All that a panel may draw from.

    Parameters
    ----------
    version : Version
    titles : mapping of item id to title
    """

    version: Version
    titles: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self):
        self.manifest: dict[str, Any] = self.version.manifest
        self.damage: dict[str, str] = {}
        self.history: dict[str, list] = self._read(HISTORY, {})
        self.timings: dict[str, Any] = self._read(TIMINGS, {})
        self.metrics: dict[str, Any] = self._read(METRICS, {})
        self.diagnosis: dict[str, Any] = self._read(diagnosis.FILE, {})
        # Older ones call a system by its model.
        self.systems = [{"label": row["model"]} | row for row in self._read(SYSTEMS, [])]
        self.fitted = self._load()
        self.before = before(self.version, self.diagnosis)

    def _read(self, name: str, otherwise: Any) -> Any:
        if name not in self.manifest["files"]:
            return otherwise
        try:
            if name.endswith(".json"):
                return self.version.json(name)
            return self.version.table(name).to_pydict()
        except StoreError as error:
            self.damage[name] = str(error)
            return otherwise

    def _load(self) -> FittedModel | None:
        try:
            return self.version.load()
        except StoreError as error:
            self.damage[FACTORS] = str(error)
            return None

    @property
    def label(self) -> str:
        return f"{self.version.name}@{self.version.number}"

    @property
    def has_factors(self) -> bool:
        model = MODELS.get(self.manifest["model"])
        return model is not None and issubclass(model, FactorModel)

    @property
    def iterations(self) -> int:
        return len(self.history.get("iteration", ()))

    def lacks(self, name: str) -> str | None:
        """Why there is nothing to show of one of its files; None if it was read."""
        if name in self.damage:
            return f"its file {name} is damaged"
        if name != FACTORS and name not in self.manifest["files"]:
            return f"this version was stored without {name}, by an older mfpipe"
        return None

    @cached_property
    def factors(self) -> dict[str, np.ndarray]:
        """Each side's factors without biases; of a model that has them."""
        assert self.fitted is not None
        rank = self.manifest["params"]["rank"]
        return {side: getattr(self.fitted.factors, side)[:, -rank:] for side in ("user", "item")}

    @cached_property
    def _norms(self) -> dict[str, np.ndarray]:
        """The Euclidean norm of each factor's column, as they are stored."""
        return {
            side: np.sqrt(np.einsum("nk,nk->k", rows, rows, dtype=float))
            for side, rows in self.factors.items()
        }

    @cached_property
    def _strongest(self) -> np.ndarray:
        """The factors by the product of their norms, largest first."""
        return np.argsort(-self._norms["user"] * self._norms["item"], kind="stable")

    @property
    def norms(self) -> dict[str, np.ndarray]:
        """The Euclidean norm of each factor's column, the strongest factor first; shape (rank,) a side."""
        return {side: norms[self._strongest] for side, norms in self._norms.items()}

    @property
    def zeros(self) -> dict[str, np.ndarray]:
        """The share of zeros in each factor's column, the strongest factor first; shape (rank,) a side."""
        return {side: (rows == 0).mean(axis=0)[self._strongest] for side, rows in self.factors.items()}

    @cached_property
    def efficiency(self) -> dict[str, list[float]]:
        """Σ seconds of partitions / (threads · seconds of the half-step), by side and iteration."""
        shares: dict[str, list[float]] = {}
        for iteration in self.timings["iterations"]:
            for half in iteration["half_steps"]:
                busy = sum(part["seconds"] for part in half["partitions"])
                share = busy / (self.timings["threads"] * half["seconds"]) if half["seconds"] else 0.0
                shares.setdefault(half["side"], []).append(share)
        return shares

    @cached_property
    def imbalance(self) -> dict[str, float]:
        """The slowest partition's median seconds over the mean of all, by side."""
        seconds: dict[str, dict[int, list[float]]] = {}
        for iteration in self.timings["iterations"]:
            for half in iteration["half_steps"]:
                for part in half["partitions"]:
                    seconds.setdefault(half["side"], {}).setdefault(part["partition"], []).append(
                        part["seconds"]
                    )
        medians = {side: [np.median(times) for times in of.values()] for side, of in seconds.items()}
        return {side: float(max(of) / np.mean(of)) if max(of) > 0 else 1.0 for side, of in medians.items()}


def before(version: Version, found: dict[str, Any]) -> Before | None:
    """The version before one, held against it; None for the first."""
    store, manifest = Store(version.path.parent.parent), version.manifest
    retrain = manifest.get("retrain") or {}
    earlier = [number for number in store.numbers(version.name) if int(number) < int(version.number)]
    number = retrain.get("champion") or next(reversed(earlier), None)
    if number is None:
        return None
    label = retrain.get("judged_by") or f"{version.name}@{number}"
    judged = (retrain.get("gate") or {}).get("difference")
    try:
        other = store.version(version.name, number)
        theirs = other.json(diagnosis.FILE) if diagnosis.FILE in other.manifest["files"] else {}
    except StoreError as error:
        return Before(label, None, judged, f"{label} cannot be read: {error}")
    if judged:
        return Before(label, other.manifest, judged)
    if not (found and theirs):
        return Before(label, other.manifest, why_not=f"{label} or this version was stored by an older mfpipe")
    if found["test"]["sha256"] != theirs["test"]["sha256"]:
        return Before(
            label, other.manifest, why_not=f"{label} was judged on other test records than this version"
        )
    mine, others = (np.array(each["groups"]["squared_error"]) for each in (found, theirs))
    rows = np.array(found["groups"]["rows"], float)
    return Before(label, other.manifest, paired_difference(mine, others, rows))
