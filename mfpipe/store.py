"""The model store: complete, checked versions that become visible by one rename.

    STORE/NAME/current        the served version and the checksum of its manifest
    STORE/NAME/VERSION/       manifest.json, user_factors.parquet, item_factors.parquet,
                              history.parquet, timings.json, and what the report needs

A version is written aside under the publisher's lock, flushed to disk and renamed into place; `current`
is replaced in one step afterwards. Readers take no lock.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import hashlib
import json
import logging
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import mfpipe
from mfpipe.errors import ParameterError, StoreError
from mfpipe.fitted import FittedModel
from mfpipe.ids import IdMap
from mfpipe.models import MODELS
from mfpipe.models.base import Baseline, Factors

log = logging.getLogger(__name__)

FORMAT = 1
LIBRARIES = ("numpy", "scipy", "numba", "pyarrow", "dask", "distributed")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)


def parse_name(text: str) -> tuple[str, str | None]:
    """Split NAME or NAME@VERSION; ParameterError if it could not be a directory of the store."""
    name, _, version = text.partition("@")
    if not _NAME.fullmatch(name) or ("@" in text and not re.fullmatch("[1-9][0-9]{0,8}", version, re.ASCII)):
        raise ParameterError(
            f"model name {text[:120]!r}: must be letters, digits, dots, dashes and underscores, at most 100, "
            "starting with a letter or digit, and optionally @VERSION"
        )
    return name, version or None


@dataclasses.dataclass(frozen=True)
class Version:
    """A stored fit: where it is and what its manifest says."""

    path: Path
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        return self.manifest["name"]

    @property
    def number(self) -> str:
        return self.manifest["version"]

    def read(self, name: str) -> bytes:
        """The bytes of one of its files, once their checksum is seen to be the manifest's."""
        path = self.path / name
        if name not in self.manifest["files"]:
            raise StoreError(f"{path}: not a file of this version")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}; the version is damaged") from error
        if hashlib.sha256(data).hexdigest() != self.manifest["files"][name]["sha256"]:
            raise StoreError(f"{path}: its checksum is not the manifest's; the file is damaged")
        return data

    def json(self, name: str) -> Any:
        return json.loads(self.read(name))

    def table(self, name: str) -> pa.Table:
        return pq.read_table(pa.BufferReader(self.read(name)), page_checksum_verification=True)

    def damage(self) -> list[str]:
        """What is wrong with its files, a line each; empty if all are intact."""
        found = []
        for name in self.manifest["files"]:
            try:
                self.read(name)
            except StoreError as error:
                found.append(str(error))
        return found

    def load(self) -> FittedModel:
        """The fitted model.

        Raises
        ------
        StoreError
            A file is missing or damaged, or the model is not one this mfpipe knows.
        """
        manifest = self.manifest
        if manifest["model"] not in MODELS:
            raise StoreError(
                f"{self.path}: model {manifest['model']!r} is not known to mfpipe {mfpipe.__version__}"
            )
        model = MODELS[manifest["model"]](**manifest["params"])
        user, item = self.table("user_factors.parquet"), self.table("item_factors.parquet")
        means = [table["mean_rating"].to_numpy() for table in (user, item)]
        return FittedModel(
            model,
            users=IdMap(user["id"].combine_chunks()),
            items=IdMap(item["id"].combine_chunks()),
            factors=Factors(_rows(user, model), _rows(item, model)),
            baseline=Baseline(manifest["data"]["global_mean"], *means),
            user_counts=user["n_ratings"].to_numpy(),
            item_counts=item["n_ratings"].to_numpy(),
        )


def _rows(table: pa.Table, model) -> np.ndarray:
    columns = [table[name].to_numpy() for name in model.columns()]
    return np.ascontiguousarray(np.column_stack(columns), model.storage)


class Store:
    """A directory of models and their versions.

    Parameters
    ----------
    path : path
        Made when the first version is published.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def require_writable(self) -> None:
        """StoreError unless a version could be written here; asked before training starts."""
        existing = self.path
        while not existing.exists():
            existing = existing.parent
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise StoreError(f"{self.path}: cannot be written ({existing} is not a writable directory)")

    def publish(
        self,
        name: str,
        fitted: FittedModel,
        about: dict,
        artifacts: dict[str, Any],
        make_current: bool = True,
    ) -> Version:
        """Store a fit as the next version of `name`.

        Parameters
        ----------
        name : str
        fitted : FittedModel
        about : dict
            For the manifest: data, metrics, and whatever else describes the fit; JSON values.
        artifacts : dict
            File name → pyarrow.Table (for .parquet) or JSON value (for .json).
        make_current : bool
            Whether `current` moves to the new version.

        Raises
        ------
        StoreError
            The store cannot be written; nothing visible has changed then.
        """
        name, _ = parse_name(name)
        home = self.path / name
        tables = {
            "user_factors.parquet": _factor_table(
                fitted, fitted.users, fitted.factors.user, fitted.baseline.user_means, fitted.user_counts
            ),
            "item_factors.parquet": _factor_table(
                fitted, fitted.items, fitted.factors.item, fitted.baseline.item_means, fitted.item_counts
            ),
        }
        with self._publishing(home):
            number = str(max((int(v) for v in self._numbers(home)), default=0) + 1)
            aside = home / f".writing-{number}"
            try:
                aside.mkdir()
                files = {file: _write(aside / file, value) for file, value in (tables | artifacts).items()}
                manifest = {
                    "format": FORMAT,
                    "name": name,
                    "version": number,
                    "created": datetime.now(UTC).isoformat(timespec="seconds"),
                    "mfpipe": mfpipe.__version__,
                    "model": fitted.model.name,
                    "params": fitted.model.params,
                    **about,
                    "libraries": {"python": platform.python_version()}
                    | {lib: installed(lib) for lib in LIBRARIES},
                    "files": files,
                }
                _write(aside / "manifest.json", manifest | {"checksum": _checksum(manifest)})
                _flush(aside)
                os.rename(aside, home / number)
                _flush(home)
            except OSError as error:
                shutil.rmtree(aside, ignore_errors=True)
                raise _not_written(home, error) from error
            if make_current:
                self._point(home, number)
        return self.version(name, number)

    def version(self, name: str, number: str | None = None) -> Version:
        """A version of `name`: the given one, or the current.

        Raises
        ------
        StoreError
            There is no such name or version, or its manifest is damaged.
        """
        home = self.path / name
        pointed = {} if number else self._current(home)
        number = number or str(pointed["version"])
        path = home / number / "manifest.json"
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            have = ", ".join(self._numbers(home)) or "none"
            raise StoreError(f"{name}@{number}: no such version in {self.path} (versions: {have})") from None
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}") from error
        if pointed and hashlib.sha256(text).hexdigest() != pointed["manifest_sha256"]:
            raise StoreError(f"{path}: not the manifest that {home / 'current'} was set to; it is damaged")
        return Version(path.parent, _manifest(path, text))

    def names(self) -> list[str]:
        if not self.path.is_dir():
            return []
        return sorted(p.name for p in self.path.iterdir() if p.is_dir() and _NAME.fullmatch(p.name))

    def numbers(self, name: str) -> list[str]:
        """The versions of a name, oldest first."""
        return self._numbers(self.path / name)

    def current(self, name: str) -> str | None:
        """The number of the current version; None if none was ever made current."""
        home = self.path / name
        return self._current(home)["version"] if (home / "current").exists() else None

    def rollback(self, name: str, number: str | None = None) -> Version:
        """Make an earlier version current: the given one, or the one before the current."""
        home = self.path / name
        if number is None:
            earlier = [v for v in self._numbers(home) if int(v) < int(self._current(home)["version"])]
            if not earlier:
                raise StoreError(f"{name}: no version before the current one to go back to")
            number = earlier[-1]
        version = self.version(name, number)
        damage = version.damage()
        if damage:
            raise StoreError(f"{name}@{number} is damaged and stays out of use: {damage[0]}")
        with self._publishing(home):
            self._point(home, number)
        return version

    def remove(self, name: str, number: str) -> None:
        """Delete a version that is not the current one."""
        home = self.path / name
        if number not in self._numbers(home):
            raise StoreError(f"{name}@{number}: no such version in {self.path}")
        with self._publishing(home):
            if (home / "current").exists() and self._current(home)["version"] == number:
                raise StoreError(f"{name}@{number} is the current version; roll back to another one first")
            aside = home / f".removing-{number}"
            os.rename(home / number, aside)
            shutil.rmtree(aside)

    def _numbers(self, home: Path) -> list[str]:
        if not home.is_dir():
            return []
        return sorted((p.name for p in home.iterdir() if re.fullmatch("[1-9][0-9]*", p.name)), key=int)

    def _current(self, home: Path) -> dict:
        path = home / "current"
        try:
            pointed = json.loads(path.read_bytes())
            return {
                "version": str(int(pointed["version"])),
                "manifest_sha256": str(pointed["manifest_sha256"]),
            }
        except FileNotFoundError:
            if not home.is_dir():
                known = ", ".join(self.names()) or "none"
                raise StoreError(f"{home.name}: no such model in {self.path} (models: {known})") from None
            raise StoreError(
                f"{home.name}: has no current version; name one as {home.name}@VERSION"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{path}: damaged ({error}); name a version as {home.name}@VERSION, or set it with: "
                f"mfpipe models rollback {home.name}@VERSION"
            ) from error

    def _point(self, home: Path, number: str) -> None:
        digest = hashlib.sha256((home / number / "manifest.json").read_bytes()).hexdigest()
        aside = home / ".current"
        try:
            _write(aside, {"version": number, "manifest_sha256": digest})
            os.replace(aside, home / "current")
            _flush(home)
        except OSError as error:
            raise _not_written(home, error) from error

    @contextmanager
    def _publishing(self, home: Path) -> Iterator[None]:
        """Hold the publisher's lock of a name; the kernel frees it when its process ends, however."""
        try:
            home.mkdir(parents=True, exist_ok=True)
            lock = (home / ".lock").open("w")
        except OSError as error:
            raise _not_written(home, error) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for left in (*home.glob(".writing-*"), *home.glob(".removing-*")):
                log.warning("%s: left by a publisher that was killed; removed", left)
                shutil.rmtree(left)
            yield


def _not_written(home: Path, error: OSError) -> StoreError:
    hint = "; free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return StoreError(f"{home}: cannot be written ({error.strerror or error}){hint}; nothing was published")


def _manifest(path: Path, text: bytes) -> dict:
    try:
        manifest = json.loads(text)
        checksum = manifest.pop("checksum")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{path}: not a manifest ({error!r}); the version is damaged") from error
    if isinstance(manifest.get("format"), int) and manifest["format"] > FORMAT:
        raise StoreError(
            f"{path}: format {manifest['format']} is newer than mfpipe {mfpipe.__version__} reads; upgrade"
        )
    if checksum != _checksum(manifest):
        raise StoreError(f"{path}: its own checksum does not match; the version is damaged")
    return manifest


def _checksum(manifest: dict) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _factor_table(fitted: FittedModel, ids: IdMap, rows, means, counts) -> pa.Table:
    factors = dict(zip(fitted.model.columns(), rows.T, strict=True))
    return pa.table({"id": ids.texts, "n_ratings": counts, "mean_rating": means, **factors})


def _write(path: Path, value: Any) -> dict:
    """Write and flush one file; its size and checksum for the manifest."""
    if isinstance(value, pa.Table):
        buffer = pa.BufferOutputStream()
        pq.write_table(value, buffer, compression="zstd", write_page_checksum=True)
        data = memoryview(buffer.getvalue())
    else:
        data = memoryview((json.dumps(value, indent=1, allow_nan=False) + "\n").encode())
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": data.nbytes, "sha256": hashlib.sha256(data).hexdigest()}


def _flush(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
