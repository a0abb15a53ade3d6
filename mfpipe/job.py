"""What a job is given: ratings to train on and to test with, and a place to run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mfpipe import dataset
from mfpipe import evaluate as evaluation
from mfpipe.addresses import require_cluster, require_dashboard
from mfpipe.errors import ParameterError
from mfpipe.evaluate import Holdout
from mfpipe.fit import Pairs
from mfpipe.ids import IdMap
from mfpipe.models.base import flag
from mfpipe.ratings import Ratings, Rules, TestRatings, ingest, ingest_unhashed, read_test

log = logging.getLogger(__name__)

DEFAULT_HOLDOUT = "random:0.1"


@dataclass(frozen=True)
class Data:
    """What to train on and what to test with.

    Parameters
    ----------
    inputs : sequence of paths
        Rating files, directories or globs, or one ingested dataset.
    test : sequence of paths, optional
        Test files.
    holdout : str, optional
        Used without test files; `DEFAULT_HOLDOUT` if neither is given.
    rules : Rules
    """

    inputs: Sequence[str]
    test: Sequence[str] = ()
    holdout: str | None = None
    rules: Rules = field(default_factory=Rules)

    def __post_init__(self):
        if self.test and self.holdout is not None:
            raise ParameterError("--test and --holdout: give one of them")
        if not self.test:
            self.split_by()

    def about(self) -> dict[str, Any]:
        """For a manifest; JSON values."""
        rules = dataclasses.asdict(self.rules)
        return {"inputs": [str(path) for path in self.inputs], "rules": json.loads(json.dumps(rules))}

    def split_by(self) -> Holdout:
        return Holdout.parse(DEFAULT_HOLDOUT if self.holdout is None else self.holdout)


@dataclass(frozen=True)
class Place:
    """Where a fit runs; see `mfpipe.executors.executor`.

    Parameters
    ----------
    cluster, workers, threads_per_worker, partitions, dashboard_address
    allow_remote : bool
        Whether the dashboard may listen to other machines, and a scheduler be on one without TLS.
    """

    cluster: str = "local"
    workers: int | None = None
    threads_per_worker: int | None = None
    partitions: int | None = None
    dashboard_address: str | None = None
    allow_remote: bool = False

    def __post_init__(self):
        for name in ("workers", "threads_per_worker", "partitions"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ParameterError(f"{flag(name)} {value}: must be 1 or more")
        require_cluster(self.cluster, self.allow_remote)
        if self.dashboard_address is not None:
            require_dashboard(self.dashboard_address, self.allow_remote)

    def settings(self) -> dict[str, Any]:
        """What an executor is told; whether the place is allowed has been decided here."""
        return {name: value for name, value in vars(self).items() if name != "allow_remote"}

    def settings_of_calls(self) -> dict[str, Any]:
        """For `mfpipe.independent.independent`, which has no partitions."""
        return {name: value for name, value in self.settings().items() if name != "partitions"}


@dataclass
class Prepared:
    """Ratings and test records in memory, with what is worth saying about them."""

    ratings: Ratings
    test: TestRatings
    about: dict
    sha256: str
    seconds: float
    pairs: Pairs = field(init=False)

    def __post_init__(self):
        self.pairs = Pairs.of(self.test.user, self.test.item, self.test.rating, self.ratings)

    def sums(self) -> dict[str, str]:
        """sha256 of what is trained on and of what is tested with."""
        return {"ratings": self.sha256, "test": self._test_sha256}

    @cached_property
    def _test_sha256(self) -> str:
        digest = hashlib.sha256(self.test.rating.tobytes())
        for ids in (self.test.user, self.test.item):
            digest.update(IdMap(ids).lines())
        return digest.hexdigest()

    def data(self) -> dict:
        """The `data` of a manifest."""
        return self._figures | self.about

    @cached_property
    def _figures(self) -> dict:
        return {
            "n_ratings": len(self.ratings),
            "n_users": len(self.ratings.users),
            "n_items": len(self.ratings.items),
            "sha256": self.sha256,
            "global_mean": self.ratings.mean,
            "spread": self.ratings.spread,
            "time": self.ratings.time_range(),
        }


def read_ratings(data: Data, quarantine: Path | None = None) -> tuple[Ratings, dict]:
    """All ratings of the inputs, and the report of their ingest."""
    if dataset.is_dataset(data.inputs):
        return dataset.read(Path(data.inputs[0]))
    ratings, made = ingest(data.inputs, data.rules, quarantine)
    return ratings, made.record()


def prepare(data: Data, quarantine: Path | None = None) -> Prepared:
    """Read and encode the ratings, and read or hold out the test records."""
    started = time.perf_counter()
    with ThreadPoolExecutor(1, "mfpipe-hashing") as beside:
        ratings, reporting = _reading(data, quarantine, beside)
        about: dict[str, Any] = data.about()
        if data.test:
            quarantined = None if quarantine is None else quarantine.with_suffix(".test" + quarantine.suffix)
            test, test_report = read_test(data.test, data.rules, quarantined)
            seen = evaluation.seen_in_training(test, ratings)
            if seen:
                log.warning("%d of %d test records are also in the training ratings", seen, len(test))
            report = reporting()
            about |= {"ingest": report, "test": [str(path) for path in data.test]}
            about |= {"test_rejected": test_report.rejected, "test_seen_in_training": seen}
            sha256 = report["sha256"]
        else:
            holdout = data.split_by()
            ratings, test = holdout.split(ratings)
            about |= {"ingest": reporting(), "holdout": str(holdout)}
            sha256 = ratings.fingerprint()
    return Prepared(ratings, test, about, sha256, time.perf_counter() - started)


def _reading(
    data: Data, quarantine: Path | None, beside: Executor
) -> tuple[Ratings, Callable[[], dict[str, Any]]]:
    """All ratings of the inputs, and the report of their ingest, whose sha256 is made meanwhile."""
    if dataset.is_dataset(data.inputs):
        ratings, report = read_ratings(data)
        return ratings, lambda: report
    ratings, made = ingest_unhashed(data.inputs, data.rules, quarantine)
    hashing = beside.submit(ratings.fingerprint)
    return ratings, lambda: dataclasses.replace(made, sha256=hashing.result()).record()
