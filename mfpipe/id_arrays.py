"""Ids as people hold them in Python, arrays and frames of integers or text, and the texts they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from mfpipe.errors import RatingsError
from mfpipe.ids import IdMap, are_integers


def id_columns(X: Any) -> tuple[pa.DictionaryArray, pa.DictionaryArray]:
    if hasattr(X, "iloc"):
        columns = [X.iloc[:, k].to_numpy() for k in range(X.shape[1])]
    else:
        array = np.asarray(X)
        if array.ndim != 2:
            raise RatingsError(f"X has shape {array.shape}; it must be (n, 2): user and item ids")
        columns = list(array.T)
    if len(columns) != 2:
        raise RatingsError(f"X has {len(columns)} columns; it must have 2: user and item ids")
    users, items = (texts_of(column, name) for column, name in zip(columns, ("user", "item"), strict=True))
    return users, items


def texts_of(column: np.ndarray, name: str) -> pa.DictionaryArray:
    """Ids as text. Integers in their canonical spelling; text as it is; nothing else is guessed at."""
    if column.dtype.kind in "iu":
        return pa.array(column).cast(pa.string()).dictionary_encode()
    if column.dtype.kind in "UT":
        return pa.array(column.astype(object), pa.string()).dictionary_encode()
    kinds = {type(value) for value in column}
    if kinds <= {str}:
        return pa.array(column, pa.string()).dictionary_encode()
    if kinds and all(issubclass(kind, int | np.integer) and kind is not bool for kind in kinds):
        return pa.array([str(value) for value in column], pa.string()).dictionary_encode()
    names = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise RatingsError(f"{name} ids of type {names}: ids must be all integers or all text")


def id_array(ids: IdMap) -> np.ndarray:
    texts = ids.texts
    return (
        texts.cast(pa.int64()).to_numpy()
        if are_integers(texts)
        else np.array(texts.to_pylist(), dtype=object)
    )


def ids_of(values: Any, name: str) -> tuple[np.ndarray, pa.StringArray]:
    """Ids of one side as they were given, as an array, and as texts; a single one is an array of one."""
    if isinstance(values, str | int | np.integer):
        values = [values]
    column = np.asarray(values)
    if column.ndim != 1:
        raise RatingsError(f"{name} ids have shape {column.shape}; they must be one id or a list of them")
    if column.dtype.kind in "US":
        column = np.array(list(values), dtype=object)  # numpy's own text drops NULs, and makes 7 a text
    if not len(column):
        return column, pa.array([], pa.string())
    try:
        return column, texts_of(column, name).cast(pa.string())
    except UnicodeEncodeError as error:
        raise RatingsError(f"a {name} id is not Unicode text ({error.reason})") from error
