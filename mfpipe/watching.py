"""What a fit tells the page that shows it while it runs; see `mfpipe.dashboards`.

A fit that has a Dask client installs the page on its scheduler, and sends it events: at most two a
second, each with all that is new. Whatever goes wrong with that is one line of the log, and no more.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakKeyDictionary

from mfpipe.fit import Fit, State, fit
from mfpipe.models import FactorModel, Model
from mfpipe.models.base import SIDES
from mfpipe.ratings import Ratings
from mfpipe.remaining import fall, seconds_left

log = logging.getLogger(__name__)

TOPIC = "mfpipe"  # of the events, and name of the page
EVERY = 0.5  # seconds between two events, which cost about 2 ms each
PATIENCE = 2.0  # seconds that the end of a fit waits for its last event
COLUMNS = (
    "iteration", "objective", "item_objective", "train_rmse", "test_rmse", "seconds", "item_seconds",
    "user_seconds", "ratings_per_second", "fall",
)  # fmt: skip
_PAGES: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()  # of clients: whether their scheduler has the page


def watched(
    model: Model,
    ratings: Ratings,
    executor: Any,
    name: str,
    on_iteration: Iterable[Callable[[dict], None]] = (),
    state: State | None = None,
    report: str | None = None,
    **options: Any,
) -> Fit:
    """`mfpipe.fit.fit`, shown on the dashboard of the executor's Dask cluster if it has one.

    Parameters
    ----------
    model, ratings, executor, on_iteration, state, **options
        See `mfpipe.fit.fit`.
    name : str
        What to call the fit there.
    report : str, optional
        How to get the report once the fit is stored.
    """
    client = getattr(executor, "client", None)
    if client is None or not has_page(client):
        return fit(model, ratings, executor, on_iteration=on_iteration, state=state, **options)
    feed = Feed(client, model, ratings, name, report, state.history if state else ())
    try:
        result = fit(model, ratings, executor, on_iteration=[*on_iteration, feed], state=state, **options)
    except BaseException as error:
        how = "failed" if isinstance(error, Exception) else "stopped"
        feed.close(how, [f"{type(error).__name__}: {error}"])
        raise
    feed.close("converged" if result.converged else "not converged", result.warnings)
    return result


def has_page(client: Any) -> bool:
    """Whether the client's scheduler serves the live page, which is installed there first."""
    if client not in _PAGES:
        _PAGES[client] = _install(client)
    return _PAGES[client]


def _install(client: Any) -> bool:
    try:
        from mfpipe.dashboards.live.plugin import LivePage, trouble

        client.register_plugin(LivePage())
        why = client.run_on_scheduler(trouble)
    except Exception as error:  # whatever a scheduler of another make answers, the fit does not need it
        why = f"{type(error).__name__}: {_line(error)}"
    if why:
        log.info("no live page on the Dask dashboard (%s)", why)
        return False
    log.info("watch it learn: %s", client.dashboard_link.removesuffix("status") + TOPIC)
    return True


def _line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


class Feed:
    """Events of one fit: a callback for `mfpipe.fit.fit`, which leaves the sending to the client's loop.

    Parameters
    ----------
    client : distributed.Client
    model : Model
    ratings : Ratings
    name : str
    report : str, optional
    history : sequence of dict
        Of the iterations before the ones that it will be called with.
    """

    def __init__(self, client, model: Model, ratings: Ratings, name: str, report=None, history=()):
        self._client, self._id = client, uuid.uuid4().hex
        self._tol, self._most = getattr(model, "tol", 0.0), getattr(model, "max_iter", 1)
        self._n_ratings = len(ratings)
        self._records: deque[dict] = deque(history)
        self._other: dict[str, Any] = {"about": _about(client, model, ratings, name, report)}
        self._objectives: list[float] = []
        self._seconds: list[float] = []
        self._sums: dict[str, list[float]] = {}
        self._scheduled = self._broken = False
        import asyncio  # not at the top: a fit that nobody watches starts a tenth of a second sooner

        self._one_at_a_time = asyncio.Lock()  # so that events arrive in order
        self._sent = time.monotonic() - EVERY
        self._soon()

    def __call__(self, record: dict) -> None:
        self._records.append(record)
        self._soon()

    def close(self, state: str, words: list[str]) -> None:
        """Say how it ended, and wait until that has been said."""
        self._other["ended"] = {"state": state, "words": words, "at": time.time()}
        if self._broken or self._client.status != "running":
            return
        try:
            self._client.sync(self._send, callback_timeout=PATIENCE)
        except Exception as error:  # as above: what the fit itself did, or raised, is what counts
            log.info("the live page was not told how the fit ended (%s)", _line(error))

    def _soon(self) -> None:
        if not (self._scheduled or self._broken):
            self._scheduled = True
            self._client.loop.add_callback(self._send_when_due)

    async def _send_when_due(self) -> None:
        import asyncio

        await asyncio.sleep(self._sent + EVERY - time.monotonic())
        self._scheduled = False  # before what is new is taken, so that what comes after is not forgotten
        try:
            await self._send()
        except Exception as error:
            self._broken = True
            log.info("the live page is no longer told of this fit (%s)", _line(error))

    async def _send(self) -> None:
        async with self._one_at_a_time:
            message, self._other = {"fit": self._id, **self._other}, {}
            records = [self._records.popleft() for _ in range(len(self._records))]
            if records:
                message |= self._learnt(records)
            if len(message) > 1:
                self._sent = time.monotonic()
                await self._client.scheduler.log_event(topic=TOPIC, msg=message)

    def _learnt(self, records: list[dict]) -> dict[str, Any]:
        """Iterations as columns, and what they add up to so far."""
        columns: dict[str, list] = {key: [] for key in COLUMNS}
        for record in records:
            for key, value in self._row(record).items():
                columns[key].append(value)
        for half in (half for record in records for half in record["half_steps"]):
            seconds = [part["seconds"] for part in half["partitions"]]
            before = self._sums.get(half["side"], [0.0] * len(seconds))
            self._sums[half["side"]] = [a + b for a, b in zip(before, seconds, strict=True)]
        done = len(self._objectives)
        return {
            "columns": columns,
            "partitions": {
                half["side"]: {
                    "last": [part["seconds"] for part in half["partitions"]],
                    "mean": [total / done for total in self._sums[half["side"]]],
                    "ratings": [part["ratings"] for part in half["partitions"]],
                }
                for half in records[-1]["half_steps"]
            },
            "left": seconds_left(self._objectives, self._seconds, self._tol, self._most),
        }

    def _row(self, record: dict) -> dict[str, Any]:
        halves = {half["side"]: half for half in record["half_steps"]}
        seconds = {side: halves[side]["seconds"] if side in halves else None for side in SIDES}
        updating = sum(value for value in seconds.values() if value is not None)
        before = self._objectives[-1] if self._objectives else None
        self._objectives.append(record["objective"])
        self._seconds.append(record["seconds"])
        return {
            "iteration": record["iteration"],
            "objective": record["objective"],
            "item_objective": halves["item"]["objective"] if "item" in halves else None,
            "train_rmse": record["train_rmse"],
            "test_rmse": record["test_rmse"],
            "seconds": record["seconds"],
            "item_seconds": seconds["item"],
            "user_seconds": seconds["user"],
            "ratings_per_second": len(halves) * self._n_ratings / updating if updating else None,
            "fall": None if before is None else fall(before, record["objective"]),
        }


def _about(client, model: Model, ratings: Ratings, name: str, report: str | None) -> dict[str, Any]:
    """What stays the same during a fit, in plain values."""
    width = len(model.columns()) * model.storage.itemsize
    rows = {"user": len(ratings.users), "item": len(ratings.items)}
    grouped = 2 * len(ratings) * (4 + model.storage.itemsize) + 8 * sum(rows.values())
    return {
        "name": name,
        "model": model.name,
        "params": model.params,
        "iterates": isinstance(model, FactorModel),
        "max_iter": getattr(model, "max_iter", 1),
        "tol": getattr(model, "tol", None),
        "ratings": len(ratings),
        "rows": rows,
        "bytes": {**{f"{side} factors": rows[side] * width for side in SIDES}, "ratings": grouped},
        "client": client.id,
        "began": time.time(),
        "report": report,
    }
