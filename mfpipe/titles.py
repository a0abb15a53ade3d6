"""Titles of items from a file: what a reader knows an item by."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import TextIO

from mfpipe import sources
from mfpipe.errors import RatingsError
from mfpipe.reading import DELIMITERS, NAMES

TITLES = ("title", "name")


def read_titles(path: Path) -> dict[str, str]:
    """Item id → title, from CSV or TSV files with an item and a `title` or `name` column.

    Other columns do not matter; of an id that stands there twice, the last title counts.

    Raises
    ------
    RatingsError
        A file is missing, not UTF-8 text with such a header, or a line has too few fields.
    """
    titles: dict[str, str] = {}
    for found in sources.find([path]):
        opened = gzip.open if found.name.endswith(".gz") else open
        try:
            with opened(found, "rt", encoding="utf-8-sig", newline="") as file:
                titles |= _titles(found, file)
        except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
            raise RatingsError(f"{found}: cannot be read as UTF-8 text with columns ({error})") from error
    return titles


def _titles(path: Path, file: TextIO) -> dict[str, str]:
    header = file.readline().rstrip("\r\n")
    delimiter = max(DELIMITERS, key=header.count)
    item, title = _positions(path, next(csv.reader([header], delimiter=delimiter), []))
    titles = {}
    lines = csv.reader(file, delimiter=delimiter)
    for fields in filter(None, lines):
        if len(fields) <= max(item, title):
            raise RatingsError(f"{path}, line {lines.line_num + 1}: has no title; correct it")
        titles[fields[item]] = fields[title]
    return titles


def _positions(path: Path, header: list[str]) -> tuple[int, int]:
    plain = [name.strip().lower() for name in header]
    at = [[plain.index(name) for name in names if name in plain] for names in (NAMES["item"], TITLES)]
    if not all(at):
        raise RatingsError(
            f"{path}, line 1: needs a column {' or '.join(NAMES['item'])} "
            f"and a column {' or '.join(TITLES)}, and has {', '.join(map(repr, header[:12])) or 'none'}"
        )
    return at[0][0], at[1][0]
