"""Using a stored model: predictions for files of pairs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from mfpipe import files, sources
from mfpipe.errors import RatingsError, StoreError
from mfpipe.fitted import SOURCES, FittedModel
from mfpipe.ratings import id_fault
from mfpipe.reading import Chunk, Columns, read

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
        files.remove(aside)  # of a process that was killed
        with (
            os.fdopen(files.open_new(aside), "wb") as file,
            pyarrow.csv.CSVWriter(file, PREDICTIONS, write_options=options) as writer,
        ):
            for path in sources.find([pairs]):
                for chunk in read(path, columns, need_rating=False):
                    _refuse_faults(chunk)
                    users, items = (chunk.columns[side].cast(pa.string()) for side in ("user", "item"))
                    predicted, source = fitted.predict(users, items)
                    counts += np.bincount(source, minlength=len(SOURCES))
                    texts = pa.array(predicted).cast(pa.string())
                    writer.write_table(
                        pa.Table.from_arrays(
                            [users, items, texts, pa.array(SOURCES[source])], schema=PREDICTIONS
                        )
                    )
        os.replace(aside, out)
    except OSError as error:
        raise StoreError(f"{out}: cannot be written ({error.strerror or error})") from error
    finally:
        aside.unlink(missing_ok=True)
    return {"rows": int(counts.sum()), "sources": dict(zip(SOURCES.tolist(), counts.tolist(), strict=True))}


def _refuse_faults(chunk: Chunk) -> None:
    for fault in chunk.faults:
        raise RatingsError(
            f"{fault.file}, line {fault.line}: {fault.reason} ({fault.text!r}); correct the line"
        )
    for side in ("user", "item"):
        column = chunk.columns[side]
        for code, text in enumerate(column.dictionary.to_pylist()):
            reason = id_fault(text)
            at = np.flatnonzero(column.indices.to_numpy() == code) if reason else np.empty(0, np.int64)
            if len(at):
                raise RatingsError(
                    f"{chunk.path}, line {chunk.lines[at[0]]}, column {side}: {reason} ({text!r})"
                )
