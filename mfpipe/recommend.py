"""Using a stored model: predictions for files of pairs."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from mfpipe import sources
from mfpipe.errors import RatingsError, StoreError
from mfpipe.fitted import SOURCES, FittedModel
from mfpipe.reading import Chunk, Columns, read
from mfpipe.texts import id_faults

PREDICTIONS = pa.schema([(name, pa.string()) for name in ("user", "item", "prediction", "source")])


def predict_file(fitted: FittedModel, pairs: str, out: Path, columns: Columns = Columns()) -> dict:
    """Predict every pair of a file, in the order given, without holding the file in memory.

    Writes `user,item,prediction,source` as CSV; `out` appears when it is complete.

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
        with pyarrow.csv.CSVWriter(aside, PREDICTIONS, write_options=options) as writer:
            for path in sources.find([pairs]):
                for table, found in read(path, columns, partial(_predicted, fitted), need_rating=False):
                    counts += found
                    writer.write_table(table)
        os.replace(aside, out)
    except OSError as error:
        raise StoreError(f"{out}: cannot be written ({error.strerror or error})") from error
    finally:
        aside.unlink(missing_ok=True)
    return {"rows": int(counts.sum()), "sources": dict(zip(SOURCES.tolist(), counts.tolist(), strict=True))}


def _predicted(fitted: FittedModel, chunk: Chunk) -> tuple[pa.Table, np.ndarray]:
    """The lines to write for a chunk, and the number of them by source."""
    _refuse_faults(chunk)
    users, items = chunk.columns["user"], chunk.columns["item"]
    predicted, source = fitted.predict(users, items)
    columns = [
        users.cast(pa.string()),
        items.cast(pa.string()),
        pa.array(predicted).cast(pa.string()),
        pa.DictionaryArray.from_arrays(source.astype(np.int8), SOURCES.tolist()).cast(pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=PREDICTIONS), np.bincount(source, minlength=len(SOURCES))


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
