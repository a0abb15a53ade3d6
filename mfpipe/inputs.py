"""What scikit-learn's users pass in, checked: X as two columns of id texts, y as ratings."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.utils.validation import check_array, check_consistent_length, column_or_1d

from mfpipe.errors import RatingsError
from mfpipe.ids import IdMap, are_integers
from mfpipe.texts import id_faults

SIDES = ("user", "item")


def id_columns(X: Any, fitting: bool) -> list[pa.DictionaryArray]:
    """The columns of X as id texts: integers in their canonical spelling, text as it is.

    Parameters
    ----------
    X : array, frame or nested sequence, shape (n, columns)
        Each column all integers or all text; nothing else is guessed at.
    fitting : bool
        Whether X must also have a row, two columns, and ids that a file could hold.

    Returns
    -------
    list of pyarrow.DictionaryArray
        One for each column.

    Raises
    ------
    ValueError, TypeError
        scikit-learn's own for what is no matrix, is sparse or complex, or has NaN or infinity.
    RatingsError
        Values that are no ids; also a ValueError.
    """
    columns = _frame_columns(X) if hasattr(X, "iloc") else list(_array(X, fitting).T)
    if fitting and len(columns) != len(SIDES):
        raise RatingsError(
            f"X has {len(columns)} feature(s) (shape={np.shape(X)}); it must have 2: user and item ids"
        )
    names = [*SIDES, *(f"column {k}:" for k in range(len(SIDES), len(columns)))]
    texts = [texts_of(column, name) for column, name in zip(columns, names, strict=False)]
    if fitting:
        if not len(texts[0]):
            raise RatingsError(f"X has no rows (shape={np.shape(X)}); at least one rating is needed")
        for column, name in zip(texts, names, strict=True):
            _refuse_faults(column, name)
    return texts


def ratings_of(y: Any, X: Any) -> np.ndarray:
    """Y as float64, shape (n,); finite numbers, one for each row of X."""
    y = column_or_1d(y, warn=True)
    if y.dtype.kind == "O" and all(isinstance(value, Real) for value in y):
        y = y.astype(np.float64)
    if y.dtype.kind not in "biufc":
        raise RatingsError(f"y has values of type {y.dtype}; ratings are numbers")
    y = check_array(y, dtype=None, ensure_2d=False, input_name="y")
    check_consistent_length(X, y)
    return y.astype(np.float64)


def _array(X: Any, fitting: bool) -> np.ndarray:
    # A list of lists made an array of would have all its values turned into text if one is.
    dtype = object if isinstance(X, list | tuple) else None
    least = {"ensure_min_samples": int(fitting), "ensure_min_features": len(SIDES) if fitting else 0}
    return check_array(X, dtype=dtype, input_name="X", **least)


def _frame_columns(X: Any) -> list[np.ndarray]:
    """Column by column: as one array, integers of two types would become floats."""
    if X.isna().to_numpy().any():
        raise RatingsError("Input X contains NaN: a missing id; remove the row, or name the id")
    return [X.iloc[:, k].to_numpy() for k in range(X.shape[1])]


def texts_of(column: np.ndarray, name: str) -> pa.DictionaryArray:
    """Ids as text: integers in their canonical spelling, text as it is; nothing else is guessed at."""
    if column.dtype.kind in "iu":
        native = column.astype(column.dtype.newbyteorder("="), copy=False)
        return pa.array(native).cast(pa.string()).dictionary_encode()
    if column.dtype.kind in "UT":
        return pa.array(column.astype(object), pa.string()).dictionary_encode()
    kinds = {type(value) for value in column} if column.dtype == object else {column.dtype.type}
    if all(issubclass(kind, str) for kind in kinds):
        return pa.array(column, pa.string()).dictionary_encode()
    if all(issubclass(kind, int | np.integer) and kind is not bool for kind in kinds):
        return pa.array([str(int(value)) for value in column], pa.string()).dictionary_encode()
    found = ", ".join(sorted(kind.__name__ for kind in kinds))
    advice = "; whole numbers can be given as integers: X.astype('int64')" if "float" in found else ""
    raise RatingsError(f"{name} ids of type {found}: ids must be all integers or all text{advice}")


def _refuse_faults(column: pa.DictionaryArray, name: str) -> None:
    for at, fault in id_faults(column.dictionary).items():
        text = column.dictionary[at].as_py()
        raise RatingsError(f"{name} id {text!r}: {fault}; remove the row, or name the id")


def id_array(ids: IdMap) -> np.ndarray:
    """Ids as they are held in Python: integers where all are, text otherwise."""
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
