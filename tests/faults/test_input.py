"""Bad input: every group of faults, each case with a file of its own and what it must get.

Each case goes through `mfpipe train` as a user would start it: the exit code, the words, the counts; no
traceback, and nothing published where the input is refused.
"""

import gzip
import io
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mfpipe import sources
from tests.commands import ran
from tests.make import write

HEAD = "user,item,rating,time\n"
GOOD = "".join(f"u{n % 7},{n % 5},{1 + n % 5},2020-01-{1 + n % 28:02d}\n" for n in range(35))
N = 35
LIMIT = ("--max-bad-fraction", "0.2")


def with_rows(*rows: str) -> str:
    """A good file with some rows in its middle."""
    half = GOOD.splitlines(keepends=True)
    return HEAD + "".join(half[:20]) + "".join(row + "\n" for row in rows) + "".join(half[20:])


@dataclass
class Case:
    """A file (or several, or a way to make them), and what becomes of it.

    `code` is the exit code; `words` all stand in the error output; `ratings` and `rejected` are the counts
    of an input that is accepted; `users` the ids that must be among those trained on, and `absent` not.
    """

    name: str
    files: str | bytes | dict | Callable
    code: int = 0
    words: tuple = ()
    options: tuple = ()
    ratings: int | None = None
    rejected: int = 0
    users: set = field(default_factory=set)
    absent: set = field(default_factory=set)
    inputs: tuple = ("*.csv*",)


def accepted(name, files, extra=0, rejected=0, **more):
    return Case(name, files, ratings=N + extra, rejected=rejected, **more)


def left_out(name, row, reason, **more):
    """One row that is quarantined for a reason, under a limit that allows it; refused without."""
    files = row if callable(row) else with_rows(row) if isinstance(row, str) else row
    allowed = accepted(
        name, files, rejected=1, words=(reason, "1 of 36 lines left out"), options=LIMIT, **more
    )
    refused = Case(
        name + ", strict", files, 3, (reason, "1 of 36 lines cannot be used", ".csv, line"), ("--strict",)
    )
    return [allowed, refused]


def refused(name, files, *words, **more):
    return Case(name, files, 3, words, **more)


def gz(text: str | bytes) -> bytes:
    return gzip.compress(text.encode() if isinstance(text, str) else text)


def zipped(*names: str) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name in names:
            archive.writestr(name, HEAD + GOOD)
    return held.getvalue()


def broken_gzip(at: int) -> bytes:
    data = bytearray(gz(HEAD + GOOD))
    data[at] ^= 0xFF
    return bytes(data)


ENCODING = [
    accepted("BOM", "\ufeff" + HEAD + GOOD),
    accepted(
        "BOM in a later file", {"a.csv": HEAD + GOOD, "b.csv": "\ufeff" + HEAD + "x,1,3,\n"}, 1, users={"x"}
    ),
    refused("UTF-16", (HEAD + GOOD).encode("utf-16"), "UTF-16 text; convert it to UTF-8"),
    refused("UTF-16 big-endian", b"\xfe\xff" + (HEAD + GOOD).encode("utf-16-be"), "UTF-16 text"),
    refused("UTF-16 without a mark", (HEAD + GOOD).encode("utf-16-le"), "r.csv, line 1"),
    refused("Latin-1 in the header", "usér,item,rating\n1,2,3\n".encode("latin-1"), "line 1: not UTF-8"),
    *left_out("Latin-1 in an id", with_rows("café,1,3,").encode("latin-1"), "not UTF-8"),
    *left_out("half a UTF-8 character", with_rows("x,1,3,").encode().replace(b"x,1", b"\xc3,1"), "not UTF-8"),
    *left_out(
        "a surrogate in UTF-8", with_rows("Q,1,3,").encode().replace(b"Q", b"\xed\xa0\x80"), "not UTF-8"
    ),
    *left_out("NUL", "a\x00b,1,3,", "control character"),
    *left_out("escape", "\x1b[31mred,1,3,", "control character"),
    *left_out("bell in a rating", "x,1,3\x07,", "control character"),
    *left_out("C1 control", "\x9b31m,1,3,", "control character"),
    *left_out("Ctrl-Z", "x\x1a,1,3,", "control character"),
    *left_out("Ctrl-Z at the end, as DOS writes it", (HEAD + GOOD + "\x1a").encode(), "control character"),
    *left_out("vertical tab", "x\x0b,1,3,", "control character"),
    accepted("CRLF", (HEAD + GOOD).replace("\n", "\r\n")),
    accepted("CR only", (HEAD + GOOD).replace("\n", "\r")),
    *left_out("a lone CR in an id", "a\rb,1,3,", "control character"),
    accepted("no final newline", (HEAD + GOOD).rstrip("\n")),
    accepted("no final newline after CRLF", (HEAD + GOOD).replace("\n", "\r\n").removesuffix("\r\n")),
    *left_out("torn last row", (HEAD + GOOD + "u1,2").encode(), "2 fields instead of 4"),
    *left_out("row torn in the middle", "u1,2", "2 fields instead of 4"),
]

STRUCTURE = [
    refused("empty", "", "r.csv: empty"),
    refused("blank lines only", "\n\n\n", "blank lines only"),
    refused("spaces only", "   \n   \n", "r.csv, line 1: no user column"),
    refused("header only", HEAD, "a header and no data line"),
    refused("headerless", GOOD, "line 1: no user column", "--columns"),
    accepted("headerless, named", GOOD, options=("--columns", "user,item,rating,time")),
    refused(
        "too few names",
        GOOD,
        "lines cannot be used",
        "4 fields instead of 3",
        options=("--columns", "user,item,rating"),
    ),
    accepted("semicolons", (HEAD + GOOD).replace(",", ";")),
    accepted("tabs", (HEAD + GOOD).replace(",", "\t")),
    accepted("bars", (HEAD + GOOD).replace(",", "|")),
    refused("spaces between", (HEAD + GOOD).replace(",", " "), "no user column"),
    refused("another delimiter than said", HEAD + GOOD, "no user column", options=("--delimiter", ";")),
    *left_out("decimal comma", "x,1,3,5,2020-01-01", "5 fields instead of 4"),
    *left_out(
        "decimal comma between semicolons",
        with_rows("x;1;3,5;").encode().replace(b",", b";").replace(b"x;1;3;5;", b"x;1;3,5;"),
        "not a finite decimal number",
    ),
    refused("no rating column", "user,item\n1,2\n", "no rating column"),
    refused("no item column", "user,rating\n1,2\n", "no item column"),
    refused("no user column", "item,rating\n1,2\n", "no user column"),
    refused(
        "two rating columns", "user,item,rating,rating\n1,2,3,4\n", "2 columns could be the rating column"
    ),
    refused(
        "item and movie_id",
        "user,item,movie_id,rating\n1,2,3,4\n",
        "2 columns could be the item column",
        "--item-column",
    ),
    accepted(
        "item and movie_id, chosen",
        (HEAD + GOOD).replace("user,item", "item,user").replace("item,user", "user,item"),
        options=("--item-column", "item"),
    ),
    refused(
        "a chosen column that is not there",
        HEAD + GOOD,
        "no item column (film)",
        options=("--item-column", "film"),
    ),
    refused(
        "one column in two roles",
        HEAD + GOOD,
        "one column is asked for in two roles",
        options=("--user-column", "item"),
    ),
    accepted(
        "another column", "title," + HEAD + "".join("x," + line for line in GOOD.splitlines(keepends=True))
    ),
    accepted(
        "another order", "rating,user,item\n" + "".join(f"{1 + n % 5},u{n % 7},{n % 5}\n" for n in range(35))
    ),
    accepted("spaces and capitals in the header", " User , ITEM,Rating ,Time\n" + GOOD),
    refused("an empty name twice is no matter, a missing one is", ",,rating\n1,2,3\n", "no user column"),
    *left_out("a field too many in one row", "x,1,3,2020-01-01,", "5 fields instead of 4"),
    refused(
        "a field too many in all rows",
        HEAD + GOOD.replace("\n", ",x\n"),
        "35 of 35 lines cannot be used",
        "line 2: 5 fields instead of 4",
    ),
    *left_out("short row", "x,1,3", "3 fields instead of 4"),
    *left_out("one word", "x", "1 fields instead of 4"),
    *left_out("header repeated inside", "user,item,rating,time", "not a finite decimal number"),
    refused("unclosed quote", with_rows('"x,1,3,'), "line 22: a quote that is opened here is never closed"),
    *left_out("a quote inside a field", '"x"y,1,3,', "misplaced quote"),
    *left_out("newline in quotes", '"a\nb",1,3,', "control character"),
    *left_out(
        "newline in quotes that forges a row", '"a\nu1,1,5,\nb",1,3,', "control character", absent={"b"}
    ),
    accepted("quoted ids", with_rows('"x, y",1,3,', '"say ""hi""",1,3,'), 2, users={"x, y", 'say "hi"'}),
    accepted("blank lines between", (HEAD + GOOD).replace("\n", "\n\n")),
    accepted("blank lines before the header", "\n\n" + HEAD + GOOD),
    refused("a comment before the header", "# ratings\n" + HEAD + GOOD, "line 1: no user column"),
    refused("JSON", '[{"user": 1, "item": 2, "rating": 3}]\n', "line 1"),
    refused("HTML", "<!doctype html>\n<html></html>\n", "line 1: no user column"),
    refused(
        "a line without end",
        HEAD + "x" * (sources.LINE_LIMIT + sources.BLOCK_BYTES + 9),
        "a line longer than",
    ),
    refused("a quoted record without end", HEAD + '"' + 'a\n","b' * 400_000, "a quoted record longer than"),
    refused("a field over the limit", HEAD + GOOD + '"' + "x" * 200_000 + '",1,3,\n', "line 37"),
]

FILES = [
    accepted(
        "different headers",
        {"a.csv": HEAD + GOOD, "b.csv": "rating;movie_id;userId\n4;5;x\n"},
        1,
        users={"x"},
    ),
    accepted(
        "different headers, the other way",
        {"b.csv": HEAD + GOOD, "a.csv": "rating;movie_id;userId\n4;5;x\n"},
        1,
        users={"x"},
    ),
    refused("one headerless", {"a.csv": HEAD + GOOD, "b.csv": GOOD}, "b.csv, line 1: no user column"),
    refused("the first headerless", {"b.csv": HEAD + GOOD, "a.csv": GOOD}, "a.csv, line 1: no user column"),
    refused("the first empty", {"a.csv": "", "b.csv": HEAD + GOOD}, "a.csv: empty"),
    refused("a later one empty", {"a.csv": HEAD + GOOD, "b.csv": ""}, "b.csv: empty"),
    refused(
        "a later one with a header only",
        {"a.csv": HEAD + GOOD, "b.csv": HEAD},
        "b.csv: a header and no data line",
    ),
    accepted("the same file twice", HEAD + GOOD, inputs=("r.csv", "./r.csv", "*.csv")),
    accepted("the same rows in two files", {"a.csv": HEAD + GOOD, "b.csv": HEAD + GOOD}),
    refused("a missing one among them", HEAD + GOOD, "no.csv: no such file", inputs=("r.csv", "no.csv")),
    accepted("one without times", {"a.csv": HEAD + GOOD, "b.csv": "user,item,rating\nx,1,3\n"}, 1),
]

CONTAINERS = [
    accepted("gzip", {"r.csv.gz": gz(HEAD + GOOD)}),
    accepted("gzip, misnamed", {"r.csv": gz(HEAD + GOOD)}),
    accepted("plain, named .gz", {"r.csv.gz": HEAD + GOOD}),
    accepted("gzip of two members", {"r.csv.gz": gz(HEAD) + gz(GOOD)}),
    refused("gzip, truncated", {"r.csv.gz": gz(HEAD + GOOD)[:-20]}, "r.csv.gz: damaged gzip data"),
    refused("gzip, its last byte missing", {"r.csv.gz": gz(HEAD + GOOD)[:-1]}, "damaged gzip data"),
    refused("gzip with a bad CRC", {"r.csv.gz": broken_gzip(-6)}, "damaged gzip data", "CRC"),
    refused("gzip with a bad length", {"r.csv.gz": broken_gzip(-2)}, "damaged gzip data"),
    refused("gzip with bad bytes inside", {"r.csv.gz": broken_gzip(30)}, "damaged gzip data"),
    refused("gzip, then garbage", {"r.csv.gz": gz(HEAD + GOOD) + b"garbage"}, "damaged gzip data"),
    refused("gzip of gzip", {"r.csv.gz": gz(gz(HEAD + GOOD))}, "r.csv.gz, line 1"),
    refused("gzip of nothing", {"r.csv.gz": gz("")}, "empty"),
    refused("zip", {"r.csv": zipped("r.csv")}, "a zip archive; unpack it first"),
    refused("zip of two members", {"r.csv": zipped("a.csv", "b.csv")}, "a zip archive"),
    refused("zip with a path", {"r.csv": zipped("../../r.csv")}, "a zip archive"),
    refused("empty zip", {"r.csv": zipped()}, "a zip archive"),
    refused("bzip2", {"r.csv": b"BZh91AY&SY"}, "bzip2 data; decompress it first"),
    refused("xz", {"r.csv": b"\xfd7zXZ\x00"}, "xz data"),
    refused("Zstandard", {"r.csv": b"\x28\xb5\x2f\xfd\x00"}, "Zstandard data"),
    refused("a bomb of one line", {"r.csv.gz": gz(HEAD + "1" * (40 << 20))}, "a line longer than"),
    refused("a bomb of nothing", {"r.csv.gz": gz(HEAD + "\n" * (17 << 20))}, "a header and no data line"),
    refused("a bomb of NULs", {"r.csv.gz": gz(b"\0" * (40 << 20))}, "r.csv.gz"),
    refused("damaged Parquet", {"r.csv": b"PAR1 and no more"}, "damaged Parquet file"),
]

KEPT_IDS = [
    "007", "7", "0042", "1.0", "1e3", "1000", "NA", "null", "None", "True", "nan", "é", "e\u0301", "７", "日本", "=1+1", "+1",
    "-5", "<script>alert(1)</script>", "../x", "/etc/passwd", "a b", " x", "x ", "9007199254740993", "9007199254740992",
    "99999999999999999999999999", "\u202egpj.exe", "\u200b", "🎬", "'; DROP TABLE", "%s%n", "{0}", "[bold]", "x" * 5000,
]  # fmt: skip
IDS = [
    accepted(f"id {text[:24]!r}", with_rows(f"{text},1,3,2020-01-01"), 1, users={text}) for text in KEPT_IDS
] + [
    *left_out("blank id", ",1,3,2020-01-01", "blank"),
    *left_out("id of spaces", "   ,1,3,2020-01-01", "blank"),
    *left_out("blank item", "x,,3,2020-01-01", "blank"),
    *left_out("quoted blank id", '"",1,3,2020-01-01', "blank"),
    *left_out("ideographic space", "\u3000,1,3,2020-01-01", "blank"),
]

RATINGS = (
    [
        accepted(f"rating {text}", with_rows(f"x,1,{text},"), 1, users={"x"})
        for text in ("+3", "3.", ".5", "3e0", "35E-1", "003", "-2", "0", "3.0000000000000000001")
    ]
    + [
        case
        for text, reason in {
            "": "blank",
            " ": "not a finite",
            "NaN": "not a finite",
            "inf": "not a finite",
            "-inf": "not a finite",
            "Infinity": "not a finite",
            "1e400": "too large",
            "-1e999": "too large",
            "four": "not a finite",
            "4*": "not a finite",
            "0x5": "not a finite",
            "4_0": "not a finite",
            "３": "not a finite",
            "٣": "not a finite",
            "True": "not a finite",
            "1/2": "not a finite",
            " 3": "not a finite",
            "3 ": "not a finite",
            "--3": "not a finite",
            "e3": "not a finite",
            ".": "not a finite",
            "1e": "not a finite",
            "½": "not a finite",
        }.items()
        for case in left_out(f"rating {text!r}", f"x,1,{text},", reason)
    ]
    + [
        *left_out("a quoted decimal comma", 'x,1,"3,5",', "not a finite decimal number"),
        accepted(
            "out of range",
            with_rows("x,1,6,"),
            rejected=1,
            words=("outside 1 to 5",),
            options=(*LIMIT, "--rating-range", "1", "5"),
        ),
        accepted("a late fraction", HEAD + GOOD + "x,1,3.5,\n", 1),
        refused(
            "over the limit",
            with_rows("x,1,a,", "y,1,b,"),
            "2 of 37 lines cannot be used, the first:",
            "line 22",
            "column rating",
            "--max-bad-fraction",
        ),
        refused(
            "all bad",
            HEAD + "x,1,a,\ny,1,b,\n",
            "2 of 2 lines cannot be used",
            options=("--max-bad-fraction", "1"),
        ),
    ]
)

DATES = (
    [
        accepted(f"date {text!r}", with_rows(f"x,1,3,{text}"), 1)
        for text in (
            "13/01/2020",
            "02/01/2020",
            "2020-02-30",
            "2020-13-01",
            "",
            "1262304000",
            "0001-01-01",
            "9999-12-31",
            "2020-01-01T00:00:00+14:00",
            "yesterday",
            "99999999999999999",
        )
    ]
    + [
        refused(
            f"date {text!r}, where time is used",
            with_rows(f"x,1,3,{text}"),
            "neither ISO 8601 nor epoch seconds",
            "'x'",
            options=("--holdout", "time:0.2"),
        )
        for text in ("13/01/2020", "2020-02-30", "", "yesterday")
    ]
    + [
        accepted(
            "years 1 and 9999, where time is used",
            with_rows("x,1,3,0001-01-01", "x,2,3,9999-12-31T23:59:59-12:00"),
            2,
            options=("--holdout", "time:0.2"),
        ),
        refused(
            "no times, where time is used",
            "user,item,rating\n1,2,3\n2,2,3\n",
            "no time column",
            options=("--holdout", "last:1"),
        ),
    ]
)

SHAPES = [
    accepted("exact duplicates", HEAD + GOOD + GOOD.splitlines()[0] + "\n"),
    accepted("conflicting duplicates", HEAD + GOOD + "u0,0,5,2021-01-01\n"),
    refused("conflicting duplicates, refused", HEAD + GOOD + "u0,0,5,2021-01-01\n", "user u0, item 0: rated more than once", options=("--duplicates", "error")),
    *(
        Case(name, "user,item,rating\n" + rows, ratings=len(rows.split()), options=("--test", "r.csv"))
        for name, rows in {
            "one rating": "1,1,3\n",
            "one user": "1,1,3\n1,2,4\n1,3,5\n",
            "one item": "1,1,3\n2,1,4\n3,1,5\n",
            "constant ratings": "1,1,3\n2,2,3\n1,2,3\n",
            "one rating a user": "1,1,3\n2,2,4\n3,3,5\n",
            "disconnected halves": "1,1,3\n1,2,4\n2,1,5\n8,8,1\n8,9,2\n9,8,3\n",
            "all zero": "1,1,0\n2,2,0\n1,2,0\n",
            "times 1e12": "1,1,3e12\n2,2,4e12\n1,2,1e12\n",
            "times 1e-12": "1,1,3e-12\n2,2,4e-12\n1,2,1e-12\n",
        }.items()
    ),
    refused("nothing left to train on", "user,item,rating,time\n1,1,3,2020-01-01\n", "holdout", options=("--holdout", "time:0.9")),
]  # fmt: skip

GROUPS = {
    "encoding": ENCODING, "structure": STRUCTURE, "several files": FILES, "containers": CONTAINERS,
    "ids": IDS, "ratings": RATINGS, "dates": DATES, "shape": SHAPES,
}  # fmt: skip
CASES = [pytest.param(case, id=f"{group}: {case.name}") for group, cases in GROUPS.items() for case in cases]


def test_there_are_enough_cases():
    assert len(CASES) >= 120
    print(f"{len(CASES)} input cases in {len(GROUPS)} groups")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.timeout(30)
@pytest.mark.parametrize("case", CASES)
def test_input(case, here, capsys):
    made = case.files if isinstance(case.files, dict) else {"r.csv": case.files}
    for name, content in made.items():
        write(here / name, content)
    options = ("--cluster", "serial", "--rank", "2", "--max-iter", "2", "--tol", "0", "--name", "m", "--json")
    command = ("train", *case.inputs, *options, *case.options)
    code, out, err = ran(capsys, *command)
    assert "Traceback" not in err
    assert code == case.code, err
    for words in case.words:
        assert words in err
    if code:
        assert out == ""
        assert not list(here.glob("mfpipe-store/m*"))
        assert not list(here.glob("mfpipe-store/.runs/*-*"))
        assert err.startswith("mfpipe: ") or "\nmfpipe: " in err
        return
    record = json.loads(out)
    report = record["data"]["ingest"]
    assert (report["ratings"], report["rejected"]) == (case.ratings, case.rejected)
    assert report["rows"] == report["ratings"] + report["duplicates"] + report["rejected"]
    assert sum(report["reasons"].values()) == report["rejected"]
    assert (report["quarantine"] is None) == (not case.rejected)
    if case.users or case.absent:
        from mfpipe.ratings import Rules, ingest

        sharing = Rules(max_bad_fraction=1.0)
        users = set(ingest(list(case.inputs), sharing)[0].users.texts.to_pylist())
        assert case.users <= users
        assert not case.absent & users


@pytest.mark.parametrize("size", [61, 4096])
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(c, id=c.name)
        for c in (*STRUCTURE, *ENCODING)
        if len(c.files) < 9999 and isinstance(c.files, str)
    ],
)
def test_the_answer_does_not_depend_on_the_block_size(case, size, here, capsys, monkeypatch):
    write(here / "r.csv", case.files)

    def answer():
        code, out, err = ran(
            capsys, "ingest", "r.csv", "--out", "d", "--json", *(o for o in case.options if o != "--strict")
        )
        report = json.loads(out) if out else {}
        return code, [line for line in err.splitlines() if line.startswith(("mfpipe:", "warning"))], report

    whole = answer()
    monkeypatch.setattr(sources, "BLOCK_BYTES", size)
    import shutil

    shutil.rmtree(here / "d", ignore_errors=True)
    assert answer() == whole


# What is no file of ratings


def make_environment(folder: Path) -> dict[str, tuple[str, int, str]]:
    """Name → what is given, its exit code, and a word of what is said."""
    good = write(folder / "good.csv", HEAD + GOOD)
    (folder / "empty").mkdir()
    (folder / "only-text").mkdir()
    write(folder / "only-text" / "notes.md", "x")
    (folder / "link.csv").symlink_to(good)
    (folder / "dangling.csv").symlink_to("nowhere.csv")
    (folder / "loop.csv").symlink_to("loop.csv")
    (folder / "loop1").symlink_to("loop2")
    (folder / "loop2").symlink_to("loop1")
    (folder / "device.csv").symlink_to("/dev/zero")
    os.mkfifo(folder / "fifo.csv")
    (folder / "with-fifo").mkdir()
    os.mkfifo(folder / "with-fifo" / "fifo.csv")
    write(folder / "unreadable.csv", HEAD + GOOD)
    (folder / "unreadable.csv").chmod(0)
    (folder / "closed").mkdir()
    write(folder / "closed" / "r.csv", HEAD + GOOD)
    (folder / "closed").chmod(0)
    odd = folder / "$(touch owned); `x` 'y' \"z\" \n\x1b[31m é"
    odd.mkdir()
    write(odd / "r [1].csv", HEAD + GOOD)
    return {
        "a file": ("good.csv", 0, ""),
        "a link to it": ("link.csv", 0, ""),
        "odd characters": (str(odd), 0, ""),
        "a glob character in a name": (str(odd / "r [1].csv"), 0, ""),
        "nothing": ("missing.csv", 3, "no such file"),
        "an empty name": ("", 3, ""),
        "a directory without files": ("empty", 3, "no rating files"),
        "a directory without ratings": ("only-text", 3, "no rating files"),
        "a glob without a match": ("*.none", 3, "no file matches"),
        "a dangling link": ("dangling.csv", 3, "No such file"),
        "a loop": ("loop.csv", 3, "symbolic links"),
        "a loop of two": ("loop1", 3, "symbolic links"),
        "a loop on the way": ("loop1/r.csv", 3, ""),
        "a device": ("/dev/zero", 3, "not a regular file"),
        "a link to a device": ("device.csv", 3, "not a regular file"),
        "a FIFO": ("fifo.csv", 3, "not a regular file"),
        "a FIFO in a directory": ("with-fifo", 3, "not a regular file"),
        "standard input": ("/dev/stdin", 3, "not a regular file"),
        "a name too long": ("x" * 300 + ".csv", 3, ""),
        "a file as a directory": ("good.csv/r.csv", 3, ""),
        "an unreadable file": ("unreadable.csv", 3, "readable"),
        "an unreadable directory": ("closed", 3, "Permission denied"),
        "a remote address": ("https://example.org/r.csv", 3, "local files only"),
    }


ENVIRONMENT = [
    "a file", "a link to it", "odd characters", "a glob character in a name", "nothing", "an empty name",
    "a directory without files", "a directory without ratings", "a glob without a match", "a dangling link", "a loop",
    "a loop of two", "a loop on the way", "a device", "a link to a device", "a FIFO", "a FIFO in a directory",
    "standard input", "a name too long", "a file as a directory", "a remote address",
]  # fmt: skip


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", ENVIRONMENT)
def test_environment(name, here, capsys):
    given, code, words = make_environment(here)[name]
    began = time.monotonic()
    found, _, err = ran(
        capsys, "train", given, "--cluster", "serial", "--max-iter", "1", "--name", "m", "--json"
    )
    assert time.monotonic() - began < 10
    assert found == code, err
    assert words in err
    assert "unexpected" not in err
    assert bool(list(here.glob("mfpipe-store/m*"))) == (code == 0)
    assert not list(here.rglob("owned"))
    (here / "closed").chmod(0o700)


NOBODY = 65534


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs to become somebody else")
@pytest.mark.parametrize("name", ["an unreadable file", "an unreadable directory"])
def test_what_may_not_be_read(name, tmp_path):
    """As root can read everything, this takes another user."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        given, code, words = make_environment(Path(folder))[name]
        script = (
            "import os, sys; from mfpipe import ratings; "
            f"os.setuid({NOBODY}); os.chdir({folder!r})\n"
            "try:\n    ratings.ingest([sys.argv[1]])\n"
            "except Exception as e:\n    print(type(e).__name__, e); sys.exit(getattr(e, 'exit_code', 1))\n"
        )
        result = subprocess.run(
            [sys.executable, "-c", script, given], capture_output=True, text=True, timeout=30
        )
        (Path(folder) / "closed").chmod(0o700)
    assert result.returncode == code, result.stdout + result.stderr
    assert words in result.stdout


# Parameters


def parameter(*arguments, **more):
    return pytest.param(
        arguments,
        more.get("named", arguments[0]),
        more.get("value", arguments[-1]),
        id=" ".join(arguments)[:60].encode("unicode_escape").decode(),
    )


PARAMETERS = [
    *(parameter("--rank", v) for v in ("0", "-1", "4097", "2.5", "ten", "", "1e2", "nan")),
    *(parameter("--regularization", v) for v in ("-1", "nan", "inf", "", "x", "-0.001")),
    *(parameter("--max-iter", v) for v in ("-1", "1.5", "x")),
    *(parameter("--tol", v) for v in ("-1", "nan", "inf", "x")),
    *(parameter("--seed", v) for v in ("-1", "9223372036854775808", "x", "1.0")),
    *(parameter("--holdout", v) for v in ("random:0", "random:1", "random:nan", "random:-0.1", "random:2", "last:0", "last:-1", "time:1", "x", "", "random", "last:1.5", "random:1e-1")),
    *(parameter(name, v) for name in ("--partitions", "--workers", "--threads-per-worker") for v in ("0", "-1", "x", "1.5")),
    *(parameter("--name", v, named="model name") for v in ("", "../x", "/x", "a/b", ".", "..", "a\nb", ".hidden", "x y", "é", "quarantine", "m@0", "m@x")),
    parameter("--name", "x" * 600, named="model name", value="x" * 100),
    *(parameter("--model", v) for v in ("svd", "", "ALS")),
    *(parameter("--cluster", v) for v in ("cluster", "", "tcp:127.0.0.1", "tcp://10.1.2.3:8786", "://x")),
    *(parameter("--dashboard-address", v) for v in ("0.0.0.0:8787", ":8787", "8787", "host:1", "127.0.0.1:70000")),
    *(parameter("--delimiter", v) for v in ("::", "", "é", '"')),
    *(parameter("--duplicates", v) for v in ("sum", "")),
    *(parameter("--max-bad-fraction", v) for v in ("-0.1", "1.1", "nan", "x")),
    parameter("--rating-range", "5", "1"), parameter("--rating-range", "nan", "5", value="nan"), parameter("--rating-range", "x", "5", value="x"),
    *(parameter("--checkpoint-seconds", v) for v in ("-1", "nan", "inf")),
    *(parameter("--checkpoint-iterations", v) for v in ("0", "-1", "x")),
    *(parameter("--dtype", v) for v in ("int8", "float16", "")),
    *(parameter("--weighting", v) for v in ("x", "")),
    parameter("--l1-ratio", "2"), parameter("--l1-ratio", "nan"),
    parameter("--nonsense", "1", value="--nonsense"), parameter("--ran", "3", value="--ran"),
]  # fmt: skip


@pytest.mark.timeout(30)
@pytest.mark.parametrize(("arguments", "named", "value"), PARAMETERS)
def test_parameter(arguments, named, value, here, capsys):
    model = ("--model", "lasso-mf") if arguments[0] == "--l1-ratio" else ()
    began = time.monotonic()
    code, out, err = ran(capsys, "train", "there-is-no-such-file.csv", *model, *arguments)
    assert time.monotonic() - began < 3
    assert (code, out) == (2, ""), err
    assert named in err
    assert value.replace("\n", "\\n") in err
    assert list(here.iterdir()) == []


# Edge parameters


def trained(capsys, here, *options):
    write(here / "r.csv", HEAD + GOOD)
    command = ("train", "r.csv", "--cluster", "serial", "--name", "m", "--json", "--tol", "0", *options)
    code, out, err = ran(capsys, *command)
    assert code == 0, err
    return json.loads(out), err


def test_edge_parameters(here, capsys):
    free, _ = trained(capsys, here, "--regularization", "0", "--rank", "30", "--max-iter", "5")
    assert free["train_rmse"] < 1e-3  # more factors than ratings: every rating is met, by the shortest rows
    _, err = trained(capsys, here, "--regularization", "1e12", "--max-iter", "3")
    assert "collapsed" in err or "zero" in err
    none, _ = trained(capsys, here, "--max-iter", "0")
    assert none["n_iter"] == 0
    assert none["history"] == []
    wide, _ = trained(capsys, here, "--rank", "50", "--max-iter", "2")
    assert wide["n_iter"] == 2
    one, _ = trained(capsys, here, "--max-iter", "3", "--seed", "9")
    other, _ = trained(capsys, here, "--max-iter", "3", "--seed", "9")
    assert one["checksums"] == other["checksums"] != wide["checksums"]


# From a shell


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--rank", "0"), 2, "--rank 0"),
        (("--cluster", "tcp://10.1.2.3:1"), 2, "--allow-remote"),
        ((), 3, "no such file"),
    ],
)
def test_from_a_shell(tmp_path, arguments, code, words):
    began = time.monotonic()
    command = [sys.executable, "-m", "mfpipe", "train", "missing.csv", *arguments]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=20)
    assert result.returncode == code
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert time.monotonic() - began < 10
    assert list(tmp_path.iterdir()) == []
