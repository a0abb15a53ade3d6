"""Retraining: ingest → compare with the champion's data → train → evaluate → gate → publish or keep.

A retrain holds a lock of the model's name in the store from beginning to end, so that two of them never
overlap, whoever starts them. Another model's is not kept waiting.
"""

from __future__ import annotations

import dataclasses
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mfpipe import decisions, files
from mfpipe.drift import Limits
from mfpipe.errors import GateError, ParameterError, StoreError
from mfpipe.gate import GateRules
from mfpipe.job import Data, Place
from mfpipe.pipeline import Callbacks, models_from
from mfpipe.resuming import data_of
from mfpipe.retrain_steps import Steps
from mfpipe.runs import Checkpoints, order_held
from mfpipe.store import Store, parse_name

log = logging.getLogger(__name__)

__all__ = ["Request", "Steps", "require_not_refused", "resume", "retrain", "retraining"]


@dataclass(frozen=True)
class Request:
    """What a retrain is asked to do.

    Parameters
    ----------
    data : Data
        With a `random` or `time` holdout and without test files: what both systems are judged on must be
        rows that neither has trained on, every night.
    name : str
    model : str, optional
        By default the champion's, and `als` for a first version.
    params : dict
        Those of the model's parameters that are to be others than the champion's.
    place : Place
    update : bool
        Solve the rows that new ratings touch before the first iteration.
    cold_start : bool
        Begin from the keyed start rather than from the champion's factors.
    refit : bool
        Publish a model fitted on all rows, the held-out ones included, once the gate has let it pass.
    force : bool
        Publish even if refused; recorded.
    limits : Limits
    rules : GateRules
    keep_versions : int, optional
        Delete all but this many of the latest versions after publishing; by default none.
    checkpoints : Checkpoints
    run : str, optional
        Id for the run.
    """

    data: Data
    name: str
    model: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    place: Place = field(default_factory=Place)
    update: bool = False
    cold_start: bool = False
    refit: bool = False
    force: bool = False
    limits: Limits = field(default_factory=Limits)
    rules: GateRules = field(default_factory=GateRules)
    keep_versions: int | None = None
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    run: str | None = None

    def __post_init__(self):
        if parse_name(self.name)[1]:
            raise ParameterError(f"--name {self.name}: name the model without a version")
        if self.data.test:
            raise ParameterError("--test: a retrain holds out rows that no version has trained on; --holdout")
        if self.data.split_by().kind == "last":
            raise ParameterError(
                f"--holdout {self.data.holdout}: a rating that is rated again becomes a user's last after a "
                "version has trained on it; hold out random:FRACTION or time:FRACTION"
            )
        if self.update and self.cold_start:
            raise ParameterError("--update and --cold-start: give one of them")
        if self.keep_versions is not None and self.keep_versions < 1:
            raise ParameterError(f"--keep-versions {self.keep_versions}: must be 1 or more")
        if self.model is not None:
            models_from([self.model], self.params)

    def options(self) -> dict[str, Any]:
        """What decides the outcome besides data, model and champion; JSON values."""
        keys = ("update", "cold_start", "refit", "force", "keep_versions")
        return {
            **{key: getattr(self, key) for key in keys},
            "limits": dataclasses.asdict(self.limits),
            "rules": dataclasses.asdict(self.rules),
        }


@contextmanager
def retraining(
    request: Request,
    store: Store,
    on_iteration: Callbacks = (),
    stage: Callable[[str], Any] = log.info,
) -> Iterator[Steps]:
    """The steps of a retrain, with the lock of its name held while the block runs.

    Raises
    ------
    StoreError
        The store cannot be written, or holds versions of the name none of which is current.
    """
    store.require_writable(request.name)
    lock = decisions.home(store, request.name) / ".lock"
    began = time.perf_counter()
    try:
        if files.is_locked(lock):
            stage(f"{request.name} is being retrained by another process; waiting for it to end")
        held = files.locked(lock)
        held.__enter__()
    except OSError as error:
        raise StoreError(f"{lock}: {error.strerror or error}") from error
    try:
        waited = time.perf_counter() - began
        run = request.run or f"{request.name[:80]}-{secrets.token_hex(3)}"
        with Steps(request, store, run, on_iteration, stage) as steps:
            steps.timings["wait"] = waited
            yield steps
    finally:
        held.__exit__(None, None, None)


def retrain(
    request: Request,
    store: Store,
    on_iteration: Callbacks = (),
    stage: Callable[[str], Any] = log.info,
) -> dict:
    """Retrain a model, and publish it if the gate lets it pass.

    Returns
    -------
    dict
        What `retrain --json` prints: `decision` (published or kept), `words`, `name, version, champion, run,
        when, forced, model, params, start, data, drift, gate, test, fit, timings`.

    Raises
    ------
    GateError
        Refused; its `record` is the same dict, and `current` is what it was.
    RatingsError, NumericError, StoreError, ClusterError, ParameterError
        Nothing is published then; after an interruption the same command goes on from the checkpoint.
    """
    with retraining(request, store, on_iteration, stage) as steps:
        steps.ingest()
        if steps.compare_data():
            steps.train()
            steps.evaluate()
            if steps.judge():
                steps.publish()
        record = steps.conclude()
    require_not_refused(record)
    return record


def resume(
    run: str,
    store: Store,
    on_iteration: Callbacks = (),
    stage: Callable[[str], Any] = log.info,
    **place: Any,
) -> dict:
    """Go on with an interrupted retrain: as `retrain` with the request that it began with.

    Its checkpoint is used if ratings and champion are still the same, and otherwise it begins again, because
    what it had trained would be judged against another champion than it was trained from.
    """
    order = order_held(store.path, run)
    where = dataclasses.replace(Place(**order["place"]), **place)
    options = dict(order["retrain"])
    del options["champion"]
    rules, limits = GateRules(**options.pop("rules")), Limits(**options.pop("limits"))
    request = Request(
        data_of(order),
        order["name"],
        order["model"],
        order["params"],
        where,
        limits=limits,
        rules=rules,
        checkpoints=Checkpoints(**order["checkpoints"]),
        **options,
    )
    return retrain(request, store, on_iteration, stage)


def require_not_refused(record: dict) -> None:
    """GateError if a retrain was refused."""
    if record["decision"] == "refused":
        stays = (
            f"{record['name']}@{record['champion']} stays current" if record["champion"] else "none stored"
        )
        raise GateError(f"{record['name']}: refused ({stays}): {record['words']}", record)
