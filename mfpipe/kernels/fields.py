"""Delimited text → where its fields lie, and each distinct text once.

Every array of bytes here has `PADDING` more after its last, so that a word may be read anywhere.
"""

import numpy as np

from mfpipe.kernels import kernel, part
from mfpipe.kernels.start import mix
from mfpipe.kernels.words import (
    HIGHS,
    ONES,
    first_byte,
    first_bytes,
    low_bytes,
    put_word,
    word,
    zero_bytes,
)

PADDING = 8
NEWLINE = np.uint8(10)
_SPACE, _DELETE = np.uint64(32), np.uint64(127)
_LONG = np.uint64(1) << np.uint64(63)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@kernel
def count_lines(data, size):
    """Newlines among the first `size` bytes."""
    lines = 0
    for at in range(size):
        lines += data[at] == NEWLINE
    return lines


@kernel
def split(data, size, delimiter, slots, starts, lengths, lines, odd_starts, odd_lengths, odd_lines):
    """Where the wanted fields of whole lines lie.

    A line is odd if it has another number of fields than `slots`, or a control character. Blank lines
    are neither kept nor odd.

    Parameters
    ----------
    data : uint8, shape (size + 8,)
        The last of the first `size` bytes ends a line.
    delimiter : uint8
    slots : int64, shape (fields,)
        For each field of a line the row of `starts` that it goes to; -1 if it is not wanted.
    starts, lengths : out, int32, shape (wanted, lines)
    lines : out, int32, shape (lines,)
        Number of each kept line in the data, from 0.
    odd_starts, odd_lengths, odd_lines : out, int32, shape (lines,)

    Returns
    -------
    kept, odd : int
    ascii : bool
        Whether every byte is below 128.
    """
    width = len(slots)
    ends = ONES * np.uint64(delimiter)
    kept, odd, line, at = 0, 0, 0, 0
    high = np.uint64(0)
    while at < size:
        begin = start = at
        fields = 0
        control = False
        while True:
            here = word(data, at)
            high |= here
            marks = low_bytes(here, _SPACE) | zero_bytes(here ^ ends) | zero_bytes(here ^ (ONES * _DELETE))
            if marks == 0:
                at += 8
                continue
            at += first_byte(marks)
            byte = data[at]
            if byte != delimiter and byte != NEWLINE:
                control = True
                at += 1
                continue
            if fields < width and slots[fields] >= 0:
                starts[slots[fields], kept] = start
                lengths[slots[fields], kept] = at - start
            fields += 1
            at += 1
            start = at
            if byte == NEWLINE:
                break
        if fields == width and not control:
            lines[kept] = line
            kept += 1
        elif at - begin > 1:
            odd_starts[odd], odd_lengths[odd], odd_lines[odd] = begin, at - begin, line
            odd += 1
        line += 1
    return kept, odd, (high & HIGHS) == 0


@part
def _keys(data, start, length):
    """Two words that tell texts of up to 15 bytes apart for certain, and longer ones almost always."""
    if length < 8:
        return first_bytes(word(data, start), length), np.uint64(length)
    if length < 16:
        rest = first_bytes(word(data, start + 8), length - 8)
        return word(data, start), rest | (np.uint64(length) << np.uint64(56))
    low, high = np.uint64(length), _GOLDEN
    at = start
    while at < start + length:
        here = word(data, at)
        if start + length - at < 8:
            here = first_bytes(here, start + length - at)
        low = mix(low ^ here)
        high = mix(high + here * _GOLDEN) + low
        at += 8
    return low, high | _LONG


@part
def _same(data, starts, lengths, one, other):
    if lengths[one] != lengths[other]:
        return False
    k = 0
    while k < lengths[one] and data[starts[one] + k] == data[starts[other] + k]:
        k += 1
    return k == lengths[one]


@part
def _slot(table, low, high):
    return np.intp(mix(low ^ (high * _GOLDEN)) & np.uint64(len(table) - 1))


@kernel
def intern(data, starts, lengths, begin, distinct, table, keys, codes, firsts):
    """Number the distinct texts in the order in which they come, until the table is half full.

    Parameters
    ----------
    data : uint8
    starts, lengths : int32, shape (n,)
    begin, distinct : int
        Texts done, and different ones among them.
    table : in and out, int32, shape (a power of two,)
        Codes by the hash of their keys; -1 where there is none.
    keys : in and out, uint64, shape (len(table) // 2, 2)
    codes : in and out, int32, shape (n,)
    firsts : in and out, int32, shape (n,)
        For each code the position in `starts` of the first such text.

    Returns
    -------
    done, distinct : int
    """
    for n in range(begin, len(starts)):
        start, length = np.intp(starts[n]), np.intp(lengths[n])
        low, high = _keys(data, start, length)
        slot = _slot(table, low, high)
        code = table[slot]
        while code >= 0:
            alike = keys[code, 0] == low and keys[code, 1] == high
            if alike and (high < _LONG or _same(data, starts, lengths, firsts[code], n)):
                break
            slot = (slot + 1) & (len(table) - 1)
            code = table[slot]
        if code < 0:
            if distinct == len(keys):
                return n, distinct
            code = np.int32(distinct)
            table[slot] = code
            keys[code, 0], keys[code, 1] = low, high
            firsts[code] = n
            distinct += 1
        codes[n] = code
    return len(starts), distinct


@kernel
def refill(table, keys, distinct):
    """Put the codes of the first `distinct` keys into an empty table."""
    for code in range(distinct):
        slot = _slot(table, keys[code, 0], keys[code, 1])
        while table[slot] >= 0:
            slot = (slot + 1) & (len(table) - 1)
        table[slot] = code


@kernel
def gather(data, starts, lengths, offsets, texts):
    """Copy texts one behind the other.

    Parameters
    ----------
    data : uint8
    starts, lengths : int32, shape (n,)
    offsets : out, int32, shape (n + 1,)
    texts : out, uint8, shape (total length + 8,)
    """
    end = np.intp(0)
    offsets[0] = 0
    for n in range(len(starts)):
        start, length = np.intp(starts[n]), np.intp(lengths[n])
        at = np.intp(0)
        while at < length:
            put_word(texts, end + at, word(data, start + at))
            at += 8
        end += length
        offsets[n + 1] = end
