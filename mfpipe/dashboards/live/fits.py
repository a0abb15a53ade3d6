"""Fits as their events tell of them: what the live page shows, in plain values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

KEPT = 30  # fits, of which the first to have ended goes first
LONGEST = 20_000  # iterations of one fit; of a longer one, the last


class Seen:
    """A fit as far as it has been heard of.

    `columns` has one value an iteration, NaN where there is none, and `heard` is how many there have been;
    `partitions` has the seconds and ratings of each side's; `changes` tells a page whether anything is new.
    """

    def __init__(self, key: str, about: dict[str, Any]):
        self.key, self.about = key, about
        self.columns: dict[str, list[float]] = {}
        self.partitions: dict[str, dict[str, list]] = {}
        self.left: float | None = None
        self.ended: dict[str, Any] | None = None
        self.heard = self.changes = 0
        self.workers_lost = self.tasks_again = 0

    @property
    def name(self) -> str:
        return self.about["name"]

    @property
    def iteration(self) -> int:
        return int(self.last("iteration") or 0)

    def last(self, column: str) -> float | None:
        """The newest value of a column; None where there is none."""
        values = self.columns.get(column)
        return values[-1] if values and not math.isnan(values[-1]) else None

    def take(self, message: dict[str, Any]) -> None:
        columns = message.get("columns", {})
        for key, values in columns.items():
            kept = self.columns.setdefault(key, [])
            kept += [math.nan if value is None else value for value in values]
            del kept[:-LONGEST]
        self.heard += len(columns.get("iteration", ()))
        self.partitions = message.get("partitions", self.partitions)
        self.left = message.get("left", self.left)
        self.ended = message.get("ended", self.ended)
        self.changes += 1

    def since(self, heard: int) -> dict[str, list[float]]:
        """The columns from when so many iterations had been heard of."""
        new = self.heard - heard
        return {key: values[-new:] if new else [] for key, values in self.columns.items()}

    def imbalance(self) -> dict[str, float]:
        """Of each side, how many times as long as the mean partition the slowest takes."""
        found = {}
        for side, of in self.partitions.items():
            mean = sum(of["mean"]) / len(of["mean"])
            if mean > 0:
                found[side] = max(of["mean"]) / mean
        return found


class Fits:
    """All fits that were heard of, the oldest first."""

    def __init__(self) -> None:
        self._seen: dict[str, Seen] = {}
        self.changes = 0

    def __iter__(self) -> Iterator[Seen]:
        return iter(self._seen.values())

    def __len__(self) -> int:
        return len(self._seen)

    def chosen(self, key: str | None = None) -> Seen | None:
        """The fit asked for; else the last to have begun of those that run, or that ran."""
        if key in self._seen:
            return self._seen[key]
        running = [seen for seen in self if seen.ended is None]
        return (running or list(self) or [None])[-1]  # type: ignore[list-item]

    def take(self, message: dict[str, Any]) -> None:
        """An event: of a new fit, or of one that is known."""
        key = message["fit"]
        if "about" in message:
            self._seen[key] = Seen(key, message["about"])
            self._forget()
        if key in self._seen:
            self._seen[key].take(message)
            self.changes += 1

    def worker_lost(self, tasks_again: int) -> None:
        """A worker has gone without having been told to, and with it the results of so many tasks."""
        for seen in self._running():
            seen.workers_lost += 1
            seen.tasks_again += tasks_again
            self._changed(seen)

    def client_gone(self, client: str) -> None:
        """The process that fits has gone; what it has not said by now, it never will."""
        for seen in self._running():
            if seen.about["client"] == client:
                seen.ended = {"state": "lost", "words": ["the process that ran it has gone"]}
                self._changed(seen)

    def _running(self) -> list[Seen]:
        return [seen for seen in self if seen.ended is None]

    def _changed(self, seen: Seen) -> None:
        seen.changes += 1
        self.changes += 1

    def _forget(self) -> None:
        while len(self._seen) > KEPT:
            ended = (key for key, seen in self._seen.items() if seen.ended)
            del self._seen[next(ended, next(iter(self._seen)))]
