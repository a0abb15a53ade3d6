"""A directory of checked files: written once, visible by one rename, described by its manifest.

`manifest.json` lists every other file with its size and sha256, and carries a checksum of its own.
Files are Parquet (with page checksums, which a reader verifies too) or JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import weakref
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import mfpipe
from mfpipe import files
from mfpipe.cores import available_cores, in_order
from mfpipe.errors import StoreError

FORMAT = 1
MANIFEST = "manifest.json"
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", re.ASCII)


def seal(
    aside: Path, target: Path, contents: Mapping[str, Any], about: dict, compression: str = "zstd"
) -> None:
    """Write a directory aside, flush it, and make it visible under its name.

    Parameters
    ----------
    aside, target : Path
        Beside each other; `target` must not exist. `aside` is deleted where the writing fails.
    contents : mapping
        File name → pyarrow.Table (for .parquet), JSON value (for .json), or what `encoded` made of one.
    about : dict
        For the manifest; JSON values.
    compression : str
        Of the Parquet files.

    Raises
    ------
    OSError
        Something could not be written.
    """
    try:
        threads = available_cores()
        encode = partial(encoded, compression=compression)
        written = dict(zip(contents, in_order(encode, contents.values(), threads), strict=True))
        files.make_directory(aside)

        def write(name: str) -> dict[str, Any]:
            files.write_new(aside / name, written[name])
            return {"bytes": len(written[name]), "sha256": hashlib.sha256(written[name]).hexdigest()}

        listed = dict(zip(written, in_order(write, written, threads), strict=True))
        manifest = {"format": FORMAT, **about, "files": listed}
        files.write_new(aside / MANIFEST, json_bytes(manifest | {"checksum": checksum(manifest)}))
        files.flush(aside)
        files.rename_new(aside, target)
    except BaseException:
        with suppress(OSError):  # the next who writes here deletes it; what went wrong first matters
            files.remove(aside)
        raise


def encoded(value: Any, compression: str = "zstd") -> memoryview:
    """The bytes of a file that holds a table or a JSON value; what is encoded already stays as it is."""
    if isinstance(value, memoryview):
        return value
    if not isinstance(value, pa.Table):
        return memoryview(json_bytes(value))
    buffer = pa.BufferOutputStream()
    repeating = [name for name in value.column_names if _repeats(value[name])]
    pq.write_table(value, buffer, compression=compression, use_dictionary=repeating, write_page_checksum=True)
    return memoryview(buffer.getvalue())


def _repeats(column: pa.ChunkedArray) -> bool:
    """Whether a dictionary of a column's values pays; of factors it costs more than writing them."""
    first = column.slice(0, 1000)
    return pa.types.is_integer(column.type) or 2 * len(first.unique()) <= len(first)


def json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def checksum(manifest: dict) -> str:
    """sha256 of a JSON object in its canonical spelling."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


class Sealed:
    """A sealed directory, opened: all its files are held open, so that it stays readable and the same
    while others publish, roll back, or remove it.

    Parameters
    ----------
    path : Path

    Raises
    ------
    FileNotFoundError
        There is no such directory, or it was removed just now.
    StoreError
        The manifest is damaged, of a newer format, or not the one that `expected` is the sha256 of.
    """

    def __init__(self, path: Path, expected: str | None = None):
        self.path = path
        self._handles: dict[str, int] = {}
        weakref.finalize(self, _close, self._handles)
        try:
            directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}; not a directory of the store") from error
        try:
            self.manifest = self._manifest(expected)
            self._open_files()
            self._require_still_there(directory)
        except StoreError:
            self._require_still_there(directory)
            raise
        finally:
            os.close(directory)

    def _manifest(self, expected: str | None) -> dict[str, Any]:
        path = self.path / MANIFEST
        try:
            text = files.read(path)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}; the version is damaged") from error
        if expected not in (None, hashlib.sha256(text).hexdigest()):
            raise StoreError(f"{path}: not the manifest that `current` was set to; it is damaged")
        return parse_manifest(path, text)

    def _open_files(self) -> None:
        for name in self.manifest["files"]:
            with suppress(OSError):  # `read` says which file is missing, when it is asked for
                self._handles[name] = files.open_regular(self.path / name)

    def _require_still_there(self, directory: int) -> None:
        """FileNotFoundError if the name no longer stands for the directory that was opened."""
        now = os.stat(self.path)
        if not os.path.samestat(now, os.fstat(directory)):
            raise FileNotFoundError(f"{self.path} was removed")

    def read(self, name: str) -> bytes:
        """The bytes of one of its files, once their checksum is seen to be the manifest's."""
        path = self.path / name
        listed = self.manifest["files"].get(name)
        if listed is None:
            raise StoreError(f"{path}: not a file of this version")
        try:
            handle = self._handles.get(name)
            data = files.read(path) if handle is None else files.read_open(handle)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}; the version is damaged") from error
        if hashlib.sha256(data).hexdigest() != listed["sha256"]:
            raise StoreError(f"{path}: its checksum is not the manifest's; the file is damaged")
        return data

    def json(self, name: str) -> Any:
        return json.loads(self.read(name))

    def table(self, name: str) -> pa.Table:
        data = self.read(name)
        try:
            # Not pq.read_table, which imports pyarrow.dataset and with it pandas: half a second.
            return pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read()
        except (OSError, pa.ArrowException) as error:
            raise StoreError(f"{self.path / name}: not a Parquet file ({error})") from error

    def damage(self) -> list[str]:
        """What is wrong with its files, a line each; empty if all are intact."""
        found = []
        for name in self.manifest["files"]:
            try:
                self.table(name) if name.endswith(".parquet") else self.read(name)
            except StoreError as error:
                found.append(str(error))
        return found


def _close(handles: dict[str, int]) -> None:
    for handle in handles.values():
        os.close(handle)


def parse_manifest(path: Path, text: bytes) -> dict[str, Any]:
    """A manifest's contents, seen to be intact; StoreError otherwise."""
    try:
        manifest = json.loads(text)
        claimed = manifest.pop("checksum")
        version = int(manifest["format"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"{path}: not a manifest ({error!r:.200}); the version is damaged") from error
    if version > FORMAT:
        raise StoreError(f"{path}: format {version} is newer than mfpipe {mfpipe.__version__} reads; upgrade")
    if claimed != checksum(manifest):
        raise StoreError(f"{path}: its own checksum does not match; the version is damaged")
    if not all(_FILE_NAME.fullmatch(name) for name in manifest["files"]):
        raise StoreError(f"{path}: lists a file outside its directory; it was not written by mfpipe")
    return manifest
