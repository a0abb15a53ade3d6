"""Which files are meant, and their bytes: plain or gzip, in blocks that end at a line end."""

from __future__ import annotations

import glob
import gzip
import hashlib
import os
import re
import stat
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from mfpipe.errors import RatingsError

SUFFIXES = (".csv", ".tsv", ".txt", ".dat", ".parquet", ".csv.gz", ".tsv.gz", ".txt.gz", ".dat.gz")
_REMOTE = re.compile("[A-Za-z][A-Za-z0-9+.-]*://", re.ASCII)
BLOCK_BYTES = 8 << 20
LINE_LIMIT = 1 << 20
_NOT_TEXT = {
    b"PK\x03\x04": "a zip archive; unpack it first",
    b"PK\x05\x06": "a zip archive; unpack it first",
    b"\x28\xb5\x2f\xfd": "Zstandard data; decompress it first",
    b"BZh": "bzip2 data; decompress it first",
    b"\xfd7zXZ": "xz data; decompress it first",
    b"\xff\xfe": "UTF-16 text; convert it to UTF-8",
    b"\xfe\xff": "UTF-16 text; convert it to UTF-8",
}


def find(inputs: Sequence[str | Path]) -> list[Path]:
    """The rating files that paths, directories and globs name, each once, in sorted order.

    Raises
    ------
    RatingsError
        A path that is missing, not a regular file or not readable; a directory or glob without
        rating files.
    """
    found: set[Path] = set()
    for text in map(str, inputs):
        try:
            found |= _meant_by(text)
        except OSError as error:
            raise RatingsError(f"{text}: {error.strerror or error}") from error
    for path in found:
        _check(path)
    return sorted(found)


def _meant_by(text: str) -> set[Path]:
    """The files that one path, directory or glob names, which are not looked at yet."""
    path = Path(text)
    if path.is_dir():
        files = {p for p in path.iterdir() if p.name.endswith(SUFFIXES)}
        if not files:
            raise RatingsError(f"{path}: a directory with no rating files ({', '.join(SUFFIXES)})")
    elif os.path.lexists(path):
        files = {path}
    elif glob.has_magic(text) and not _REMOTE.match(text):
        files = {Path(p) for p in glob.glob(text, recursive=True) if not Path(p).is_dir()}
        if not files:
            raise RatingsError(f"{text}: no file matches")
    elif _REMOTE.match(text):
        raise RatingsError(f"{text}: mfpipe reads local files only; fetch it first")
    else:
        raise RatingsError(f"{path}: no such file")
    return files


def _check(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise RatingsError(f"{path}: {error.strerror or error}") from error
    if not stat.S_ISREG(mode):
        raise RatingsError(f"{path}: not a regular file; give files, directories or globs")
    if not os.access(path, os.R_OK):
        raise RatingsError(f"{path}: not readable by this user")


def is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def blocks(path: Path) -> Iterator[bytes]:
    r"""The text of a file as blocks of whole lines ended by ``\n``, without a byte-order mark.

    Gzip is known by its first bytes, not by its name. A file whose only line ends are ``\r`` is
    read as such; elsewhere a lone ``\r`` stays where it is.

    Raises
    ------
    RatingsError
        Truncated or corrupt gzip, an archive or UTF-16, a line longer than 1 MiB, an I/O error.
    """
    try:
        with path.open("rb") as raw:
            magic = raw.read(6)
            raw.seek(0)
            for signature, what in _NOT_TEXT.items():
                if magic.startswith(signature):
                    raise RatingsError(f"{path}: {what}")
            gzipped = magic.startswith(b"\x1f\x8b")
            # GzipFile reads several members one after the other and checks each one's CRC.
            yield from _whole_lines(path, cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if gzipped else raw)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise RatingsError(f"{path}: damaged gzip data ({error}); fetch the file again") from error
    except OSError as error:
        raise RatingsError(f"{path}: cannot be read ({error.strerror or error})") from error


def _whole_lines(path: Path, file: BinaryIO) -> Iterator[bytes]:
    text = file.read(BLOCK_BYTES).removeprefix(b"\xef\xbb\xbf")
    if text[257:262] == b"ustar":
        raise RatingsError(f"{path}: a tar archive; unpack it first")
    only_cr = b"\n" not in text and b"\r" in text
    rest = b""
    while text:
        if only_cr:
            text = text.replace(b"\r", b"\n")
        end = text.rfind(b"\n") + 1
        whole, rest = (b"".join((rest, memoryview(text)[:end])), text[end:]) if end else (b"", rest + text)
        if len(rest) > LINE_LIMIT:
            raise RatingsError(f"{path}: a line longer than {LINE_LIMIT} bytes; this is not a rating file")
        if whole:
            yield whole.replace(b"\r\n", b"\n") if b"\r" in whole else whole
        text = file.read(BLOCK_BYTES)
    if rest:
        yield rest.removesuffix(b"\r") + b"\n"
