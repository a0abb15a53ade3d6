"""Texts of dates and of epoch seconds → microseconds since 1970."""

import numpy as np

from mfpipe.kernels import kernel, part

_EPOCH_DAY = 719_468
"""Days from 1 March of year 0 to 1 January 1970."""


@part
def _number(texts, begin, end):
    """The value of some ASCII digits; -1 if there is anything else among them."""
    value = np.int64(0)
    for at in range(begin, end):
        digit = np.int64(texts[at]) - 48
        if digit < 0 or digit > 9:
            return np.int64(-1)
        value = 10 * value + digit
    return value


@part
def _days(year, month, day):
    """Days since 1970 of a day of the proleptic Gregorian calendar; year 1 or later.

    Years begin in March here, so that a leap day is the last of its year (Richards, Explanatory
    Supplement to the Astronomical Almanac, 3rd edition, section 15.11).
    """
    march_year = year - (1 if month <= 2 else 0)
    month_day = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return 365 * march_year + march_year // 4 - march_year // 100 + march_year // 400 + month_day - _EPOCH_DAY


@part
def _month_days(year, month):
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31


@part
def _date(texts, at):
    """Days since 1970 of YYYY-MM-DD, and whether that is a date."""
    year, month, day = (
        _number(texts, at, at + 4),
        _number(texts, at + 5, at + 7),
        _number(texts, at + 8, at + 10),
    )
    if texts[at + 4] != 45 or texts[at + 7] != 45 or year < 1 or month < 1 or month > 12:
        return np.int64(0), False
    if day < 1 or day > _month_days(year, month):
        return np.int64(0), False
    return _days(year, month, day), True


@part
def _clock(texts, at):
    """Seconds since midnight of HH:MM:SS; -1 if that is no time."""
    hour, minute, second = (
        _number(texts, at, at + 2),
        _number(texts, at + 3, at + 5),
        _number(texts, at + 6, at + 8),
    )
    if texts[at + 2] != 58 or texts[at + 5] != 58 or hour < 0 or minute < 0 or second < 0:
        return np.int64(-1)
    if hour > 23 or minute > 59 or second > 59:
        return np.int64(-1)
    return 3600 * hour + 60 * minute + second


@kernel
def read_moments(offsets, texts, moments, other):
    """Read the spellings that nearly all files use; the rest is left to the caller.

    They are whole epoch seconds of up to 12 digits, YYYY-MM-DD, and that followed by a `T` or a space and
    HH:MM:SS, with or without a `Z`.

    Parameters
    ----------
    offsets : int32, shape (n + 1,)
    texts : uint8
    moments : out, int64, shape (n,)
        Microseconds since 1970 in UTC.
    other : out, int32, shape (n,)
        Positions of the texts that are spelled otherwise.

    Returns
    -------
    int
        The number of those.
    """
    others = 0
    for n in range(len(offsets) - 1):
        begin, end = np.intp(offsets[n]), np.intp(offsets[n + 1])
        length = end - begin
        negative = length > 0 and texts[begin] == 45
        digits = length - (1 if negative else 0)
        if 1 <= digits <= 12 and (length != 10 or texts[begin + 4] != 45):
            value = _number(texts, end - digits, end)
            if value >= 0:
                # As float(text) * 1e6 would round it, past 2^53 too.
                seconds = np.float64(-value if negative else value)
                moments[n] = np.int64(np.rint(seconds * 1e6))
                continue
        elif length == 10 or ((length == 19 or length == 20) and (texts[begin + 10] in (84, 32))):
            day, known = _date(texts, begin)
            second = np.int64(0) if length == 10 else _clock(texts, begin + 11)
            if known and second >= 0 and (length < 20 or texts[end - 1] == 90):
                moments[n] = (86_400 * day + second) * 1_000_000
                continue
        other[others] = n
        others += 1
    return others
