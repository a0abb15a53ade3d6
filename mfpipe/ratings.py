"""Rating files → validated, encoded ratings, with everything that was left out counted and named."""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from mfpipe import files, sources
from mfpipe.errors import ParameterError, RatingsError, StoreError
from mfpipe.ids import IdMap
from mfpipe.reading import Chunk, Columns, Fault, read

log = logging.getLogger(__name__)

NO_TIME = np.iinfo(np.int64).min
DUPLICATES = ("latest", "mean", "error")
FAULTS_KEPT = 100_000
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
_EPOCH_SECONDS = re.compile(r"-?[0-9]{1,12}(\.[0-9]*)?", re.ASCII)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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

    def fingerprint(self) -> str:
        """sha256 of ids, ratings and times: the same for any order of files and lines."""
        digest = hashlib.sha256(b"mfpipe ratings 1")
        for ids in (self.users, self.items):
            text = "\n".join(ids.texts.to_pylist()).encode()
            digest.update(len(text).to_bytes(8, "little") + text)
        for array in (self.user, self.item, self.rating, self.time):
            if array is not None:
                digest.update(array.tobytes())
        return digest.hexdigest()

    def time_range(self) -> dict[str, int] | None:
        """The `earliest` and `latest` time, in microseconds since 1970; None where there are none."""
        if self.time is None or (self.time == NO_TIME).all():
            return None
        known = self.time[self.time != NO_TIME]
        return {"earliest": int(known.min()), "latest": int(known.max())}

    def subset(self, keep: np.ndarray) -> Ratings:
        """The ratings where `keep` is true, with ids and rows for those alone."""
        user, users = _compact(self.user[keep], self.users)
        item, items = _compact(self.item[keep], self.items)
        time = None if self.time is None else self.time[keep]
        return Ratings(user, item, self.rating[keep], time, users, items)


def _compact(rows: np.ndarray, ids: IdMap) -> tuple[np.ndarray, IdMap]:
    used = np.zeros(len(ids), dtype=bool)
    used[rows] = True
    if used.all():
        return rows, ids
    return (np.cumsum(used, dtype=np.int32) - np.int32(1))[rows], IdMap(ids.texts.filter(pa.array(used)))


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
    report = IngestReport()
    accepted = [rows for path in sources.find(inputs) for rows in _judged(path, rules, report)]
    _settle(report, rules, quarantine)
    timed = all("time" in rows for rows in accepted)
    ratings = encode(
        [rows["user"] for rows in accepted],
        [rows["item"] for rows in accepted],
        np.concatenate([rows["rating"] for rows in accepted]),
        np.concatenate([rows["time"] for rows in accepted]) if timed else None,
        rules.duplicates,
    )
    report.duplicates = report.accepted - len(ratings)
    report.ratings, report.users, report.items = len(ratings), len(ratings.users), len(ratings.items)
    report.times_unreadable = 0 if ratings.time is None else int((ratings.time == NO_TIME).sum())
    report.sha256 = ratings.fingerprint()
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
    """

    __test__ = False  # not a pytest class

    user: pa.StringArray
    item: pa.StringArray
    rating: np.ndarray
    record: np.ndarray

    def __len__(self) -> int:
        return len(self.rating)


def read_test(
    inputs: Sequence[str | Path], rules: Rules = Rules(), quarantine: Path | None = None
) -> tuple[TestRatings, IngestReport]:
    """Read test files as they stand; the rules for unusable lines are those of `ingest`."""
    report = IngestReport()
    accepted = [rows for path in sources.find(inputs) for rows in _judged(path, rules, report)]
    _settle(report, rules, quarantine)
    test = TestRatings(
        pa.chunked_array([rows["user"].cast(pa.string()) for rows in accepted]).combine_chunks(),
        pa.chunked_array([rows["item"].cast(pa.string()) for rows in accepted]).combine_chunks(),
        np.concatenate([rows["rating"] for rows in accepted]),
        np.concatenate([rows["record"] for rows in accepted]),
    )
    report.ratings = len(test)
    return test, report


def _judged(path: Path, rules: Rules, report: IngestReport) -> Iterator[dict]:
    before = os.stat(path)
    rows_before = report.rows
    for chunk in read(path, rules.columns):
        usable, faults = _judge(chunk, rules)
        faults = sorted(chunk.faults + faults, key=lambda fault: fault.line)
        broken = np.array([fault.line for fault in faults], dtype=np.int64)
        usable["record"] = (
            report.rows + np.arange(len(usable["line"])) + np.searchsorted(broken, usable.pop("line"))
        )
        report.rows += len(usable["rating"]) + len(faults)
        report.add(faults)
        yield usable
    if report.rows == rows_before:
        raise RatingsError(f"{path}: a header and no data line")
    after = os.stat(path)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise RatingsError(f"{path}: changed while it was read; run again when it is complete")


def _judge(chunk: Chunk, rules: Rules) -> tuple[dict, list[Fault]]:
    """Columns of the usable rows, and a fault for each of the others (its first one)."""
    judged = {}
    rating = chunk.columns["rating"]
    values, judged["rating"] = _decimals(rating.dictionary.to_pylist(), rules.rating_range)
    for role in ("user", "item"):
        judged[role] = [id_fault(text) for text in chunk.columns[role].dictionary.to_pylist()]
    faulty: dict[int, tuple[str, str]] = {}
    for role in ("rating", "item", "user"):
        reasons = judged[role]
        wrong = np.array([reason is not None for reason in reasons], dtype=bool)
        if wrong.any():
            codes = _codes(chunk.columns[role])
            faulty |= {int(at): (role, reasons[codes[at]]) for at in np.flatnonzero(wrong[codes])}
    keep = np.ones(len(chunk.lines), dtype=bool)
    keep[list(faulty)] = False
    faults = [
        Fault(str(chunk.path), int(chunk.lines[at]), role, reason, chunk.columns[role][at].as_py()[:200])
        for at, (role, reason) in sorted(faulty.items())
    ]
    mask = pa.array(keep)
    usable = {
        "user": chunk.columns["user"].filter(mask),
        "item": chunk.columns["item"].filter(mask),
        "rating": values[_codes(rating)[keep]],
        "line": chunk.lines[keep],
    }
    if "time" in chunk.columns:
        times = np.array(
            [microseconds(text) for text in chunk.columns["time"].dictionary.to_pylist()], np.int64
        )
        usable["time"] = times[_codes(chunk.columns["time"])[keep]]
    return usable, faults


def _codes(column: pa.DictionaryArray) -> np.ndarray:
    return column.indices.to_numpy(zero_copy_only=False)


def _decimals(texts: list[str], limits: tuple[float, float] | None) -> tuple[np.ndarray, list[str | None]]:
    values, reasons = np.zeros(len(texts)), []
    for at, text in enumerate(texts):
        reason: str | None = None
        if not text:
            reason = "blank"
        elif not _DECIMAL.fullmatch(text):
            reason = "not a finite decimal number"
        else:
            values[at] = float(text)
            if not np.isfinite(values[at]):
                reason = "too large for a number"
            elif limits and not limits[0] <= values[at] <= limits[1]:
                reason = f"outside {limits[0]:g} to {limits[1]:g}"
        reasons.append(reason)
    return values, reasons


def id_fault(text: str) -> str | None:
    """Why a text cannot be an id; None if it can."""
    if not text or text.isspace():
        return "blank"
    return "control character" if _CONTROL.search(text) else None


def microseconds(text: str) -> int:
    """Microseconds since 1970 in UTC of an ISO 8601 or epoch-seconds text; `NO_TIME` if it is neither."""
    if _EPOCH_SECONDS.fullmatch(text):
        return round(float(text) * 1e6)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return NO_TIME
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(microseconds=1)


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
    writer.writerows(fault._replace(text=_printable(fault.text)) for fault in faults)
    try:
        files.make_directory(path.parent)
        files.replace(path, text.getvalue().encode())
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror or error})") from error


def _printable(text: str) -> str:
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text
    )


def encode(
    users: list[pa.DictionaryArray],
    items: list[pa.DictionaryArray],
    rating: np.ndarray,
    time: np.ndarray | None = None,
    duplicates: str = "latest",
) -> Ratings:
    """Ratings from columns of id texts (in chunks), values and times, by the rule for duplicates."""
    user, user_ids = _encode(users)
    item, item_ids = _encode(items)
    user, item, rating, time = _each_pair_once(user, item, rating, time, duplicates, user_ids, item_ids)
    return Ratings(user, item, rating, time, user_ids, item_ids)


def _encode(columns: list[pa.DictionaryArray]) -> tuple[np.ndarray, IdMap]:
    column = pa.chunked_array(columns).unify_dictionaries().combine_chunks()
    codes, texts = _codes(column), column.dictionary
    used = np.zeros(len(texts), dtype=bool)
    used[codes] = True
    ids = IdMap.sorted(texts.filter(pa.array(used)))
    return ids.rows(texts)[codes], ids


def _each_pair_once(user, item, rating, time, policy: str, users: IdMap, items: IdMap):
    """Sort by user and item, and make one rating of those that share a pair.

    `latest` keeps the latest time; ties, and files without times, are averaged in the order of their
    values, so that the order of lines never matters.
    """
    pair = user.astype(np.int64) * len(items) + item
    order = np.argsort(pair, kind="stable")
    pair = pair[order]
    first = np.concatenate(([True], pair[1:] != pair[:-1]))
    if first.all():
        return user[order], item[order], rating[order], None if time is None else time[order]
    if policy == "error":
        again = order[np.flatnonzero(~first)[0]]
        raise RatingsError(
            f"user {users[user[again]]}, item {items[item[again]]}: rated more than once; "
            "remove the repetition, or choose --duplicates latest or mean"
        )
    when = np.zeros(len(pair), np.int64) if time is None else time[order]
    order = order[np.lexsort((rating[order], when, pair))]
    group = np.cumsum(first) - 1
    last = np.concatenate((np.flatnonzero(first)[1:], [len(pair)])) - 1
    when = np.zeros(len(pair), np.int64) if time is None else time[order]
    counted = when == when[last][group] if policy == "latest" else np.ones(len(pair), dtype=bool)
    sums = np.bincount(group, weights=np.where(counted, rating[order], 0.0))
    kept = order[last]
    mean = sums / np.bincount(group, weights=counted)
    return user[kept], item[kept], mean, None if time is None else time[kept]
