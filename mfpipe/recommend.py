"""Recommendations: ids in, ids out; for some users, for new ones, and for all into a Parquet file."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mfpipe import files, rated
from mfpipe.errors import ParameterError, StoreError
from mfpipe.fitted import FittedModel
from mfpipe.folding import Folded
from mfpipe.independent import independent
from mfpipe.models.base import Block
from mfpipe.topn import Candidates, Ranked, TopN

log = logging.getLogger(__name__)

SOURCES = np.array(["known", "biases", "popularity", "folded in"])
KNOWN, BIASES, POPULARITY, FOLDED_IN = range(4)
DAMPING = 10.0  # ratings at the global mean that the mean of an item is damped with
WAVE = 64  # blocks computed before their rows are written
SCHEMA = pa.schema(
    [
        ("user", pa.string()),
        ("rank", pa.int32()),
        ("item", pa.string()),
        ("score", pa.float64()),
        ("source", pa.dictionary(pa.int8(), pa.string())),
    ]
)


@dataclass(frozen=True)
class Rules:
    """What may be recommended.

    Parameters
    ----------
    include_seen : bool
        Whether items that the user rated may be.
    allow, deny : pyarrow.StringArray, optional
        Items that alone may be, and items that may not.
    min_support : int
        Training ratings that an item must have.
    diversity : float, from 0 to 1
        See `mfpipe.kernels.topn.diversify`.
    """

    include_seen: bool = False
    allow: pa.StringArray | None = None
    deny: pa.StringArray | None = None
    min_support: int = 0
    diversity: float = 0.0

    def __post_init__(self):
        if isinstance(self.min_support, bool) or self.min_support < 0:
            raise ParameterError(f"--min-support {self.min_support}: must be 0 or more")
        if not 0 <= self.diversity <= 1:
            raise ParameterError(f"--diversity {self.diversity!r}: must lie between 0 and 1")

    def items(self, fitted: FittedModel) -> np.ndarray | None:
        """Rows of the items that may be recommended, ascending; None if all may.

        Raises
        ------
        ParameterError
            None may.
        """
        if self.allow is None and self.deny is None and not self.min_support:
            return None
        may = fitted.item_counts >= self.min_support
        if self.allow is not None:
            may &= _listed(fitted, self.allow, "allowed")
        if self.deny is not None:
            may &= ~_listed(fitted, self.deny, "denied")
        if not may.any():
            raise ParameterError("--allow, --deny and --min-support leave no item to recommend")
        return np.flatnonzero(may).astype(np.int32)


def _listed(fitted: FittedModel, ids: pa.StringArray, how: str) -> np.ndarray:
    rows = fitted.items.rows(ids)
    unknown = int((rows < 0).sum())
    if unknown:
        log.warning("%d of %d %s items were not trained on", unknown, len(rows), how)
    listed = np.zeros(len(fitted.items), dtype=bool)
    listed[rows[rows >= 0]] = True
    return listed


class Recommended(NamedTuple):
    """Recommendations of several users, one after the other, best first.

    `query` is each one's position among the users asked for, `item` the item's row, `score` a
    prediction in stars (for `popularity` a damped mean), `rank` from 1, and `source` the position in
    `SOURCES` that says how each user's scores were made, shape (users,).
    """

    query: np.ndarray
    item: np.ndarray
    score: np.ndarray
    rank: np.ndarray
    source: np.ndarray


@dataclass
class Recommender:
    """Recommends with one fitted model under fixed rules.

    Parameters
    ----------
    fitted : FittedModel
        With its training ratings (`rated`), unless seen items may be recommended or `seen` says them.
    n : int
        Items a user.
    rules : Rules
    seen : Block, optional
        What users saw besides, by user row.
    """

    fitted: FittedModel
    n: int = 10
    rules: Rules = field(default_factory=Rules)
    seen: Block | None = None
    top: TopN = field(init=False)

    def __post_init__(self):
        self.top = TopN(self.fitted, self.n, self.rules.items(self.fitted), self.rules.diversity)
        if not self.rules.include_seen and self.fitted.rated is None and self.seen is None:
            rated.require(None, "leaving out seen items")
        self._seen = [
            block
            for block in (self.fitted.rated, self.seen)
            if block is not None and not self.rules.include_seen
        ]

    def of(self, n: int, include_seen: bool | None = None) -> Recommender:
        """The same, with another number of items, and seen items included or not; made in no time."""
        other = copy.copy(self)
        other.n, other.top = n, self.top.of(n)
        if include_seen:
            other.rules, other._seen = dataclasses.replace(self.rules, include_seen=True), []
        return other

    def excluded(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Items not to recommend to each row of users, in CSR form; row -1 has none."""
        selections = [rated.select(block, rows) for block in self._seen]
        if not selections:
            return np.zeros(len(rows) + 1, np.int64), np.empty(0, np.int32)
        return selections[0] if len(selections) == 1 else rated.joined(*selections)

    def for_users(self, ids: pa.Array) -> Recommended:
        """Recommendations for user ids; a user who is not in the model gets the same as all such.

        Their scores are predictions from biases where the model has them, and otherwise damped means,
        (Σ r + kμ) / (n + k) with k = `DAMPING`.
        """
        rows = self.fitted.users.rows(ids)
        source = np.where(rows >= 0, KNOWN, self._cold_source()).astype(np.int8)
        parts = []
        warm = np.flatnonzero(rows >= 0)
        for begin in range(0, len(warm), self.top.search.block_rows()):
            at = warm[begin : begin + self.top.search.block_rows()]
            parts.append(self._placed(self.known(rows[at]), at))
        cold = np.flatnonzero(rows < 0)
        if len(cold):
            parts.append(self._placed(self._cold(*self.excluded(rows[cold])), cold))
        return _joined(parts, source)

    def known(self, rows: np.ndarray) -> Ranked:
        """Recommendations for users by row; as many as fit into memory."""
        return self.top.best(self.fitted.factors.user[rows], *self.excluded(rows))

    def for_folded(self, folded: Folded, leave_out_rated: bool | None = None) -> Recommended:
        """Recommendations for folded-in users: what they rated now, or in training, counts as seen.

        `leave_out_rated` decides apart from the rules about what they rated now. A user without a rating of
        a known item gets what users get who are not in the model.
        """
        rows = self.fitted.users.rows(folded.ids)
        rated_now = np.diff(folded.block.indptr) > 0
        source = np.where(rated_now, FOLDED_IN, self._cold_source()).astype(np.int8)
        if leave_out_rated is None:
            leave_out_rated = not self.rules.include_seen
        indptr, items = self.excluded(rows)
        if leave_out_rated:
            indptr, items = rated.joined((indptr, items), (folded.block.indptr, folded.block.columns))
        seen = Block(0, indptr, items, np.empty(0))
        parts = []
        for chosen, best in ((np.flatnonzero(rated_now), True), (np.flatnonzero(~rated_now), False)):
            for begin in range(0, len(chosen), self.top.search.block_rows()):
                at = chosen[begin : begin + self.top.search.block_rows()]
                leave_out = rated.select(seen, at)
                ranked = self.top.best(folded.rows[at], *leave_out) if best else self._cold(*leave_out)
                parts.append(self._placed(ranked, at))
        return _joined(parts, source)

    def _placed(self, ranked: Ranked, at: np.ndarray) -> Ranked:
        return ranked._replace(query=at[ranked.query].astype(np.int32))

    def _cold_source(self) -> int:
        return BIASES if self.fitted.model.columns()[0] == "bias" else POPULARITY

    def _cold(self, indptr: np.ndarray, excluded: np.ndarray) -> Ranked:
        items, scores = self.top.items, self._cold_scores()
        order = np.lexsort((items, -scores))
        reach = self.n * 10 + int(np.diff(indptr).max(initial=0))
        order = order[:reach]
        n_users = len(indptr) - 1
        near = Candidates(
            np.repeat(np.arange(n_users, dtype=np.int32), len(order)), np.tile(items[order], n_users)
        )
        seen = np.repeat(np.arange(n_users), np.diff(indptr)) * len(self.fitted.items) + excluded
        keep = ~np.isin(near.query.astype(np.int64) * len(self.fitted.items) + near.row, seen)
        near = Candidates(near.query[keep], near.row[keep])
        return self.top.ranked(near, np.tile(scores[order], n_users)[keep], n_users)

    def _cold_scores(self) -> np.ndarray:
        fitted, items = self.fitted, self.top.items
        if self._cold_source() == BIASES:
            nobody = np.full(len(items), -1, np.int32)
            return fitted.model.predict(fitted.factors, nobody, items, fitted.baseline)
        counts = fitted.item_counts[items]
        total = counts * fitted.baseline.item_means[items] + DAMPING * fitted.baseline.global_mean
        return total / (counts + DAMPING)

    def table(self, users: pa.Array, found: Recommended) -> pa.Table:
        """Recommendations as a table of `SCHEMA`."""
        source = pa.DictionaryArray.from_arrays(
            pa.array(found.source[found.query].astype(np.int8)), pa.array(SOURCES.tolist())
        )
        columns = [
            users.take(pa.array(found.query)),
            pa.array(found.rank),
            self.fitted.items.texts.take(pa.array(found.item)),
            pa.array(found.score),
            source,
        ]
        return pa.Table.from_arrays(columns, schema=SCHEMA)

    def records(self, users: Sequence[str], found: Recommended) -> list[dict]:
        """Recommendations as plain values, a record for each user asked for."""
        texts = self.fitted.items.texts.take(pa.array(found.item)).to_pylist()
        records = [
            {"user": user, "source": str(SOURCES[at]), "items": []}
            for user, at in zip(users, found.source, strict=True)
        ]
        rows = zip(found.query.tolist(), texts, found.score.tolist(), found.rank.tolist(), strict=True)
        for query, item, score, rank in rows:
            records[query]["items"].append({"item": item, "score": score, "rank": rank})
        return records


def _joined(parts: Sequence[Ranked], source: np.ndarray) -> Recommended:
    if not parts:
        nothing = np.empty(0, np.int32)
        return Recommended(nothing, nothing, np.empty(0), nothing, source)
    query, row, score, rank = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.lexsort((rank, query))
    return Recommended(query[order], row[order], score[order], rank[order], source)


def best_of_block(recommender: Recommender, rows: tuple[int, int]) -> Ranked:
    """Recommendations for a run of user rows: one task of `write_all`."""
    return recommender.known(np.arange(*rows))


def write_all(recommender: Recommender, out: Path, cluster: str = "threads", **place: Any) -> int:
    """Recommendations for every user of the model, in row order, into a Parquet file of `SCHEMA`.

    Blocks of users are computed where `cluster` says (see `mfpipe.executors.executor`), a wave at a
    time, so that memory stays bounded however many users there are. `out` appears when it is complete.

    Returns
    -------
    int
        Rows written.

    Raises
    ------
    StoreError
        `out` cannot be written.
    """
    n_users, step = len(recommender.fitted.users), recommender.top.search.block_rows()
    blocks = [(begin, min(begin + step, n_users)) for begin in range(0, n_users, step)]
    written = 0
    with _Output(out) as writer, independent(partial(_itself, recommender), cluster, **place) as run:
        for first in range(0, len(blocks), WAVE):
            wave = blocks[first : first + WAVE]
            for (begin, end), ranked in zip(wave, run(best_of_block, wave), strict=True):
                source = np.full(end - begin, KNOWN, np.int8)
                found = Recommended(ranked.query, ranked.row, ranked.score, ranked.rank, source)
                users = recommender.fitted.users.texts.slice(begin, end - begin)
                writer.write(recommender.table(users, found))
                written += len(found.item)
    return written


def _itself(recommender: Recommender) -> Recommender:
    return recommender


def write_some(recommender: Recommender, out: Path, users: pa.Array, found: Recommended) -> int:
    """Recommendations already made into a Parquet file of `SCHEMA`; the rows written."""
    with _Output(out) as writer:
        writer.write(recommender.table(users, found))
    return len(found.item)


class _Output:
    """A Parquet writer of `SCHEMA` whose file appears under its name when it is complete."""

    def __init__(self, out: Path):
        self.out, self.aside = out, out.with_name(f".{out.name}.writing")

    def __enter__(self):
        try:
            files.remove(self.aside)  # of a process that was killed
            self.file = os.fdopen(files.open_new(self.aside), "wb")
        except OSError as error:
            raise StoreError(f"{self.out}: cannot be written ({error.strerror or error})") from error
        self.writer = pq.ParquetWriter(self.file, SCHEMA, compression="zstd", write_page_checksum=True)
        return self

    def write(self, table: pa.Table) -> None:
        self.writer.write_table(table)

    def __exit__(self, kind, error, traceback):
        try:
            if kind is None:
                self.writer.close()
                self.file.flush()
                os.fsync(self.file.fileno())
                self.file.close()
                os.replace(self.aside, self.out)
        except OSError as failed:
            raise StoreError(f"{self.out}: cannot be written ({failed.strerror or failed})") from failed
        finally:
            with contextlib.suppress(OSError, ValueError):  # of a file that is thrown away
                self.writer.close()
            self.file.close()
            self.aside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise StoreError(f"{self.out}: cannot be written ({error.strerror or error})") from error
