"""The model store: complete, checked versions that become visible by one rename.

    STORE/NAME/current        the served version and the checksum of its manifest
    STORE/NAME/VERSION/       manifest.json, user_factors.parquet, item_factors.parquet,
                              history.parquet, timings.json, and what the report needs
    STORE/NAME/.lock          held by whoever publishes, rolls back or removes
    STORE/NAME/.removed-N     empty: keeps the number of a removed version from being given again

A version is written aside under the publisher's lock, flushed to disk and renamed into place; `current`
is replaced in one step afterwards. Readers take no lock. Whatever a killed publisher left is invisible,
and deleted by the next one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from errno import EDQUOT, ENOSPC
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import mfpipe
from mfpipe import files
from mfpipe.errors import ParameterError, StoreError
from mfpipe.fitted import FittedModel
from mfpipe.published import published
from mfpipe.sealed import MANIFEST, json_bytes, seal
from mfpipe.version import FACTOR_FILES, Version, factor_tables

log = logging.getLogger(__name__)

WHATEVER = object()  # may be current when a version is published
LIBRARIES = ("numpy", "scipy", "numba", "pyarrow", "dask", "distributed")
RESERVED = ("quarantine", "reports")  # directories of a store that are not models
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_NUMBER = re.compile("[1-9][0-9]{0,8}", re.ASCII)
_REMOVED = re.compile(r"\.removed-([1-9][0-9]{0,8})", re.ASCII)


def parse_name(text: str) -> tuple[str, str | None]:
    """Split NAME or NAME@VERSION; ParameterError if it could not be a directory of the store."""
    name, _, version = text.partition("@")
    if not _NAME.fullmatch(name) or ("@" in text and not _NUMBER.fullmatch(version)):
        raise ParameterError(
            f"model name {text[:120]!r}: must be letters, digits, dots, dashes and underscores, at most 100, "
            "starting with a letter or digit, and optionally @VERSION"
        )
    if name in RESERVED:
        raise ParameterError(f"model name {name!r}: is what the store calls a directory of its own")
    return name, version or None


class Store:
    """A directory of models and their versions.

    Parameters
    ----------
    path : path
        Made when the first version is published.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def require_writable(self, name: str | None = None) -> None:
        """StoreError unless a version (of `name`) could be written here; asked before training starts."""
        existing = self.path if name is None else self.path / name
        while not os.path.lexists(existing):
            existing = existing.parent
        try:
            with tempfile.TemporaryFile(dir=existing):
                pass
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be written ({existing}: {error.strerror})") from error

    def publish(
        self,
        name: str,
        fitted: FittedModel,
        about: dict,
        artifacts: dict[str, Any],
        make_current: bool = True,
        replacing: Any = WHATEVER,
    ) -> Version:
        """Store a fit as the next version of `name`.

        Parameters
        ----------
        name : str
        fitted : FittedModel
        about : dict
            For the manifest: data, metrics, and whatever else describes the fit; JSON values. Where it
            holds a `run` that an earlier version came from, that version is the one returned.
        artifacts : dict
            File name → pyarrow.Table (for .parquet), JSON value (for .json), or what `mfpipe.sealed.encoded`
            made of one. The factors are made from `fitted` unless they are among them.
        make_current : bool
            Whether `current` moves to the new version.
        replacing : str or None, optional
            The version that must still be current; None if there must be none.

        Raises
        ------
        StoreError
            The store cannot be written, or another version has become current; nothing visible has changed
            then, unless the message says so.
        """
        name, _ = parse_name(name)
        home = self.path / name
        with self._publishing(home):
            number = self._published_by(home, about.get("run"))
            if replacing is not WHATEVER and self.current(name) not in (replacing, number):
                raise StoreError(
                    f"{name}: {self.current(name)} has become current in place of {replacing or 'none'}; "
                    "nothing was published"
                )
            with self._noted(home, number or str(self._last_number(home) + 1), make_current) as number:
                if not (home / number).exists():
                    self._add(home, number, fitted, about, artifacts)
                if make_current:
                    try:
                        self._point(home, number)
                    except OSError as error:
                        raise self._not_pointed(home, number, error) from error
            try:
                return self.version(name, number)
            except StoreError as error:
                raise StoreError(f"{name}@{number} is published, but cannot be read back: {error}") from error

    @contextmanager
    def _noted(self, home: Path, number: str, make_current: bool) -> Iterator[str]:
        """Take note of what has become of a version, also where a signal ends the process half-way."""
        try:
            yield number
        finally:
            if (home / number).exists():
                pointed = None
                with suppress(StoreError):
                    pointed = self._current(home)["version"]
                missed = make_current and pointed != number
                published.append(f"{home.name}@{number}" + (", but not made current," if missed else ""))

    def _published_by(self, home: Path, run: str | None) -> str | None:
        """The version that a run published before it was killed, if it did."""
        if run is None:
            return None
        for number in reversed(self._numbers(home)):
            with suppress(StoreError):
                if self.version(home.name, number).manifest.get("run") == run:
                    return number
        return None

    def _add(self, home: Path, number: str, fitted: FittedModel, about: dict, artifacts: dict) -> None:
        described = {
            "name": home.name,
            "version": number,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "mfpipe": mfpipe.__version__,
            "model": fitted.model.name,
            "params": fitted.model.params,
            **about,
            "libraries": {"python": platform.python_version()} | {lib: installed(lib) for lib in LIBRARIES},
        }
        try:
            contents = artifacts if artifacts.keys() >= FACTOR_FILES else factor_tables(fitted) | artifacts
            seal(home / f".writing-{number}", home / number, contents, described)
        except OSError as error:
            raise self._withdrawn(home, number, error) from error

    def _withdrawn(self, home: Path, number: str, error: OSError) -> StoreError:
        """What to say of a version that could not be published, once it is out of sight again."""
        try:
            if (home / number).exists():
                files.rename_new(home / number, home / f".removed-{number}")
        except OSError:
            return StoreError(
                f"{home.name}@{number} is published, but was not made current ({error.strerror or error})"
            )
        return _not_written(home, error)

    def _not_pointed(self, home: Path, number: str, error: OSError) -> StoreError:
        with suppress(StoreError):
            if self._current(home)["version"] == number:
                return StoreError(
                    f"{home.name}@{number} is published, but the disk did not confirm it "
                    f"({error.strerror or error}); after a power failure it may be gone"
                )
        return self._withdrawn(home, number, error)

    def version(self, name: str, number: str | None = None) -> Version:
        """A version of `name`: the given one, or the current; it stays readable if removed meanwhile.

        Raises
        ------
        StoreError
            There is no such name or version, or its manifest is damaged.
        """
        home = self._home(name)
        if number is not None:
            return self._open(home, number)
        while True:
            pointed = self._current(home)
            try:
                return self._open(home, pointed["version"], pointed["manifest_sha256"])
            except StoreError:
                if self._current(home) == pointed:
                    raise
                # `current` moved on and the version was removed in between: open the new one.

    def _open(self, home: Path, number: str, expected: str | None = None) -> Version:
        path = home / number
        try:
            version = Version(path, expected)
        except FileNotFoundError:
            have = ", ".join(self._numbers(home)) or "none"
            raise StoreError(
                f"{home.name}@{number}: no such version in {self.path} (versions: {have})"
            ) from None
        if (version.manifest.get("name"), version.manifest.get("version")) != (home.name, number):
            raise StoreError(
                f"{path / MANIFEST}: is of {version.manifest.get('name')}@{version.manifest.get('version')}; "
                "versions are not copied or renamed by hand"
            )
        return version

    def names(self) -> list[str]:
        if not self.path.is_dir():
            return []
        return sorted(
            p.name
            for p in self.path.iterdir()
            if _NAME.fullmatch(p.name) and p.name not in RESERVED and p.is_dir() and not p.is_symlink()
        )

    def numbers(self, name: str) -> list[str]:
        """The versions of a name, oldest first."""
        return self._numbers(self.path / name)

    def current(self, name: str) -> str | None:
        """The number of the current version; None if none was ever made current."""
        home = self._home(name)
        return self._current(home)["version"] if os.path.lexists(home / "current") else None

    def rollback(self, name: str, number: str | None = None) -> Version:
        """Make an earlier version current: the given one, or the one before the current."""
        home = self._home(name)
        self._require_versions(home)
        with self._publishing(home):
            if number is None:
                earlier = [v for v in self._numbers(home) if int(v) < int(self._current(home)["version"])]
                if not earlier:
                    raise StoreError(f"{name}: no version before the current one to go back to")
                number = earlier[-1]
            version = self.version(name, number)
            damage = version.damage()
            if damage:
                raise StoreError(f"{name}@{number} is damaged and stays out of use: {damage[0]}")
            try:
                self._point(home, number)
            except OSError as error:
                raise _not_written(home, error, "either version may now be current") from error
        return version

    def remove(self, name: str, number: str) -> None:
        """Delete a version that is not the current one; those who have opened it can go on reading."""
        home = self._home(name)
        self._require_versions(home)
        with self._publishing(home):
            if number not in self._numbers(home):
                raise StoreError(f"{name}@{number}: no such version in {self.path}")
            if self.current(name) == number:
                raise StoreError(f"{name}@{number} is the current version; roll back to another one first")
            try:
                files.rename_new(home / number, home / f".removed-{number}")
            except OSError as error:
                raise _not_written(home, error, f"{name}@{number} may still be there") from error
            self._clean(home)

    def _home(self, name: str) -> Path:
        home = self.path / name
        if home.is_symlink():
            raise StoreError(f"{home}: is a link, and models are directories of the store itself")
        return home

    def _require_versions(self, home: Path) -> None:
        if not self._numbers(home):
            self._current(home)  # says what is missing
            raise StoreError(f"{home.name}: has no versions in {self.path}")

    def _numbers(self, home: Path) -> list[str]:
        if not home.is_dir():
            return []
        return sorted((p.name for p in home.iterdir() if _NUMBER.fullmatch(p.name)), key=int)

    def _last_number(self, home: Path) -> int:
        """The highest number ever given, to versions that were removed since too."""
        removed = (match[1] for p in home.iterdir() if (match := _REMOVED.fullmatch(p.name)))
        return max(map(int, (*self._numbers(home), *removed)), default=0)

    def _current(self, home: Path) -> dict:
        path = home / "current"
        try:
            pointed = json.loads(files.read(path))
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
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise StoreError(
                f"{path}: damaged ({error}); name a version as {home.name}@VERSION, or set it with: "
                f"mfpipe models rollback {home.name}@VERSION"
            ) from error

    def _point(self, home: Path, number: str) -> None:
        digest = hashlib.sha256(files.read(home / number / MANIFEST)).hexdigest()
        files.replace(home / "current", json_bytes({"version": number, "manifest_sha256": digest}))

    @contextmanager
    def _publishing(self, home: Path) -> Iterator[None]:
        """Hold the publisher's lock of a name, with nothing left of publishers that were killed."""
        self._home(home.name)
        with ExitStack() as held:
            try:
                files.make_directory(home)
                held.enter_context(files.locked(home / ".lock"))
            except OSError as error:
                raise _not_written(home, error) from error
            self._clean(home)
            yield

    def _clean(self, home: Path) -> None:
        """Delete what is invisible, but an empty directory for the last number given, if that was removed."""
        keeper = f".removed-{self._last_number(home)}"
        try:
            for left in sorted((*home.glob(".writing-*"), *home.glob(".removed-*"))):
                if left.name.startswith(".writing-"):
                    log.warning("%s: left by a publisher that was killed; removed", left)
                files.empty(left) if left.name == keeper else files.remove(left)
        except OSError as error:
            log.warning("%s: %s; what is left there is invisible and in nobody's way", home, error)


def _not_written(home: Path, error: OSError, outcome: str = "nothing was published") -> StoreError:
    hint = "; free some space" if error.errno in (ENOSPC, EDQUOT) else ""
    return StoreError(f"{home}: cannot be written ({error.strerror or error}){hint}; {outcome}")
