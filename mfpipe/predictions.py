"""Predictions for files of pairs."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from mfpipe import files, sources
from mfpipe.errors import ParameterError, RatingsError, StoreError
from mfpipe.fitted import SOURCES, FittedModel
from mfpipe.reading import Chunk, Columns, read
from mfpipe.texts import id_fault, id_faults

PREDICTIONS = pa.schema([(name, pa.string()) for name in ("user", "item", "prediction", "source")])


def predict_file(
    fitted: FittedModel,
    pairs: str,
    out: Path,
    columns: Columns = Columns(),
    clip: tuple[float, float] | None = None,
) -> dict:
    """Predict every pair of a file, in the order given, without holding the file in memory.

    Writes `user,item,prediction,source` as CSV; `out` appears when it is complete. With `clip`, predictions
    below its first and above its second number become these.

    Returns
    -------
    dict
        `rows`, and the number of them by source.

    Raises
    ------
    RatingsError
        A line that holds no pair; leaving it out would shift the lines after it.
    StoreError
        `out` cannot be written.
    """
    counts = np.zeros(len(SOURCES), np.int64)
    aside = out.with_name(f".{out.name}.writing")
    try:
        options = pyarrow.csv.WriteOptions(quoting_style="needed")
        files.remove(aside)  # of a process that was killed
        with (
            os.fdopen(files.open_new(aside), "wb") as file,
            pyarrow.csv.CSVWriter(file, PREDICTIONS, write_options=options) as writer,
        ):
            for path in sources.find([pairs]):
                judge = partial(_predicted, fitted, clip)
                for table, found in read(path, columns, judge, need_rating=False):
                    counts += found
                    writer.write_table(table)
        os.replace(aside, out)
    except OSError as error:
        raise StoreError(f"{out}: cannot be written ({error.strerror or error})") from error
    finally:
        aside.unlink(missing_ok=True)
    return {"rows": int(counts.sum()), "sources": dict(zip(SOURCES.tolist(), counts.tolist(), strict=True))}


def _predicted(
    fitted: FittedModel, clip: tuple[float, float] | None, chunk: Chunk
) -> tuple[pa.Table, np.ndarray]:
    """The lines to write for a chunk, and the number of them by source."""
    _refuse_faults(chunk)
    users, items = chunk.columns["user"], chunk.columns["item"]
    predicted, source = fitted.predict(users, items)
    columns = [
        users.cast(pa.string()),
        items.cast(pa.string()),
        pa.array(clipped(predicted, clip)).cast(pa.string()),
        pa.DictionaryArray.from_arrays(source.astype(np.int8), SOURCES.tolist()).cast(pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=PREDICTIONS), np.bincount(source, minlength=len(SOURCES))


def clipped(predicted: np.ndarray, limits: tuple[float, float] | None) -> np.ndarray:
    """Predictions moved into a range of ratings, if one is given."""
    return predicted if limits is None else np.clip(predicted, *limits)


def check_clip(limits: tuple[float, float] | None) -> None:
    """ParameterError unless the limits are two numbers in order."""
    if limits is not None and not -math.inf < limits[0] <= limits[1] < math.inf:
        raise ParameterError(f"--clip {limits[0]:g} {limits[1]:g}: must be two numbers, the lower one first")


def read_pairs(
    inputs: Sequence[str], columns: Columns = Columns()
) -> Iterator[tuple[pa.StringArray, pa.StringArray]]:
    """User and item ids of files of pairs, chunk by chunk in their order; RatingsError for a faulty line."""
    for path in sources.find(inputs):
        yield from read(path, columns, _pairs, need_rating=False)


def _pairs(chunk: Chunk) -> tuple[pa.StringArray, pa.StringArray]:
    _refuse_faults(chunk)
    users, items = (chunk.columns[side].cast(pa.string()) for side in ("user", "item"))
    return users, items


def read_ids(path: str) -> pa.StringArray:
    """Ids of one side from a text file with one a line and no header; RatingsError for what is none."""
    ids: list[str] = []
    line = 0
    for found in sources.find([path]):
        for block in sources.blocks(found):
            for text in block.splitlines():
                line += 1
                try:
                    one = text.decode()
                except UnicodeDecodeError:
                    raise RatingsError(f"{found}, line {line}: not UTF-8; convert the file") from None
                reason = id_fault(one) if one else None
                if reason:
                    raise RatingsError(f"{found}, line {line}: {reason} ({one!r}); correct the line")
                if one:
                    ids.append(one)
    return pa.array(ids, pa.string())


def _refuse_faults(chunk: Chunk) -> None:
    for fault in chunk.faults:
        raise RatingsError(
            f"{fault.file}, line {fault.line}: {fault.reason} ({fault.text!r}); correct the line"
        )
    for side in ("user", "item"):
        column = chunk.columns[side]
        for code, reason in id_faults(column.dictionary).items():
            at = np.flatnonzero(column.indices.to_numpy() == code)
            text = column.dictionary[code].as_py()
            if len(at):
                raise RatingsError(
                    f"{chunk.path}, line {chunk.lines[at[0]]}, column {side}: {reason} ({text!r})"
                )
