"""Ingested ratings on disk: encoded, checked, and made once for an unchanged input.

    DIR/dataset.json           the current content directory, options, input and file checksums
    DIR/content-…/             ratings-00000.parquet …, users.parquet, items.parquet
    DIR/.lock                  held by whoever ingests

`dataset.json` is replaced in one step once the content it names is complete; whatever a killed ingest
left is deleted by the next one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import re
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mfpipe import files, sources
from mfpipe.errors import StoreError
from mfpipe.ids import IdMap
from mfpipe.ratings import Ratings, Rules, ingest

log = logging.getLogger(__name__)

FORMAT = 1
RATINGS_A_PART = 1 << 20
_OURS = re.compile(r"dataset\.json|\.dataset\.json\.aside|\.lock|content-[0-9a-f]{16}", re.ASCII)


def is_dataset(inputs: Sequence[str | Path]) -> bool:
    """Whether the inputs are one directory that `write` made."""
    return len(inputs) == 1 and os.path.isfile(Path(inputs[0]) / "dataset.json")


def ingest_to(inputs: Sequence[str | Path], out: Path, rules: Rules = Rules()) -> tuple[dict, bool]:
    """Ingest rating files into a dataset directory, unless it already holds just that.

    Parameters
    ----------
    inputs : sequence of paths, directories or globs
    out : Path
        A new directory, an empty one, or a dataset to be replaced.
    rules : Rules

    Returns
    -------
    report : dict
        See `IngestReport.record`.
    made : bool
        False where the dataset was there already, made from the same bytes by the same rules.

    Raises
    ------
    RatingsError
        The input is refused; what `out` held before stays.
    StoreError
        `out` cannot be written, or holds something else.
    """
    source = {
        "files": [{"path": str(path), "sha256": sources.sha256(path)} for path in sources.find(inputs)],
        "rules": json.loads(json.dumps(dataclasses.asdict(rules))),
    }
    before = _held(out)
    if before and before["source"] == source and not _damage(out, before):
        log.info("%s: unchanged since it was ingested", out)
        return before["report"], False
    ratings, report = ingest(inputs, rules, quarantine=out.with_name(out.name + "-quarantine.csv"))
    try:
        _write(ratings, report.record(), source, out)
    except OSError as error:
        same = _is_still(before, out)
        outcome = "the dataset is as it was" if same else "the new dataset may be there or not"
        raise StoreError(f"{out}: cannot be written ({error.strerror or error}); {outcome}") from error
    return report.record(), True


def _is_still(before: dict | None, out: Path) -> bool:
    if before is None:
        return not (out / "dataset.json").exists()
    try:
        return _manifest(out) == before
    except StoreError:
        return False


def _held(out: Path) -> dict | None:
    """The manifest of what a directory holds; None where it may be written as if it were empty."""
    names = [path.name for path in out.iterdir()] if out.is_dir() else []
    if not all(_OURS.fullmatch(name) for name in names):
        raise StoreError(f"{out}: not empty and not a dataset of mfpipe; choose another --out")
    if "dataset.json" not in names:
        return None
    try:
        return _manifest(out)
    except NewerFormat:
        raise
    except StoreError as error:
        log.warning("%s; it is made again", error)
        return None


def read(directory: Path) -> tuple[Ratings, dict]:
    """The ratings of a dataset and the report of their ingest; StoreError if it is damaged."""
    manifest = _manifest(directory)
    while True:
        try:
            return _ratings(directory, manifest), manifest["report"]
        except StoreError:
            before, manifest = manifest, _manifest(directory)
            if manifest == before:
                raise
            # It was ingested again meanwhile, and what was read is gone: read the new content.


def _ratings(directory: Path, manifest: dict) -> Ratings:
    damage = _damage(directory, manifest)
    if damage:
        raise StoreError(f"{damage}; ingest again")
    content = directory / manifest["content"]
    parts = [_table(content / name) for name in manifest["files"] if name.startswith("ratings-")]
    table = pa.concat_tables(parts)
    time = table["time"].to_numpy() if "time" in table.column_names else None
    users, items = (
        IdMap(_table(content / name)["id"].combine_chunks()) for name in ("users.parquet", "items.parquet")
    )
    user, item, rating = (table[name].to_numpy() for name in ("user", "item", "rating"))
    return Ratings(user, item, rating, time, users, items)


def _write(ratings: Ratings, report: dict, source: dict, out: Path) -> None:
    columns = {"user": ratings.user, "item": ratings.item, "rating": ratings.rating}
    if ratings.time is not None:
        columns["time"] = ratings.time
    table = pa.table(columns)
    tables = {
        f"ratings-{k:05d}.parquet": table.slice(start, RATINGS_A_PART)
        for k, start in enumerate(range(0, len(table), RATINGS_A_PART))
    }
    tables |= {
        "users.parquet": pa.table({"id": ratings.users.texts}),
        "items.parquet": pa.table({"id": ratings.items.texts}),
    }
    encoded = {name: _encoded(part) for name, part in tables.items()}
    files.make_directory(out)
    with files.locked(out / ".lock"):
        _clean(out)
        content = out / f"content-{uuid.uuid4().hex[:16]}"
        try:
            files.make_directory(content)
            for name, data in encoded.items():
                files.write_new(content / name, data)
            files.flush(content)
            manifest = {
                "format": FORMAT,
                "content": content.name,
                "source": source,
                "report": report,
                "files": {name: hashlib.sha256(data).hexdigest() for name, data in encoded.items()},
            }
            text = json.dumps(manifest | {"checksum": _checksum(manifest)}, indent=1)
            files.replace(out / "dataset.json", text.encode())
        finally:
            _clean(out)


def _encoded(table: pa.Table) -> memoryview:
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return memoryview(buffer.getvalue())


def _clean(out: Path) -> None:
    """Delete all content but what `dataset.json` names; what cannot be deleted is in nobody's way."""
    kept = None
    if (out / "dataset.json").exists():
        try:
            kept = _manifest(out)["content"]
        except StoreError:
            return
    for path in out.glob("content-*"):
        if path.name != kept:
            with suppress(OSError):
                files.remove(path)


class NewerFormat(StoreError):
    """A dataset that a later mfpipe wrote."""


def _manifest(directory: Path) -> dict:
    path = directory / "dataset.json"
    try:
        manifest = json.loads(files.read(path))
        checksum = manifest.pop("checksum")
        version = int(manifest["format"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"{path}: damaged ({error}); ingest again") from error
    if version > FORMAT:
        raise NewerFormat(f"{path}: format {version} is newer than this mfpipe reads; upgrade")
    if checksum != _checksum(manifest):
        raise StoreError(f"{path}: its checksum does not match; ingest again")
    for name in (manifest["content"], *manifest["files"]):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,99}", name, re.ASCII):
            raise StoreError(f"{path}: names a file outside its directory; it was not written by mfpipe")
    return manifest


def _damage(directory: Path, manifest: dict) -> str | None:
    for name, checksum in manifest["files"].items():
        path = directory / manifest["content"] / name
        try:
            intact = hashlib.sha256(files.read(path)).hexdigest() == checksum
        except OSError:
            intact = False
        if not intact:
            return f"{path}: missing or damaged"
    return None


def _checksum(manifest: dict) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _table(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path}: damaged ({error}); ingest again") from error
