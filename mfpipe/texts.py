"""What the text of a field stands for: a rating, a moment, an id, or nothing that can be used."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mfpipe.arrow import to_arrow, to_numpy
from mfpipe.kernels import readonly
from mfpipe.kernels.moments import read_moments

NO_TIME = np.iinfo(np.int64).min
COMPILED_FROM = 1 << 16
"""Texts of moments from which the kernel pays; below, loading it takes longer than it saves."""
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
_PLAIN_DECIMAL = r"^[0-9]{1,15}(\.[0-9]{1,15})?$"
_PLAIN_ID = "^[!-~][ -~]*$"
_EPOCH_SECONDS = re.compile(r"-?[0-9]{1,12}(\.[0-9]*)?", re.ASCII)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def decimals(texts: pa.StringArray, limits: tuple[float, float] | None) -> tuple[np.ndarray, dict[int, str]]:
    """The values of ratings; zero for those that cannot be used, with the reason by position."""
    values, reasons = np.zeros(len(texts)), {}
    plain = pc.match_substring_regex(texts, _PLAIN_DECIMAL)
    at = to_numpy(plain)
    values[at] = to_numpy(texts.filter(plain).cast(pa.float64()))
    odd = np.flatnonzero(~at)
    for position, text in zip(odd.tolist(), texts.take(to_arrow(odd)).to_pylist(), strict=True):
        if not text:
            reasons[position] = "blank"
        elif not _DECIMAL.fullmatch(text):
            reasons[position] = "not a finite decimal number"
        elif not np.isfinite(value := float(text)):
            reasons[position] = "too large for a number"
        else:
            values[position] = value
    if limits:
        low, high = limits
        for position in np.flatnonzero((values < low) | (values > high)).tolist():
            reasons.setdefault(position, f"outside {low:g} to {high:g}")
    return values, reasons


def id_fault(text: str) -> str | None:
    """Why a text cannot be an id; None if it can."""
    if not text or text.isspace():
        return "blank"
    return "control character" if _CONTROL.search(text) else None


def id_faults(texts: pa.StringArray) -> dict[int, str]:
    """The reason, by position, of each text that cannot be an id."""
    odd = np.flatnonzero(~to_numpy(pc.match_substring_regex(texts, _PLAIN_ID)))
    reasons = (id_fault(text) for text in texts.take(to_arrow(odd)).to_pylist())
    return {at: reason for at, reason in zip(odd.tolist(), reasons, strict=True) if reason}


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


def moments(texts: pa.StringArray) -> np.ndarray:
    """`microseconds` of each text; int64."""
    if len(texts) < COMPILED_FROM:
        return _each_once(texts)
    _, offsets, data = texts.buffers()
    bounds = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    found, others = np.empty(len(texts), np.int64), np.empty(len(texts), np.int32)
    n_others = read_moments(*readonly(bounds, np.frombuffer(data or b" ", np.uint8)), found, others)
    if n_others:
        at = others[:n_others]
        found[at] = _each_once(texts.take(to_arrow(at)))
    return found


def _each_once(texts: pa.StringArray) -> np.ndarray:
    column = texts.dictionary_encode()
    known = np.array([microseconds(text) for text in column.dictionary.to_pylist()], np.int64)
    return known[to_numpy(column.indices)]
