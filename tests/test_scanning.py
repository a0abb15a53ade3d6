"""The compiled way of reading gives what the plain way gives, whatever the blocks and threads."""

from contextlib import ExitStack
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mfpipe import reading, scanning, sources, texts
from mfpipe.cores import in_order
from mfpipe.errors import RatingsError
from mfpipe.ratings import Rules, ingest, read_test
from mfpipe.reading import Columns, Fault
from mfpipe.texts import decimals, id_fault, id_faults, microseconds, moments
from tests.make import write

NEVER = 1 << 62

ids = st.one_of(
    st.integers(0, 30).map(str),
    st.sampled_from(["007", "7", "0042", "-5", "+9", "1e3", "1.0", "NA", "null", "日本", "é", "ｘ", "=1+1"]),
    st.sampled_from(
        ["", " ", " x", "\u00a0", "\u009b", "a\x00b", "a\x1bb", "\x7f", "a\rb", "99999999999999999999"]
    ),
    st.text(st.characters(codec="utf-8", exclude_characters='"\n\r,;'), max_size=25),
    st.integers(0, 40).map(lambda n: f"user-{n:05d}"),
    st.integers(6, 40).map(lambda n: "x" * n),
)
values = st.one_of(
    st.sampled_from(
        [
            "1",
            "2",
            "3",
            "3.5",
            "4.25",
            "+3",
            "-2",
            "-0",
            "3.",
            ".5",
            "35E-1",
            "003",
            "1e400",
            "nan",
            "4*",
            "3,5",
            "0x5",
            "４",
        ]
    ),
    st.sampled_from(
        ["", " ", "123456789012345.123456789012345", "1234567890123456", "0.1", "0.30000000000000004"]
    ),
    st.floats(-1e6, 1e6).map(str),
)
times = st.one_of(
    st.dates().map(str),
    st.datetimes().map(lambda t: t.strftime("%Y-%m-%dT%H:%M:%SZ").rjust(20, "0")),
    st.datetimes().map(str),
    st.integers(-(10**13), 10**13).map(str),
    st.sampled_from(["", "2020-02-30", "1900-02-29", "2000-02-29", "0000-01-01", "2020-1-1", "-", "-1.5", "5.", "٣"]),
    st.sampled_from(["2020-01-01 24:00:00", "2020-01-01x10:00:00", "2020-01-01T10:00:60", "2020-01-01 10-00-00"]),
)  # fmt: skip
good = st.tuples(
    st.integers(0, 9).map(str), st.integers(0, 9).map(str), st.sampled_from("12345"), st.dates().map(str)
)
any_line = st.one_of(
    good.map(",".join),
    st.tuples(ids, ids, values, times).map(",".join),
    st.sampled_from(["", "1,2", "1,2,3,4,5", ",,,", "user_id,item_id,rating,date", "\r", '"a,b",1,3,', '"x']),
).map(str.encode)
lines = st.lists(st.one_of(any_line, good.map(lambda row: ",".join(row).encode()), st.just(b"caf\xe9,1,3,")), max_size=40)  # fmt: skip
WAYS = [(64, 1), (100, 3), (1 << 20, 2)]


def outcome(path, compiled: bool, block_bytes: int, threads: int):
    """All that reading gives away, or its error."""
    with ExitStack() as stack:
        for room in (scanning, texts):
            stack.enter_context(patch.object(room, "COMPILED_FROM", 0 if compiled else NEVER))
        stack.enter_context(patch.object(sources, "BLOCK_BYTES", block_bytes))
        stack.enter_context(patch.object(reading, "available_cores", lambda: threads))
        try:
            ratings, report = ingest([path], Rules(max_bad_fraction=1.0))
            test, _ = read_test([path], Rules(max_bad_fraction=1.0))
        except RatingsError as error:
            return str(error)
    every = (ratings.user, ratings.item, ratings.rating, ratings.time, test.rating, test.record)
    return [
        report.record(),
        report.faults,
        ratings.users.texts.to_pylist(),
        test.user.to_pylist(),
        *(array.tobytes() for array in every),
    ]


@settings(max_examples=150, deadline=None)
@given(lines, st.sampled_from([b"\n", b"\r\n"]), st.booleans())
@example([b"1,1,-0,", b"2,1,3,", b"2,1,4,"], b"\n", True)
@example([b"1,1,3,2020-01-01", b"\xc2\x9b,1,3,", b"caf\xe9,1,3,"], b"\n", True)
def test_every_way_of_reading_gives_the_same(tmp_path_factory, rows, end, last):
    text = end.join([b"user_id,item_id,rating,date", *rows]) + (end if last else b"")
    path = write(tmp_path_factory.mktemp("r") / "r.csv", text)
    plain = outcome(path, False, 1 << 20, 1)
    for block_bytes, threads in WAYS:
        assert outcome(path, True, block_bytes, threads) == plain
    assert outcome(path, False, 64, 3) == plain


def test_a_large_file_gives_the_same_with_faults_in_every_block(tmp_path):
    rng = np.random.default_rng(3)
    rows = [f"u{u},{i},{r},{t}" for u, i, r, t in rng.integers(1, 5000, (40_000, 4)).tolist()]
    for at in range(0, len(rows), 997):
        rows[at] = ("x" * (at % 7)) + rows[at].replace(",", ("", ",,", "\x01,", "é,")[at % 4])
    path = write(tmp_path / "r.csv", "user,item,rating,time\n" + "\n".join(rows))
    plain = outcome(path, False, 1 << 24, 1)
    assert plain[0]["rejected"] > 20
    for block_bytes, threads in [(1 << 14, 1), (1 << 16, 4), (1 << 24, 2)]:
        assert outcome(path, True, block_bytes, threads) == plain


@pytest.mark.parametrize("delimiter", ["\t", ";", "|", "\x01", " "])
def test_columns_lie_where_the_header_says_whatever_the_delimiter(tmp_path, delimiter):
    text = "date,x,item,y,user,rating\n1970-01-02,,b,,a,3\n0,,d,,c,4\n".replace(",", delimiter)
    path = write(tmp_path / "r.csv", text)
    with patch.object(scanning, "COMPILED_FROM", 0):
        ratings, _ = ingest([path], Rules(Columns(delimiter=delimiter)))
    assert (ratings.users.texts.to_pylist(), ratings.items.texts.to_pylist()) == (["a", "c"], ["b", "d"])
    assert ratings.time.tolist() == [86400 * 10**6, 0]


@given(
    st.lists(
        st.text(st.characters(codec="ascii", exclude_characters="\n\r,\x7f", min_codepoint=32), max_size=40)
    )
)
def test_distinct_texts_are_numbered_once(fields):
    column = pa.array(fields, pa.string())
    block = "".join(f"{text},\n" for text in fields).encode()
    scanned = scanning.scan(block, ",", 2, {"user": 0}, ("user",))
    assert scanned.columns["user"].equals(column.dictionary_encode())
    assert scanned.lines.tolist() == list(range(len(fields)))
    assert scanned.ascii


def test_more_distinct_texts_than_the_first_table_holds():
    fields = [f"{n % 9000}" * (1 + n % 5) for n in range(20_000)]
    block = "".join(f"{text};x\n" for text in fields).encode()
    column = scanning.scan(block, ";", 2, {"user": 0}, ("user",)).columns["user"]
    assert column.equals(pa.array(fields).dictionary_encode())


@given(st.lists(times, min_size=1))
def test_moments_are_those_of_the_one_rule(column):
    with patch.object(texts, "COMPILED_FROM", 0):
        assert moments(pa.array(["x", *column])[1:]).tolist() == [microseconds(text) for text in column]


@given(st.lists(values))
def test_decimals_are_as_python_reads_them(column):
    found, reasons = decimals(pa.array(column, pa.string()), None)
    for at, text in enumerate(column):
        if at not in reasons:
            assert found[at].hex() == float(text).hex()


@given(st.lists(ids))
def test_faults_of_ids_are_those_of_the_one_rule(column):
    found = id_faults(pa.array(column, pa.string()))
    assert found == {at: id_fault(text) for at, text in enumerate(column) if id_fault(text)}


def test_an_error_of_a_later_block_does_not_overtake_one_before_it():
    def numbers():
        yield from range(3)
        raise RatingsError("the source")

    def work(n):
        if n == 2:
            raise RatingsError("the work")
        return n

    for threads in (1, 2, 8):
        results = in_order(work, numbers(), threads)
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(RatingsError, match="the work"):
            next(results)


def test_faults_name_their_lines_in_the_file(tmp_path):
    path = write(tmp_path / "r.csv", "user,item,rating\n\n1,1,3\n1\n\n2,2,x\n3,3,3\n")
    with patch.object(scanning, "COMPILED_FROM", 0):
        _, report = ingest([path], Rules(max_bad_fraction=1.0))
    assert report.faults == [
        Fault(path, 4, "", "1 fields instead of 3", "1"),
        Fault(path, 6, "rating", "not a finite decimal number", "x"),
    ]
