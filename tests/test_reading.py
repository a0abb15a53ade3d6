"""Rating files: every silent corruption of type-guessing readers, and what is promised instead."""

import csv
import gzip
import math
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfpipe import sources
from mfpipe.errors import ParameterError, RatingsError
from mfpipe.ids import IdMap
from mfpipe.ratings import Ratings, Rules, ingest, read_test
from mfpipe.reading import Columns
from mfpipe.texts import NO_TIME, microseconds
from tests.make import write

ANY = Rules(max_bad_fraction=1.0)
HEADER = "user_id,item_id,rating,date\n"


def lines(*rows: str) -> str:
    return HEADER + "".join(row + "\n" for row in rows)


def known(ratings):
    """{(user id, item id): rating}."""
    return {
        (ratings.users[u], ratings.items[i]): r
        for u, i, r in zip(ratings.user, ratings.item, ratings.rating, strict=True)
    }


def read(tmp_path, text, rules=ANY):
    return ingest([write(tmp_path / "r.csv", text)], rules)


# Ids


@pytest.mark.parametrize(
    "ids",
    [
        ["007", "7", "0042", "42"],
        ["+9", "9", "1_0", "10"],
        ["9007199254740993", "9007199254740992", "-5", "99999999999999999999999"],
        ["1e3", "1000", "1.0", "1"],
        ["NA", "null", "None", "nan", "NaN", "N/A", "True", "False", "true"],
        ["é", "e\u0301", "７", "日本", "=1+1", "<script>", "../x", " x", "x ", "a'b"],
    ],
)
def test_the_ids_out_are_the_ids_in(tmp_path, ids):
    ratings, report = read(tmp_path, lines(*(f"{text},{text},3,2020-01-01" for text in ids)))
    assert set(ratings.users.texts.to_pylist()) == set(ids) == set(ratings.items.texts.to_pylist())
    assert report.rejected == 0
    assert known(ratings) == {(text, text): 3.0 for text in ids}


def test_a_late_text_id_leaves_integers_before_it_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "BLOCK_BYTES", 4096)
    rows = [f"{n},1,3,2020-01-01" for n in range(2000)] + ["x1,1,4,2020-01-01", "007,1,5,2020-01-01"]
    ratings, _ = read(tmp_path, lines(*rows))
    assert len(ratings.users) == 2002
    assert known(ratings)["7", "1"] == 3
    assert known(ratings)["007", "1"] == 5


def test_integer_ids_sort_as_integers_and_others_as_text(tmp_path):
    ratings, _ = read(tmp_path, lines("10,b,1,", "9,a,1,", "-3,B,1,"))
    assert ratings.users.texts.to_pylist() == ["-3", "9", "10"]
    assert ratings.items.texts.to_pylist() == ["B", "a", "b"]


@pytest.mark.parametrize("blank", ["", " ", "   "])
def test_a_blank_id_is_left_out_and_changes_no_other(tmp_path, blank):
    ratings, report = read(tmp_path, lines("9007199254740993,1,3,", f"{blank},1,4,", f"5,{blank},4,"))
    assert ratings.users.texts.to_pylist() == ["9007199254740993"]
    assert dict(report.reasons) == {"user: blank": 1, "item: blank": 1}
    assert [(fault.line, fault.column) for fault in report.faults] == [(3, "user"), (4, "item")]


@pytest.mark.parametrize("bad", ["a\x00b", "a\x1bb", "a\x1a", "\x7f", "\u009b31m", "a\rb"])
def test_control_characters_never_become_ids(tmp_path, bad):
    ratings, report = read(tmp_path, lines("1,1,3,", f"{bad},1,4,"))
    assert ratings.users.texts.to_pylist() == ["1"]
    assert next(iter(report.reasons)).endswith("control character")


# Ratings


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("+3", 3),
        ("-2", -2),
        ("3.", 3),
        (".5", 0.5),
        ("3e0", 3),
        ("35E-1", 3.5),
        ("003", 3),
        ("4.25", 4.25),
    ],
)
def test_every_legal_spelling_of_a_decimal_counts(tmp_path, text, value):
    ratings, _ = read(tmp_path, lines(f"1,1,{text},"))
    assert ratings.rating.tolist() == [value]


@pytest.mark.parametrize(
    "text",
    ["inf", "-inf", "nan", "NaN", "1e400", "", " ", " 3", "3 ", "4*", "0x5", "4_0", "３", "٣", "True", "four", "1;5"],
)  # fmt: skip
def test_what_is_not_a_finite_decimal_is_left_out_with_its_reason(tmp_path, text):
    ratings, report = read(tmp_path, lines("1,1,3,", f"2,1,{text},", "3,1,5,"))
    assert sorted(ratings.users.texts.to_pylist()) == ["1", "3"]
    (fault,) = report.faults
    assert (fault.line, fault.column, fault.text) == (3, "rating", text)
    assert report.record()["rejected"] == 1


def test_a_decimal_comma_is_a_field_too_many_and_not_a_rating_of_three(tmp_path):
    with pytest.raises(RatingsError, match="line 2: 5 fields instead of 4"):
        read(tmp_path, lines("1,1,3,5,2020-01-01"), Rules())


def test_a_rating_out_of_the_stated_range_is_left_out(tmp_path):
    ratings, report = read(tmp_path, lines("1,1,3,", "2,1,6,", "3,1,0.5,"), Rules(Columns(), 1.0, (1, 5)))
    assert ratings.rating.tolist() == [3]
    assert report.reasons == {"rating: outside 1 to 5": 2}


def test_a_late_fraction_stays_a_fraction(tmp_path):
    rows = [f"{n},1,3," for n in range(500)] + ["x,1,3.5,"]
    assert known(read(tmp_path, lines(*rows))[0])["x", "1"] == 3.5


# Structure


def test_a_field_too_many_on_every_line_is_refused_and_shifts_nothing(tmp_path):
    with pytest.raises(RatingsError, match="3 of 3 lines cannot be used.*line 2: 5 fields instead of 4"):
        read(tmp_path, lines("1,2,3,2020-01-01,x", "1,3,3,2020-01-01,x", "1,4,3,2020-01-01,x"))


def test_short_and_torn_lines_are_left_out(tmp_path):
    ratings, report = read(tmp_path, lines("1,2,3,", "1,3", "2,2,4,") + "3,2")
    assert len(ratings) == 2
    assert [(fault.line, fault.reason) for fault in report.faults] == [
        (3, "2 fields instead of 4"),
        (5, "2 fields instead of 4"),
    ]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("user_id,item_id,rating,rating", "2 columns could be the rating column"),
        ("user_id,item_id,movie_id,rating", "2 columns could be the item column .item_id, movie_id."),
        ("user_id,rating,date", "no item column"),
        ("1,31,2.5,1260759144", "no user column .* give --columns"),
    ],
)
def test_an_unusable_header_is_refused(tmp_path, header, message):
    with pytest.raises(RatingsError, match=rf"r\.csv, line 1: {message}"):
        read(tmp_path, header + "\n1,2,3,4\n")


def test_columns_are_found_in_any_order_case_and_company(tmp_path):
    ratings, _ = read(tmp_path, "Title, Rating ,MovieId,userId\nx,3,7,9\ny,4,8,9\n")
    assert known(ratings) == {("9", "7"): 3.0, ("9", "8"): 4.0}


def test_named_columns_settle_what_is_ambiguous(tmp_path):
    rules = Rules(Columns(item="movie_id"))
    ratings, _ = read(tmp_path, "user_id,item_id,movie_id,rating\n1,2,3,4\n", rules)
    assert known(ratings) == {("1", "3"): 4.0}


def test_a_file_without_header_keeps_its_first_line(tmp_path):
    rules = Rules(Columns(names=("user", "item", "rating", "time"), delimiter="\t"))
    ratings, report = read(tmp_path, "196\t242\t3\t881250949\n186\t302\t3\t891717742\n", rules)
    assert report.rows == len(ratings) == 2
    assert ratings.time.min() == 881250949 * 10**6


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_the_delimiter_is_the_headers(tmp_path, delimiter):
    text = lines("1,2,3,2020-01-01").replace(",", delimiter)
    assert known(read(tmp_path, text)[0]) == {("1", "2"): 3.0}


@pytest.mark.parametrize("n", [1, 7, 129, 2**16, 2**16 + 1, 2**17 + 9, 1_000_003])
def test_the_spread_of_ratings_is_numpys_to_the_last_bit(n):
    rows, ids = np.zeros(n, np.int32), IdMap(pa.array(["0"]))
    for values in (np.random.default_rng(n).lognormal(0, 5, n), np.full(n, 0.1)):
        assert Ratings(rows, rows, values, None, ids, ids).spread == float(values.std())


def test_a_header_inside_the_file_is_a_line_left_out_whatever_the_block_size(tmp_path, monkeypatch):
    text = lines(*(f"{n},1,3," for n in range(50))) + lines(*(f"{n},2,3," for n in range(50)))
    whole, report = read(tmp_path, text)
    assert report.faults[0].line == 52
    for size in (40, 97, 4096):
        monkeypatch.setattr(sources, "BLOCK_BYTES", size)
        again, other = read(tmp_path, text)
        assert again.fingerprint() == whole.fingerprint()
        assert other.faults == report.faults


def test_quoted_ids_may_hold_delimiters_but_no_line_ends(tmp_path, monkeypatch):
    text = lines('"a,b","say ""hi""",3,', '"x\ny,1,5,\nz",1,4,', "plain,1,2,")
    for size in (16, 1 << 20):
        monkeypatch.setattr(sources, "BLOCK_BYTES", size)
        ratings, report = read(tmp_path, text)
        assert known(ratings) == {("a,b", 'say "hi"'): 3.0, ("plain", "1"): 2.0}
        assert [(fault.line, fault.reason) for fault in report.faults] == [(3, "control character")]


def test_a_quote_never_closed_is_refused_at_its_line(tmp_path):
    with pytest.raises(RatingsError, match="line 3: a quote that is opened here is never closed"):
        read(tmp_path, lines("1,1,3,", '"2,1,3,', "3,1,3,"))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", [True, False])
def test_line_ends_of_every_kind_and_a_missing_last_one(tmp_path, end, last):
    text = lines("1,1,3,", "", "2,1,4,").replace("\n", end)
    ratings, report = read(tmp_path, text if last else text.removesuffix(end))
    assert known(ratings) == {("1", "1"): 3.0, ("2", "1"): 4.0}
    assert report.rows == 2


def test_line_numbers_count_blank_lines_and_the_header(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "BLOCK_BYTES", 32)
    _, report = read(tmp_path, "\n\n" + lines("1,1,3,", "", "", "2,1,x,", "3,1,3,", "4,y"))
    assert [fault.line for fault in report.faults] == [7, 9]


# Encodings


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    first = write(tmp_path / "a.csv", b"\xef\xbb\xbf" + lines("1,1,3,").encode())
    later = write(tmp_path / "b.csv", b"\xef\xbb\xbf" + lines("2,1,3,").encode())
    assert ingest([first, later])[0].users.texts.to_pylist() == ["1", "2"]


def test_a_latin_1_byte_is_left_out_with_its_line(tmp_path):
    ratings, report = read(tmp_path, lines("1,1,3,").encode() + b"caf\xe9,1,3,\n" + "café,1,4,\n".encode())
    assert ratings.users.texts.to_pylist() == ["1", "café"]
    assert (report.faults[0].line, report.faults[0].reason) == (3, "not UTF-8")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_refused(tmp_path, encoding):
    bom = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}.get(encoding, b"")
    with pytest.raises(RatingsError, match=r"r\.csv: UTF-16 text; convert it to UTF-8"):
        read(tmp_path, bom + lines("1,1,3,").encode(encoding))


# Files


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "empty"), ("\n\n\n", "empty, or blank lines only"), (HEADER, "a header and no data line")],
)
@pytest.mark.parametrize("place", ["a.csv", "z.csv"])  # read first, read last
def test_a_file_with_nothing_in_it_is_named_wherever_it_stands(tmp_path, text, message, place):
    write(tmp_path / "m.csv", lines("1,1,3,"))
    write(tmp_path / place, text)
    with pytest.raises(RatingsError, match=rf"{place}: {message}"):
        ingest([tmp_path])


def test_files_with_other_headers_are_each_read_by_their_own(tmp_path):
    write(tmp_path / "a.csv", "user,item,rating\n1,2,3\n")
    write(tmp_path / "b.csv", "rating;movie_id;user_id\n4;5;6\n")
    assert known(ingest([tmp_path])[0]) == {("1", "2"): 3.0, ("6", "5"): 4.0}


def test_the_order_of_files_and_lines_never_matters(tmp_path):
    rows = [f"{n % 7},{n % 11},{1 + n % 5},2020-01-{1 + n % 28:02d}" for n in range(200)]
    whole = write(tmp_path / "whole.csv", lines(*rows))
    parts = [write(tmp_path / f"{name}.csv", lines(*rows[k::2][::-1])) for k, name in enumerate("ba")]
    first, again = ingest([whole])[0], ingest(parts)[0]
    assert first.fingerprint() == again.fingerprint()
    np.testing.assert_array_equal(first.rating, again.rating)


def test_the_same_file_twice_is_read_once(tmp_path):
    path = write(tmp_path / "a.csv", lines("1,1,3,"))
    assert ingest([path, path, str(tmp_path / "*.csv")])[1].rows == 1


def test_gzip_is_known_by_its_bytes_and_read_to_its_last_member(tmp_path):
    half = gzip.compress(lines("1,1,3,").encode()) + gzip.compress(b"2,1,4,\n")
    ratings, _ = ingest([write(tmp_path / "misnamed.csv", half)])
    assert known(ratings) == {("1", "1"): 3.0, ("2", "1"): 4.0}


@pytest.mark.parametrize("damage", ["truncated", "checksum", "garbage"])
def test_damaged_gzip_is_refused(tmp_path, damage):
    data = bytearray(gzip.compress(lines(*(f"{n},1,3," for n in range(500))).encode()))
    if damage == "truncated":
        del data[-30:]
    elif damage == "checksum":
        data[-6] ^= 1
    else:
        data[40] ^= 0xFF
    with pytest.raises(RatingsError, match=r"r\.csv\.gz: damaged gzip data"):
        ingest([write(tmp_path / "r.csv.gz", bytes(data))])


def test_a_zip_archive_is_refused(tmp_path):
    with pytest.raises(RatingsError, match="zip archive"):
        ingest([write(tmp_path / "r.zip", b"PK\x03\x04rest")])


def test_a_line_without_end_is_refused_in_bounded_memory(tmp_path):
    bomb = gzip.compress(HEADER.encode() + b"1" * (40 << 20))
    with pytest.raises(RatingsError, match="a line longer than"):
        ingest([write(tmp_path / "r.csv.gz", bomb)])


def test_what_is_no_file_of_ratings_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "dangling.csv").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    (tmp_path / "device.csv").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "fifo.csv")
    for name, message in {
        "empty": "no rating files",
        "missing.csv": "no such file",
        "*.none": "no file matches",
        "dangling.csv": "No such file",
        "loop.csv": "symbolic links",
        "device.csv": "not a regular file",
        "fifo.csv": "not a regular file",
    }.items():
        with pytest.raises(RatingsError, match=message):
            ingest([str(tmp_path / name)])


# Parquet


def test_parquet_keeps_ids_as_they_are(tmp_path):
    table = pa.table({"user": ["007", "7", "NA"], "item": pa.array([2**53 + 1, 2, 3]), "rating": [1.5, 2, 3]})
    pq.write_table(table, tmp_path / "r.parquet")
    ratings, _ = ingest([tmp_path])
    assert known(ratings) == {("007", "9007199254740993"): 1.5, ("7", "2"): 2.0, ("NA", "3"): 3.0}


def test_parquet_nulls_and_nans_are_left_out(tmp_path):
    table = pa.table({"user": ["1", None, "3"], "item": [1, 2, 3], "rating": [1.0, 2.0, math.nan]})
    pq.write_table(table, tmp_path / "r.parquet")
    ratings, report = ingest([tmp_path], ANY)
    assert known(ratings) == {("1", "1"): 1.0}
    assert [(fault.line, fault.column) for fault in report.faults] == [(2, "user"), (3, "rating")]


def test_parquet_ids_that_are_floats_are_refused(tmp_path):
    pq.write_table(pa.table({"user": [1.0], "item": [1], "rating": [1]}), tmp_path / "r.parquet")
    with pytest.raises(RatingsError, match="column user holds double, and an id is text or an integer"):
        ingest([tmp_path])


def test_damaged_parquet_is_refused(tmp_path):
    pq.write_table(pa.table({"user": [1], "item": [1], "rating": [1]}), tmp_path / "r.parquet")
    data = bytearray((tmp_path / "r.parquet").read_bytes())
    (tmp_path / "r.parquet").write_bytes(data[:-20])
    with pytest.raises(RatingsError, match="damaged Parquet"):
        ingest([tmp_path])


# Duplicates


def test_duplicates_are_counted_and_never_summed(tmp_path):
    rows = lines("1,1,3,2020-01-01", "1,1,4,2021-01-01", "2,1,1,2020-01-01")
    latest, report = read(tmp_path, rows)
    assert known(latest) == {("1", "1"): 4.0, ("2", "1"): 1.0}
    assert (report.duplicates, report.accepted, report.ratings) == (1, 3, 2)
    assert known(read(tmp_path, rows, Rules(duplicates="mean"))[0])["1", "1"] == 3.5
    with pytest.raises(RatingsError, match="user 1, item 1: rated more than once"):
        read(tmp_path, rows, Rules(duplicates="error"))


def test_ties_and_ratings_without_times_are_averaged(tmp_path):
    ties = lines("1,1,3,2020-01-01", "1,1,5,2021-01-01", "1,1,2,2021-01-01")
    assert known(read(tmp_path, ties)[0])["1", "1"] == 3.5
    assert known(read(tmp_path, "user,item,rating\n1,1,3\n1,1,5\n1,1,4\n")[0])["1", "1"] == 4.0


@given(st.permutations([("0.1", "2020-01-01"), ("0.2", "2020-01-01"), ("0.7", "2020-01-01"), ("9", "x")]))
def test_the_order_of_duplicates_never_matters(tmp_path_factory, rows):
    text = lines(*(f"1,1,{rating},{date}" for rating, date in rows))
    ratings, _ = read(tmp_path_factory.mktemp("d"), text)
    assert ratings.rating.tolist() == [(0.1 + 0.2 + 0.7) / 3]


# Times


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-02", 86400),
        ("1970-01-01T00:00:01Z", 1),
        ("1970-01-01 02:00:00+02:00", 0),
        ("881250949", 881250949),
        ("-1.5", -1.5),
        ("0001-01-01", -62135596800),
    ],
)
def test_times_are_iso_8601_or_epoch_seconds(text, seconds):
    assert microseconds(text) == seconds * 10**6


@pytest.mark.parametrize("text", ["", "13/01/2020", "02/01/2020", "2020-02-30", "yesterday", "2020-1-1", "٣"])
def test_other_times_are_not_guessed_at(tmp_path, text):
    assert microseconds(text) == NO_TIME
    ratings, report = read(tmp_path, lines(f"1,1,3,{text}", "2,1,3,2020-01-01"))
    assert len(ratings) == 2
    assert report.times_unreadable == 1


# The limit, the quarantine, and test files


def test_over_the_limit_the_input_is_refused_and_the_first_line_named(tmp_path):
    rows = lines(*(f"{n},1,3," for n in range(98)), "98,1,x,", "99,1,y,")
    with pytest.raises(
        RatingsError, match=r"2 of 100 lines .* line 100, column rating: not a finite .* \('x'\)"
    ):
        read(tmp_path, rows, Rules())
    ratings, report = read(tmp_path, rows, Rules(max_bad_fraction=0.02))
    assert (len(ratings), report.rejected) == (98, 2)


def test_the_quarantine_lists_every_line_left_out(tmp_path):
    path = tmp_path / "q.csv"
    read_rules = Rules(max_bad_fraction=1.0)
    source = write(tmp_path / "r.csv", lines("1,1,3,", "2,1,\x1b[31m,", "3,,4,", "4,5"))
    _, report = ingest([source], read_rules, path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["line"], row["column"], row["reason"]) for row in rows] == [
        ("3", "", "control character"),
        ("4", "item", "blank"),
        ("5", "", "2 fields instead of 4"),
    ]
    assert {row["file"] for row in rows} == {source}
    assert "\x1b" not in path.read_text()
    assert report.record()["quarantine"] == str(path)
    assert report.record()["reasons"] == {"control character": 1, "item: blank": 1, "fields instead of 4": 1}


def test_nothing_but_unusable_lines_is_refused_whatever_the_limit(tmp_path):
    with pytest.raises(RatingsError, match="1 of 1 lines cannot be used"):
        read(tmp_path, lines("1,1,x,"), ANY)


def test_test_records_keep_their_order_and_their_numbers(tmp_path):
    text = lines("9,1,3,", "1,1,x,", "5,2,4,", "", "9,1,5,")
    test, report = read_test([write(tmp_path / "t.csv", text)], ANY)
    assert test.user.to_pylist() == ["9", "5", "9"]
    assert test.rating.tolist() == [3, 4, 5]
    assert test.record.tolist() == [0, 2, 3]
    assert report.rejected == 1


@pytest.mark.parametrize("fraction", [-0.1, 1.1, math.nan])
def test_a_limit_outside_0_to_1_is_refused(fraction):
    with pytest.raises(ParameterError, match="--max-bad-fraction"):
        Rules(max_bad_fraction=fraction)
