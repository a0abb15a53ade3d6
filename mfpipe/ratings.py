"""Rating files → validated, encoded ratings, with everything that was left out counted and named."""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from mfpipe import files, sources
from mfpipe.arrow import to_arrow, to_numpy
from mfpipe.cores import in_order
from mfpipe.errors import ParameterError, RatingsError, StoreError
from mfpipe.ids import IdMap
from mfpipe.pairs import counted, sort_pairs, summed
from mfpipe.printable import printable
from mfpipe.reading import Chunk, Columns, Fault, read
from mfpipe.texts import NO_TIME, decimals, id_faults, moments

log = logging.getLogger(__name__)

DUPLICATES = ("latest", "mean", "error")
FAULTS_KEPT = 100_000
SUMMED = 1 << 16  # values at a time


@dataclass(frozen=True)
class Ratings:
    """Ratings by row number, sorted by user and then item, each pair once.

    Parameters
    ----------
    user, item : ndarray of int32, shape (n,)
        Rows in `users` and `items`.
    rating : ndarray of float64, shape (n,)
        In the unit of the files (stars).
    time : ndarray of int64, shape (n,), optional
        Microseconds since 1970 in UTC; `NO_TIME` where the file's text is no time.
    users, items : IdMap
    """

    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray
    time: np.ndarray | None
    users: IdMap
    items: IdMap

    def __len__(self) -> int:
        return len(self.rating)

    @cached_property
    def mean(self) -> float:
        """The mean rating, in stars."""
        return float(self.rating.mean())

    @cached_property
    def spread(self) -> float:
        """The standard deviation of the ratings, in stars."""
        return math.sqrt(_squares(self.rating, self.rating.mean()) / len(self))

    @cached_property
    def user_counts(self) -> np.ndarray:
        """Number of ratings of each user; int64."""
        return counted(self.user, len(self.users))

    @cached_property
    def item_counts(self) -> np.ndarray:
        """Number of ratings of each item; int64."""
        return counted(self.item, len(self.items))

    def row_means(self) -> tuple[np.ndarray, np.ndarray]:
        """The mean rating of each user and of each item, in stars."""
        return (
            summed(self.user, self.rating, len(self.users)) / self.user_counts,
            summed(self.item, self.rating, len(self.items)) / self.item_counts,
        )

    def fingerprint(self) -> str:
        """sha256 of ids, ratings and times: the same for any order of files and lines."""
        digest = hashlib.sha256(b"mfpipe ratings 1")
        for ids in (self.users, self.items):
            text = ids.lines()
            digest.update(len(text).to_bytes(8, "little"))
            digest.update(text)
        for array in (self.user, self.item, self.rating, self.time):
            if array is not None:
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def time_range(self) -> dict[str, int] | None:
        """The `earliest` and `latest` time, in microseconds since 1970; None where there are none."""
        if self.time is None or (self.time == NO_TIME).all():
            return None
        known = self.time[self.time != NO_TIME]
        return {"earliest": int(known.min()), "latest": int(known.max())}

    def subset(self, keep: np.ndarray) -> Ratings:
        """The ratings where `keep` is true, with ids and rows for those alone."""
        sides = ((self.user, self.users), (self.item, self.items))
        (user, users), (item, items) = in_order(lambda side: _compact(side[0][keep], side[1]), sides, 2)
        time = None if self.time is None else self.time[keep]
        return Ratings(user, item, self.rating[keep], time, users, items)


def _squares(values: np.ndarray, mean: float) -> float:
    """Σ (value − mean)², in the order of numpy's `std` but without its two arrays as long as the values."""
    if len(values) <= SUMMED:
        return float(np.add.reduce((values - mean) ** 2))
    half = len(values) // 2
    half -= half % 8
    return _squares(values[:half], mean) + _squares(values[half:], mean)


def _compact(rows: np.ndarray, ids: IdMap) -> tuple[np.ndarray, IdMap]:
    used = counted(rows, len(ids)) > 0
    if used.all():
        return rows, ids
    return (np.cumsum(used, dtype=np.int32) - np.int32(1))[rows], ids.subset(used)


@dataclass
class IngestReport:
    """What was read, and what was left out and why."""

    rows: int = 0
    rejected: int = 0
    reasons: Counter = field(default_factory=Counter)
    duplicates: int = 0
    ratings: int = 0
    users: int = 0
    items: int = 0
    sha256: str = ""
    quarantine: str | None = None
    times_unreadable: int = 0
    faults: list[Fault] = field(default_factory=list)

    @property
    def accepted(self) -> int:
        return self.rows - self.rejected

    def add(self, faults: list[Fault]) -> None:
        self.rejected += len(faults)
        self.reasons.update(_kind(fault) for fault in faults)
        self.faults.extend(faults[: FAULTS_KEPT - len(self.faults)])

    def record(self) -> dict:
        """The report as plain values, as `ingest --json` prints it."""
        names = "rows accepted rejected quarantine duplicates ratings users items sha256 times_unreadable"
        return {name: getattr(self, name) for name in names.split()} | {"reasons": dict(self.reasons)}


def _kind(fault: Fault) -> str:
    return f"{fault.column}: {fault.reason}" if fault.column else re.sub("^[0-9]+ ", "", fault.reason)


@dataclass(frozen=True)
class Rules:
    """What is accepted.

    Parameters
    ----------
    columns : Columns
    max_bad_fraction : float, in [0, 1]
        The share of unusable lines over which the input is refused.
    rating_range : (float, float), optional
        Ratings outside it are unusable.
    duplicates : {'latest', 'mean', 'error'}
        What becomes of a pair rated twice.
    """

    columns: Columns = field(default_factory=Columns)
    max_bad_fraction: float = 0.01
    rating_range: tuple[float, float] | None = None
    duplicates: str = "latest"

    def __post_init__(self):
        if not 0 <= self.max_bad_fraction <= 1:
            raise ParameterError(f"--max-bad-fraction {self.max_bad_fraction}: must lie between 0 and 1")
        if self.duplicates not in DUPLICATES:
            raise ParameterError(f"--duplicates {self.duplicates}: must be one of {', '.join(DUPLICATES)}")
        low, high = self.rating_range or (0, 0)
        if not low <= high:
            raise ParameterError(f"--rating-range {low} {high}: the first must not exceed the second")

    @classmethod
    def of(cls, rules: dict) -> Rules:
        """Rules from what `dataclasses.asdict` made of some, by way of JSON."""
        columns, limits = rules["columns"], rules["rating_range"]
        names = columns["names"] and tuple(columns["names"])
        known = {"columns": Columns(**columns | {"names": names}), "rating_range": limits and tuple(limits)}
        return cls(**rules | known)


def ingest(
    inputs: Sequence[str | Path], rules: Rules = Rules(), quarantine: Path | None = None
) -> tuple[Ratings, IngestReport]:
    """Read rating files into encoded ratings.

    Parameters
    ----------
    inputs : sequence of paths, directories or globs
    rules : Rules
    quarantine : Path, optional
        Where the unusable lines are written, if there are any.

    Raises
    ------
    RatingsError
        A whole-file fault, more unusable lines than allowed, or no usable line at all.
    """
    ratings, report = ingest_unhashed(inputs, rules, quarantine)
    report.sha256 = ratings.fingerprint()
    return ratings, report


def ingest_unhashed(
    inputs: Sequence[str | Path], rules: Rules, quarantine: Path | None
) -> tuple[Ratings, IngestReport]:
    """What `ingest` does, but for the report's sha256, which can be made while another core is busy."""
    report = IngestReport()
    accepted = [usable for path in sources.find(inputs) for usable, _ in _judged(path, rules, report)]
    _settle(report, rules, quarantine)
    ratings = _encode_all(accepted, rules.duplicates)
    report.duplicates = report.accepted - len(ratings)
    report.ratings, report.users, report.items = len(ratings), len(ratings.users), len(ratings.items)
    report.times_unreadable = 0 if ratings.time is None else int((ratings.time == NO_TIME).sum())
    if report.duplicates:
        log.info("%d ratings of pairs rated before; kept: %s", report.duplicates, rules.duplicates)
    return ratings, report


@dataclass(frozen=True)
class TestRatings:
    """Test records in the order of their files, never merged.

    Parameters
    ----------
    user, item : pyarrow.StringArray, shape (n,)
    rating : ndarray of float64, shape (n,)
    record : ndarray of int64, shape (n,)
        Each one's place among the data lines, unusable ones included, from 0.
    time : ndarray of int64, shape (n,), optional
        As in `Ratings`.
    """

    __test__ = False  # not a pytest class

    user: pa.StringArray
    item: pa.StringArray
    rating: np.ndarray
    record: np.ndarray
    time: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rating)


def read_test(
    inputs: Sequence[str | Path], rules: Rules = Rules(), quarantine: Path | None = None
) -> tuple[TestRatings, IngestReport]:
    """Read test files as they stand; the rules for unusable lines are those of `ingest`."""
    report = IngestReport()
    accepted = [judged for path in sources.find(inputs) for judged in _judged(path, rules, report)]
    _settle(report, rules, quarantine)
    times = [usable.time for usable, _ in accepted if usable.time is not None]
    test = TestRatings(
        pa.chunked_array([usable.user.cast(pa.string()) for usable, _ in accepted]).combine_chunks(),
        pa.chunked_array([usable.item.cast(pa.string()) for usable, _ in accepted]).combine_chunks(),
        np.concatenate([usable.rating for usable, _ in accepted]),
        np.concatenate([record for _, record in accepted]),
        np.concatenate(times) if len(times) == len(accepted) else None,
    )
    report.ratings = len(test)
    return test, report


class _Usable(NamedTuple):
    """Columns of usable rows; no times where the file has no such column."""

    user: pa.DictionaryArray
    item: pa.DictionaryArray
    rating: np.ndarray
    time: np.ndarray | None


def _judged(path: Path, rules: Rules, report: IngestReport) -> Iterator[tuple[_Usable, np.ndarray]]:
    """The usable rows of each chunk of a file, with their numbers among all its data lines."""
    before = os.stat(path)
    rows_before = report.rows
    for usable, lines, faults in read(path, rules.columns, partial(_judge, rules=rules)):
        record = np.arange(report.rows, report.rows + len(lines))
        if faults:
            record += np.searchsorted([fault.line for fault in faults], lines)
        report.rows += len(lines) + len(faults)
        report.add(faults)
        yield usable, record
    if report.rows == rows_before:
        raise RatingsError(f"{path}: a header and no data line")
    after = os.stat(path)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise RatingsError(f"{path}: changed while it was read; run again when it is complete")


def _judge(chunk: Chunk, rules: Rules) -> tuple[_Usable, np.ndarray, list[Fault]]:
    """The usable rows and their lines, and a fault for each of the others (its first one)."""
    reasons = {role: id_faults(chunk.columns[role].dictionary) for role in ("user", "item")}
    values, reasons["rating"] = decimals(chunk.columns["rating"].dictionary, rules.rating_range)
    faulty: dict[int, tuple[str, str]] = {}
    for role in ("rating", "item", "user"):
        if reasons[role]:
            codes = _codes(chunk.columns[role])
            wrong = np.zeros(len(chunk.columns[role].dictionary), dtype=bool)
            wrong[list(reasons[role])] = True
            faulty |= {int(at): (role, reasons[role][int(codes[at])]) for at in np.flatnonzero(wrong[codes])}
    faults = chunk.faults
    if faulty:
        faults = faults + [
            Fault(str(chunk.path), int(chunk.lines[at]), role, reason, chunk.columns[role][at].as_py()[:200])
            for at, (role, reason) in faulty.items()
        ]
        faults.sort(key=lambda fault: fault.line)
        keep = np.ones(len(chunk.lines), dtype=bool)
        keep[list(faulty)] = False
        columns = {role: column.filter(to_arrow(keep)) for role, column in chunk.columns.items()}
        chunk = Chunk(chunk.path, chunk.lines[keep], columns)
    time = moments(chunk.columns["time"]) if "time" in chunk.columns else None
    usable = _Usable(
        chunk.columns["user"], chunk.columns["item"], values[_codes(chunk.columns["rating"])], time
    )
    return usable, chunk.lines, faults


def _codes(column: pa.DictionaryArray) -> np.ndarray:
    return to_numpy(column.indices)


def _settle(report: IngestReport, rules: Rules, quarantine: Path | None) -> None:
    """Write the quarantine; refuse the input if too much of it is unusable."""
    if not report.rejected:
        return
    first = report.faults[0]
    where = f"{first.file}, line {first.line}" + (f", column {first.column}" if first.column else "")
    what = f"{where}: {first.reason} ({first.text!r})"
    if quarantine is not None:
        _write_quarantine(report.faults, quarantine)
        report.quarantine = str(quarantine)
    if report.rejected > rules.max_bad_fraction * report.rows or not report.accepted:
        raise RatingsError(
            f"{report.rejected} of {report.rows} lines cannot be used, the first: {what}; "
            f"correct them, or raise --max-bad-fraction (now {rules.max_bad_fraction:g})"
            + (f"; all are listed in {quarantine}" if quarantine else "")
        )
    log.warning("%d of %d lines left out, the first: %s", report.rejected, report.rows, what)


def _write_quarantine(faults: list[Fault], path: Path) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(Fault._fields)
    writer.writerows(map(printable, map(str, fault)) for fault in faults)
    try:
        files.make_directory(path.parent)
        files.replace(path, text.getvalue().encode())
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror or error})") from error


def encode(
    users: list[pa.DictionaryArray],
    items: list[pa.DictionaryArray],
    rating: np.ndarray,
    time: np.ndarray | None = None,
    duplicates: str = "latest",
) -> Ratings:
    """Ratings from columns of id texts (in chunks), values and times, by the rule for duplicates."""
    ends = np.cumsum([len(column) for column in users])[:-1]
    times = [None] * len(users) if time is None else np.split(time, ends)
    chunks = zip(users, items, np.split(rating, ends), times, strict=True)
    return _encode_all([_Usable(*chunk) for chunk in chunks], duplicates)


def _encode_all(chunks: list[_Usable], duplicates: str) -> Ratings:
    """Ratings from chunks, which are taken out of their list to free their memory early."""
    timed = all(chunk.time is not None for chunk in chunks)
    sides = [chunk.user for chunk in chunks], [chunk.item for chunk in chunks]
    (user, users), (item, items) = in_order(_encode, sides, len(sides))
    del sides
    pieces = [
        (user.pop(0), item.pop(0), chunk.rating, chunk.time if timed else None)
        for chunk in (chunks.pop(0) for _ in range(len(chunks)))
    ]
    user_rows, item_rows, rating, time = sort_pairs(pieces, users, items, duplicates)
    return Ratings(user_rows, item_rows, rating, time, users, items)


def _encode(columns: list[pa.DictionaryArray]) -> tuple[list[np.ndarray], IdMap]:
    """Rows of each chunk, and the ids that occur."""
    codes = [_codes(column) for column in columns]
    used = []
    for column, code in zip(columns, codes, strict=True):
        occurs = counted(code, len(column.dictionary)) > 0
        used.append(column.dictionary.filter(to_arrow(occurs)))
    ids = IdMap.sorted(pa.chunked_array(used).unique())
    rows = ids.rows(pa.chunked_array([column.dictionary for column in columns]))
    ends = np.cumsum([len(column.dictionary) for column in columns])[:-1]
    return [row.take(code) for row, code in zip(np.split(rows, ends), codes, strict=True)], ids
