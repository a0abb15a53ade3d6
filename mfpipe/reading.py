"""Rating files → columns of text with the line each came from, and the lines that cannot be used.

Nothing guesses a type here: every field stays the text that stands in the file. A line is judged by
itself, so that the answer never depends on where a block ends.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from mfpipe import scanning, sources
from mfpipe.cores import available_cores, in_order
from mfpipe.errors import RatingsError

NAMES = {
    "user": ("user_id", "userid", "user"),
    "item": ("item_id", "movie_id", "movieid", "itemid", "item"),
    "rating": ("rating",),
    "time": ("date", "timestamp", "time"),
}
DELIMITERS = (",", "\t", ";", "|")
DISTINCT = ("user", "item", "rating")
"""Columns of which each distinct text is kept and looked at once."""
TEXT = pa.dictionary(pa.int32(), pa.string())
_CONTROL = np.array([b < 32 or b == 127 for b in range(256)])
_CONTROL[ord("\n")] = False
_CONTROL_OR_NEWLINE = re.compile(rb"[\x00-\x1f\x7f]")
ROWS_AT_ONCE = 1 << 18
MOST_THREADS = 8
"""More would wait for blocks, and each holds one in memory."""
T = TypeVar("T")


class Fault(NamedTuple):
    """A line that cannot be used."""

    file: str
    line: int
    column: str
    reason: str
    text: str


@dataclass
class Chunk:
    """Some lines of one file: text columns of equal length, and the faulty lines left out.

    `lines` are the rows' line numbers in the file, from 1; `faults` are in the order of theirs. Times are a
    string array, as most may differ, and the other columns dictionary arrays.
    """

    path: Path
    lines: np.ndarray
    columns: dict[str, pa.Array]
    faults: list[Fault] = field(default_factory=list)


@dataclass(frozen=True)
class Columns:
    """How columns are found.

    Parameters
    ----------
    user, item, rating, time : str, optional
        The column of that name; by default the known names are looked for.
    names : tuple of str, optional
        Names for the columns of files that have no header.
    delimiter : str, optional
        One character; by default the one of comma, tab, semicolon and bar that the header shows.
    """

    user: str | None = None
    item: str | None = None
    rating: str | None = None
    time: str | None = None
    names: tuple[str, ...] | None = None
    delimiter: str | None = None

    def found_in(self, path: Path, header: list[str], need_rating: bool = True) -> dict[str, int]:
        """Position of each needed column in a header, or RatingsError saying what is wrong."""
        plain = [name.strip().lower() for name in header]
        positions = {}
        for role, known in NAMES.items():
            asked = getattr(self, role)
            wanted = (asked.strip().lower(),) if asked else known
            at = [position for position, name in enumerate(plain) if name in wanted]
            if len(at) > 1:
                names = ", ".join(header[position] for position in at)
                raise RatingsError(
                    f"{path}, line 1: {len(at)} columns could be the {role} column ({names}); "
                    f"keep one, or choose with --{role}-column"
                )
            if at:
                positions[role] = at[0]
            elif asked or role in ("user", "item") or (role == "rating" and need_rating):
                raise RatingsError(
                    f"{path}, line 1: no {role} column ({' or '.join(wanted)}) among "
                    f"{', '.join(map(repr, header[:12]))}; name it with --{role}-column, "
                    "or give --columns for a file without a header"
                )
        if len(set(positions.values())) < len(positions):
            raise RatingsError(f"{path}, line 1: one column is asked for in two roles")
        return positions


def read(
    path: Path, columns: Columns, then: Callable[[Chunk], T], need_rating: bool = True, threads: int = 0
) -> Iterator[T]:
    """What a function makes of each chunk of one rating file, in file order.

    Parameters
    ----------
    path : Path
    columns : Columns
    then : callable
        Called with each chunk, on several threads.
    need_rating : bool
        Whether a file without a rating column is at fault.
    threads : int
        0 for as many as there are cores, up to `MOST_THREADS`.

    Raises
    ------
    RatingsError
        For whole-file faults: empty, no usable header, an unclosed quote, damaged containers.
    """
    threads = threads or min(available_cores(), MOST_THREADS)
    return in_order(lambda chunk: then(chunk()), _chunks(path, columns, need_rating), threads)


def _chunks(path: Path, columns: Columns, need_rating: bool) -> Iterator[Callable[[], Chunk]]:
    """The chunks, each still to be made by a call."""
    if sources.is_parquet(path):
        for chunk in _read_parquet(path, columns, need_rating):
            yield partial(_itself, chunk)
        return
    reader = None
    line = 1
    rest = sources.blocks(path)
    for block in rest:
        if reader is None:
            stripped = block.lstrip(b"\n")
            line, block = line + len(block) - len(stripped), stripped
            if not block:
                continue
            reader, skipped = _TextReader.after_header(path, block, columns, need_rating)
            line, block = line + block[:skipped].count(b"\n"), block[skipped:]
        if b'"' in block:
            # A quote may hold line ends, so from here on records are read one by one.
            for chunk in reader.quoted(chain([block], rest), line):
                yield partial(_itself, chunk)
            return
        yield partial(reader.plain, block, line)
        line += int(np.count_nonzero(np.frombuffer(block, np.uint8) == ord("\n")))
    if reader is None:
        raise RatingsError(f"{path}: empty, or blank lines only")


def _itself(chunk: Chunk) -> Chunk:
    return chunk


class _TextReader:
    """Reads the data lines of one delimited text file whose header has been understood."""

    def __init__(self, path: Path, delimiter: str, width: int, positions: dict[str, int]):
        self.path, self.delimiter, self.width, self.positions = path, delimiter, width, positions
        self.control = _CONTROL.copy()
        self.control[ord(delimiter)] = False

    @classmethod
    def after_header(cls, path: Path, block: bytes, columns: Columns, need_rating: bool):
        """The reader for a file that starts with this block, and the bytes its header takes."""
        first = block[: block.index(b"\n")]
        try:
            line = first.decode()
        except UnicodeDecodeError as error:
            raise RatingsError(f"{path}, line 1: not UTF-8 ({error.reason}); convert the file") from error
        delimiter = columns.delimiter or max(DELIMITERS, key=line.count)
        try:
            header = next(csv.reader([line], delimiter=delimiter, strict=True))
        except csv.Error as error:
            raise RatingsError(f"{path}, line 1: unusable header ({error})") from error
        names = list(columns.names or header)
        positions = columns.found_in(path, names, need_rating)
        return cls(path, delimiter, len(names), positions), 0 if columns.names else len(first) + 1

    def plain(self, block: bytes, first_line: int) -> Chunk:
        """The rows of whole lines without quotes."""
        if len(block) >= scanning.COMPILED_FROM and scanning.can_scan(self.delimiter):
            scanned = scanning.scan(block, self.delimiter, self.width, self.positions, DISTINCT)
            if scanned.ascii or _is_utf8(block):
                lines = np.add(scanned.lines, first_line, dtype=np.int64)
                odd = np.add(scanned.odd_lines, first_line, dtype=np.int64)
                faults = self._lines(scanned.odd, odd).faults if scanned.odd else []
                return Chunk(self.path, lines, scanned.columns, faults)
        return self._lines(block, np.arange(first_line, first_line + block.count(b"\n")))

    def _lines(self, block: bytes, lines: np.ndarray) -> Chunk:
        """The rows of whole lines without quotes that have these numbers."""
        data = np.frombuffer(block, np.uint8)
        ends = np.flatnonzero(data == ord("\n"))
        starts = np.concatenate(([0], ends[:-1] + 1))
        separators = np.flatnonzero(data == ord(self.delimiter))
        fields = np.diff(np.searchsorted(separators, ends), prepend=0) + 1
        blank = starts == ends
        reasons = {
            int(i): self._width_fault(fields[i]) for i in np.flatnonzero((fields != self.width) & ~blank)
        }
        for at in np.searchsorted(ends, np.flatnonzero(self.control[data])):
            reasons[int(at)] = "control character"
        if not _is_utf8(block):
            for at in np.unique(np.searchsorted(ends, np.flatnonzero(data > 127))):
                if not _is_utf8(block[starts[at] : ends[at]]):
                    reasons[int(at)] = "not UTF-8"
        faults = [
            self._fault(
                int(lines[at]), reason, block[starts[at] : ends[at]].decode(errors="backslashreplace")
            )
            for at, reason in sorted(reasons.items())
        ]
        keep = ~blank
        keep[list(reasons)] = False
        if not keep.all():
            block = data[np.repeat(keep, ends - starts + 1)].tobytes()
        return Chunk(self.path, lines[keep], self._columns(block), faults)

    def _columns(self, block: bytes) -> dict[str, pa.Array]:
        if not block:
            return {role: pa.array([], _kind(role)) for role in self.positions}
        names = [str(position) for position in range(self.width)]
        kinds = {names[position]: _kind(role) for role, position in self.positions.items()}
        table = pyarrow.csv.read_csv(
            pa.BufferReader(block),
            pyarrow.csv.ReadOptions(column_names=names, block_size=len(block) + 1),
            pyarrow.csv.ParseOptions(delimiter=self.delimiter, quote_char=False),
            pyarrow.csv.ConvertOptions(
                column_types=kinds, include_columns=list(kinds), strings_can_be_null=False
            ),
        )
        return {role: _one(table[str(position)]) for role, position in self.positions.items()}

    def quoted(self, blocks: Iterable[bytes], first_line: int) -> Iterator[Chunk]:
        """The rows of records that may hold quotes; such a record is read by the standard library's reader.

        A line without a quote is judged as `plain` would, so that it does not matter whether one stands in
        the same block.
        """
        rows: list[list[str]] = []
        lines: list[int] = []
        faults: list[Fault] = []
        for line, record, fault in self._records(blocks, first_line):
            if fault:
                faults.append(self._fault(line, fault, _printed(self.delimiter.join(record))))
            else:
                rows.append([record[position] for position in self.positions.values()])
                lines.append(line)
            if len(rows) + len(faults) >= ROWS_AT_ONCE:
                yield self._quoted_chunk(rows, lines, faults)
                rows, lines, faults = [], [], []
        yield self._quoted_chunk(rows, lines, faults)

    def _records(
        self, blocks: Iterable[bytes], first_line: int
    ) -> Iterator[tuple[int, list[str], str | None]]:
        """Line number, fields and fault of each record that is not blank."""
        text = (line for block in blocks for line in block.decode(errors="surrogateescape").split("\n")[:-1])
        numbered = enumerate(text, first_line)
        for number, line in numbered:
            if '"' not in line:
                if line:
                    record = line.split(self.delimiter)
                    yield number, record, self._record_fault(record)
                continue
            further = self._within_limit(number, line, numbered)
            try:
                record = next(csv.reader(further, delimiter=self.delimiter, strict=True))
            except csv.Error as error:
                if "unexpected end" in str(error) or "field limit" in str(error):
                    raise RatingsError(
                        f"{self.path}, line {number}: a quote that is opened here is never closed"
                    ) from error
                yield number, [], f"misplaced quote ({error})"
            else:
                yield number, record, self._record_fault(record)

    def _within_limit(self, number: int, first: str, numbered: Iterator[tuple[int, str]]) -> Iterator[str]:
        """Lines for a reader of one record, which would gather one without end in memory."""
        taken = 0
        for line in chain([first], (line for _, line in numbered)):
            taken += len(line) + 1
            if taken > sources.LINE_LIMIT:
                raise RatingsError(
                    f"{self.path}, line {number}: a quoted record longer than {sources.LINE_LIMIT} "
                    "characters; is a quote never closed?"
                )
            yield line + "\n"

    def _record_fault(self, record: list[str]) -> str | None:
        try:
            data = "".join(record).encode()
        except UnicodeEncodeError:
            return "not UTF-8"
        if _CONTROL_OR_NEWLINE.search(data):
            return "control character"
        return None if len(record) == self.width else self._width_fault(len(record))

    def _quoted_chunk(self, rows, lines, faults) -> Chunk:
        columns = zip(*rows, strict=True) if rows else ([] for _ in self.positions)
        arrays = {
            role: _encoded(role, pa.array(column, pa.string()))
            for role, column in zip(self.positions, columns, strict=True)
        }
        return Chunk(self.path, np.array(lines, dtype=np.int64), arrays, faults)

    def _width_fault(self, fields: int) -> str:
        return f"{fields} fields instead of {self.width}"

    def _fault(self, line: int, reason: str, text: str) -> Fault:
        return Fault(str(self.path), line, "", reason, text[:200])


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _kind(role: str) -> pa.DataType:
    return TEXT if role in DISTINCT else pa.string()


def _encoded(role: str, texts: pa.StringArray) -> pa.Array:
    return texts.dictionary_encode() if role in DISTINCT else texts


def _printed(text: str) -> str:
    """The text with each byte that was no UTF-8 as its escape."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _one(column: pa.ChunkedArray) -> pa.Array:
    column = column.unify_dictionaries().combine_chunks()
    return column.chunk(0) if isinstance(column, pa.ChunkedArray) else column


def _read_parquet(path: Path, columns: Columns, need_rating: bool) -> Iterator[Chunk]:
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        schema = file.schema_arrow
        positions = columns.found_in(path, schema.names, need_rating)
        names = {role: schema.names[position] for role, position in positions.items()}
        for role in ("user", "item"):
            kind = schema.field(names[role]).type
            if not (pa.types.is_integer(kind) or _is_text(kind)):
                raise RatingsError(
                    f"{path}: column {names[role]} holds {kind}, and an id is text or an integer; cast it"
                )
        first = 1
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=sorted(set(names.values()))):
            arrays = {role: _encoded(role, _as_text(batch.column(name))) for role, name in names.items()}
            yield Chunk(path, np.arange(first, first + len(batch)), arrays)
            first += len(batch)
    except (pa.ArrowException, OSError) as error:
        raise RatingsError(f"{path}: damaged Parquet file ({error})") from error


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _as_text(column: pa.Array) -> pa.StringArray:
    if pa.types.is_float32(column.type) or pa.types.is_float16(column.type):
        column = column.cast(pa.float64())
    return column.cast(pa.string()).fill_null("")
