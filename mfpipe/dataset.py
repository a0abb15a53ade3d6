"""Ingested ratings on disk: encoded, checked, and made once for an unchanged input.

    DIR/dataset.json           the current content directory, options, input and file checksums
    DIR/content-…/             ratings-00000.parquet …, users.parquet, items.parquet

`dataset.json` is replaced in one step once the content it names is complete.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mfpipe import sources
from mfpipe.errors import StoreError
from mfpipe.ids import IdMap
from mfpipe.ratings import Ratings, Rules, ingest

log = logging.getLogger(__name__)

FORMAT = 1
RATINGS_A_PART = 1 << 20


def is_dataset(inputs: Sequence[str | Path]) -> bool:
    """Whether the inputs are one directory that `write` made."""
    return len(inputs) == 1 and (Path(inputs[0]) / "dataset.json").is_file()


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
    files = sources.find(inputs)
    source = {
        "files": [{"path": str(path), "sha256": sources.sha256(path)} for path in files],
        "rules": json.loads(json.dumps(dataclasses.asdict(rules))),
    }
    before = None
    if out.exists() and any(out.iterdir()):
        before = _manifest(out)
        if before["source"] == source and not _damage(out, before):
            log.info("%s: unchanged since it was ingested", out)
            return before["report"], False
    ratings, report = ingest(inputs, rules, quarantine=out.with_name(out.name + "-quarantine.csv"))
    try:
        _write(ratings, report.record(), source, out)
    except OSError as error:
        raise StoreError(
            f"{out}: cannot be written ({error.strerror or error}); nothing changed there"
        ) from error
    return report.record(), True


def read(directory: Path) -> tuple[Ratings, dict]:
    """The ratings of a dataset and the report of their ingest; StoreError if it is damaged."""
    manifest = _manifest(directory)
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
    return Ratings(user, item, rating, time, users, items), manifest["report"]


def _write(ratings: Ratings, report: dict, source: dict, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    content = Path(tempfile.mkdtemp(prefix="content-", dir=out))
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
    try:
        for name, part in tables.items():
            pq.write_table(part, content / name, compression="zstd", write_page_checksum=True)
        manifest = {
            "format": FORMAT,
            "content": content.name,
            "source": source,
            "report": report,
            "files": {name: sources.sha256(content / name) for name in tables},
        }
        aside = out / ".dataset.json"
        aside.write_text(json.dumps(manifest | {"checksum": _checksum(manifest)}, indent=1))
        for path in (*content.iterdir(), content, aside):
            _flush(path)
    except BaseException:
        shutil.rmtree(content, ignore_errors=True)
        raise
    os.replace(aside, out / "dataset.json")
    _flush(out)
    for old in out.glob("content-*"):
        if old.name != content.name:
            shutil.rmtree(old)


def _manifest(directory: Path) -> dict:
    path = directory / "dataset.json"
    try:
        manifest = json.loads(path.read_bytes())
        checksum = manifest.pop("checksum")
    except FileNotFoundError as error:
        raise StoreError(
            f"{directory}: not empty and not a dataset of mfpipe; choose another --out"
        ) from error
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise StoreError(f"{path}: damaged ({error}); remove {directory} and ingest again") from error
    if checksum != _checksum(manifest):
        raise StoreError(f"{path}: its checksum does not match; remove {directory} and ingest again")
    if manifest["format"] != FORMAT:
        raise StoreError(f"{path}: format {manifest['format']} is not one this mfpipe reads; ingest again")
    return manifest


def _damage(directory: Path, manifest: dict) -> str | None:
    for name, checksum in manifest["files"].items():
        path = directory / manifest["content"] / name
        if not path.is_file() or sources.sha256(path) != checksum:
            return f"{path}: missing or damaged"
    return None


def _checksum(manifest: dict) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _table(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path}: damaged ({error}); ingest again") from error


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
