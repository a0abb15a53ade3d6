"""Synthetic ratings: long-tailed, dated, with a signal that a factor model can find."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mfpipe.errors import ParameterError, StoreError

PLANTED_RANK = 4
FIRST_DAY = np.datetime64("2020-01-01")
DAYS = 1500
LINES_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class Synthetic:
    """Ratings drawn from r = round(μ + b_u + b_i + p·q + noise), clipped to 1 to 5 stars.

    Users and items are drawn with probability falling as a power of their popularity rank, each pair
    at most once. The same parameters give the same bytes with the same numpy.
    """

    users: int
    items: int
    ratings: int
    seed: int = 0

    def __post_init__(self):
        for name in ("users", "items", "ratings"):
            if getattr(self, name) < 1:
                raise ParameterError(f"--{name} {getattr(self, name)}: must be 1 or more")
        if self.seed < 0:
            raise ParameterError(f"--seed {self.seed}: must be 0 or more")
        if self.ratings > self.users * self.items / 2:
            raise ParameterError(
                f"--ratings {self.ratings}: at most {self.users * self.items // 2}, half of users × items"
            )

    def columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """User and item numbers from 1, whole stars from 1 to 5, and days; shape (ratings,) each."""
        rng = np.random.default_rng(self.seed)
        user, item = self._pairs(rng)
        scale = PLANTED_RANK**-0.25
        user_factors = rng.normal(0, 0.8 * scale, (self.users, PLANTED_RANK))
        item_factors = rng.normal(0, 0.8 * scale, (self.items, PLANTED_RANK))
        user_biases, item_biases = rng.normal(0, 0.4, self.users), rng.normal(0, 0.5, self.items)
        liked = 3.6 + user_biases[user] + item_biases[item]
        for k in range(PLANTED_RANK):
            liked += user_factors[user, k] * item_factors[item, k]
        liked += rng.normal(0, 0.7, self.ratings)
        day = np.sort(rng.integers(0, DAYS, self.ratings))
        shuffle = rng.permutation(self.ratings)
        stars = np.clip(np.rint(liked), 1, 5).astype(np.int64)
        return user[shuffle] + 1, item[shuffle] + 1, stars[shuffle], FIRST_DAY + day

    def _pairs(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        user_share = _popularity(self.users, 0.6, rng)
        item_share = _popularity(self.items, 0.8, rng)
        pairs = np.empty(0, np.int64)
        while len(pairs) < self.ratings:
            wanted = int((self.ratings - len(pairs)) * 1.2) + 100
            user = np.searchsorted(user_share, rng.random(wanted))
            item = np.searchsorted(item_share, rng.random(wanted))
            pairs = np.unique(np.concatenate((pairs, user * self.items + item)))
        pairs = np.sort(rng.choice(pairs, self.ratings, replace=False))
        return pairs // self.items, pairs % self.items

    def write(self, path: Path, test_path: Path | None = None, test_fraction: float = 0.2) -> None:
        """Write the ratings by date as CSV, gzipped where a name ends in .gz.

        Parameters
        ----------
        path : Path
        test_path : Path, optional
            Takes the latest `test_fraction` of the ratings instead of `path`.
        test_fraction : float, in (0, 1)
        """
        if not 0 < test_fraction < 1:
            raise ParameterError(f"--test-fraction {test_fraction}: must lie between 0 and 1")
        columns = self.columns()
        split = self.ratings if test_path is None else round(self.ratings * (1 - test_fraction))
        _write(path, [column[:split] for column in columns])
        if test_path is not None:
            _write(test_path, [column[split:] for column in columns])


def _write(path: Path, columns: list[np.ndarray]) -> None:
    try:
        with path.open("wb") as file:
            # No name and no time in the gzip header, so that equal data are equal bytes.
            out = gzip.GzipFile("", "wb", 9, file, mtime=0) if path.name.endswith(".gz") else file
            out.write(b"user_id,item_id,rating,date\n")
            for start in range(0, len(columns[0]), LINES_AT_ONCE):
                pieces = (column[start : start + LINES_AT_ONCE].astype(str) for column in columns)
                out.write("".join(f"{u},{i},{r},{d}\n" for u, i, r, d in zip(*pieces, strict=True)).encode())
            if out is not file:
                out.close()
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror or error})") from error


def _popularity(n: int, power: float, rng: np.random.Generator) -> np.ndarray:
    """Cumulative shares of n things, the r-th most popular one's proportional to (r + n/100)^-power."""
    shares = (np.arange(n) + 1 + n / 100) ** -power
    shares = shares[rng.permutation(n)]
    return np.cumsum(shares / shares.sum())
