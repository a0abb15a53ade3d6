"""A stored model over HTTP: recommend, similar, predict, fold in, explain.

Every request takes hold of one loaded version when it begins and answers from that alone, naming it; a
watcher loads what `current` moves to and then puts it in the place of the old one, which goes on until its
last request is answered. A version that cannot be loaded leaves the old one in service, and /health says so.
"""

from __future__ import annotations

import html
import logging
import threading
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from contextlib import asynccontextmanager
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from pydantic import AfterValidator, BaseModel, Field, FiniteFloat, StrictInt, StrictStr

from mfpipe import rated
from mfpipe.errors import MfpipeError, ParameterError, StoreError
from mfpipe.explain import record as explanation
from mfpipe.fitted import SOURCES
from mfpipe.folding import fold_in_rows
from mfpipe.recommend import Recommender, Rules
from mfpipe.similar import Similar
from mfpipe.store import Store, Version

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)  # seconds, of the latency histogram
MOST_IDS = 1000  # a request
NEW = "\0"  # stands for the person folded in; no id of a file has control characters


def _id_text(given: str | int) -> str:
    text = str(given)
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("not Unicode text")
    return text


Id = Annotated[StrictStr | StrictInt, AfterValidator(_id_text)]
Ids = Annotated[list[str], Query(min_length=1, max_length=MOST_IDS)]
Count = Annotated[int, Query(ge=1, le=MOST_IDS)]


class Pairs(BaseModel):
    """(user, item) pairs to predict."""

    pairs: Annotated[list[tuple[Id, Id]], Field(min_length=1, max_length=100_000)]
    clip: tuple[FiniteFloat, FiniteFloat] | None = None


class Rating(BaseModel):
    """A rating by the person to fold in."""

    item: Id
    rating: FiniteFloat


class Profile(BaseModel):
    """Someone's ratings, each item once, and how many items to recommend."""

    ratings: Annotated[list[Rating], Field(min_length=1, max_length=10_000)]
    n: Annotated[int, Field(ge=1, le=MOST_IDS)] = 10


class Served:
    """One loaded version with what its answers need, never changed once made."""

    def __init__(self, version: Version):
        self.about = {"name": version.name, "version": version.number}
        self.key = version.path, version.manifest["created"]
        self.fitted = rated.load(version)
        self._recommender = Recommender(self.fitted, MOST_IDS, Rules(include_seen=self.fitted.rated is None))
        self._similar: dict[str, Similar] = {}
        self._warm()

    def _warm(self) -> None:
        """Load the kernels and index the ids before the first request needs them."""
        for ids in (self.fitted.users, self.fitted.items):
            ids.rows(pa.array([""]))
        self.recommender(1, True).known(np.arange(1))
        one = np.zeros(1, np.int32)
        fold_in_rows(self.fitted, pa.array([NEW]), one, one, np.ones(1))

    def recommender(self, n: int, include_seen: bool) -> Recommender:
        """What makes lists of n; ParameterError if seen items are to be left out and are not known."""
        if not include_seen:
            rated.require(self.fitted.rated, "leaving out seen items")
        return self._recommender.of(n, include_seen)

    def similar(self, side: str) -> Similar:
        """The search among one side's rows, made when it is first asked for."""
        if side not in self._similar:
            self._similar[side] = Similar(self.fitted, side)
        return self._similar[side]


class Watched:
    """The version in service, and the watcher that replaces it when `current` moves.

    Parameters
    ----------
    store : Store
    name : str
    number : str, optional
        Serve this version for good.

    Raises
    ------
    StoreError
        The first version cannot be loaded.
    """

    def __init__(self, store: Store, name: str, number: str | None = None):
        self._store, self._name, self._pinned = store, name, number is not None
        self.served = Served(store.version(name, number))
        self.problem: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="mfpipe-watch", daemon=True)

    def start(self) -> None:
        if not self._pinned:
            self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            self.look()

    def look(self) -> None:
        """Take up the current version if it is another one."""
        try:
            version = self._store.version(self._name)
            if (version.path, version.manifest["created"]) != self.served.key:
                self.served = Served(version)
                log.info("now serving %s@%s", version.name, version.number)
            self.problem = None
        except Exception as error:  # whatever is wrong with the new version, the old one can still answer
            if str(error) != self.problem:
                log.warning("still serving %s: %s", self.served.about, error)
            self.problem = str(error) or type(error).__name__


class Requests:
    """Counts and latencies of requests, as Prometheus reads them."""

    def __init__(self):
        self._lock = threading.Lock()
        self._counts: Counter = Counter()
        self._seconds: dict[str, list[int]] = defaultdict(lambda: [0] * (len(BOUNDS) + 1))
        self._total: dict[str, float] = defaultdict(float)

    def add(self, path: str, status: int, seconds: float) -> None:
        with self._lock:
            self._counts[path, status] += 1
            self._seconds[path][bisect_left(BOUNDS, seconds)] += 1
            self._total[path] += seconds

    def text(self, version: str) -> str:
        """The metrics in Prometheus' text format."""
        lines = ["# TYPE mfpipe_requests_total counter"]
        with self._lock:
            for (path, status), count in sorted(self._counts.items()):
                lines.append(f'mfpipe_requests_total{{path="{path}",status="{status}"}} {count}')
            lines.append("# TYPE mfpipe_request_seconds histogram")
            for path, counts in sorted(self._seconds.items()):
                for bound, total in zip((*BOUNDS, "+Inf"), np.cumsum(counts).tolist(), strict=True):
                    lines.append(f'mfpipe_request_seconds_bucket{{path="{path}",le="{bound}"}} {total}')
                lines.append(f'mfpipe_request_seconds_sum{{path="{path}"}} {self._total[path]:.6f}')
                lines.append(f'mfpipe_request_seconds_count{{path="{path}"}} {sum(counts)}')
        lines += ["# TYPE mfpipe_version gauge", f"mfpipe_version {version}"]
        return "\n".join(lines) + "\n"


def application(watched: Watched) -> FastAPI:
    """The application that answers from what is watched."""

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        watched.start()
        yield
        watched.stop()

    # FastAPI's own documentation pages fetch scripts from another host; `_page` needs none.
    app = FastAPI(title="mfpipe", lifespan=lifespan, docs_url=None, redoc_url=None)
    requests = Requests()
    _add_measuring(app, requests)
    _add_errors(app)
    _add_questions(app, watched)
    _add_profiles(app, watched)

    @app.get("/health")
    def health() -> dict[str, Any]:
        """Which version is in service, and what keeps a newer one from it."""
        return watched.served.about | {
            "status": "stale" if watched.problem else "ok",
            "problem": watched.problem,
        }

    @app.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> str:
        """Request counts and latencies, for Prometheus."""
        return requests.text(watched.served.about["version"])

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def page() -> str:
        return _page(app.openapi())

    return app


def _add_measuring(app: FastAPI, requests: Requests) -> None:
    @app.middleware("http")
    async def measure(request: Request, call_next):
        started, status = time.perf_counter(), 500
        try:
            response = await call_next(request)
            status = response.status_code
            return response
        finally:
            # The route's own path, never the client's text.
            path = getattr(request.scope.get("route"), "path", "other")
            requests.add(path, status, time.perf_counter() - started)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(MfpipeError)
    def refused(request: Request, error: MfpipeError):
        return JSONResponse({"detail": str(error)}, 500 if isinstance(error, StoreError) else 422)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError):
        # Without the input, which may be text that no answer can be encoded with.
        faults = [{"where": list(map(str, one["loc"])), "what": one["msg"]} for one in error.errors()]
        return JSONResponse({"detail": faults}, 422)


def _add_questions(app: FastAPI, watched: Watched) -> None:
    @app.get("/recommend")
    def recommend(user: Ids, n: Count = 10, include_seen: bool = False) -> dict[str, Any]:
        """The n best items of each user; `source` says how a user's scores were made."""
        served = watched.served
        recommender = served.recommender(n, include_seen)
        found = recommender.for_users(pa.array(user, pa.string()))
        return served.about | {"users": recommender.records(user, found)}

    @app.get("/similar")
    def similar(item: Annotated[list[str], Query(max_length=MOST_IDS)] = [],  # noqa: B006
                user: Annotated[list[str], Query(max_length=MOST_IDS)] = [],  # noqa: B006
                n: Count = 10) -> dict[str, Any]:  # fmt: skip
        """The items (or users) whose factors have the largest cosines with those of each given one."""
        served = watched.served
        if bool(item) == bool(user):
            raise ParameterError("item or user: give one of them")
        side, ids = ("item", item) if item else ("user", user)
        return served.about | {"similar": served.similar(side).records(ids, n)}

    @app.get("/explain")
    def explain(user: str, item: str) -> dict[str, Any]:
        """The parts of one prediction: biases, and the share of each of the user's own ratings."""
        served = watched.served
        return served.about | explanation(served.fitted, user, item)

    @app.post("/predict")
    def predict(asked: Pairs) -> dict[str, Any]:
        """A rating for each pair, in the order given; `source` says what was known."""
        served = watched.served
        users, items = (pa.array(ids, pa.string()) for ids in zip(*asked.pairs, strict=True))
        predicted, source = served.fitted.predict(users, items)
        if asked.clip:
            low, high = asked.clip
            if low > high:
                raise ParameterError("clip: the lower number comes first")
            predicted = np.clip(predicted, low, high)
        rows = zip(asked.pairs, predicted.tolist(), SOURCES[source].tolist(), strict=True)
        columns = ({"user": u, "item": i, "prediction": p, "source": s} for (u, i), p, s in rows)
        return served.about | {"predictions": list(columns)}


def _add_profiles(app: FastAPI, watched: Watched) -> None:
    @app.post("/fold-in")
    def fold_in(profile: Profile) -> dict[str, Any]:
        """Factors of someone new, from their ratings, and the n best items for them."""
        served = watched.served
        texts = [one.item for one in profile.ratings]
        if len(set(texts)) < len(texts):
            raise ParameterError("ratings: an item is rated twice")
        items = served.fitted.items.rows(pa.array(texts, pa.string()))
        rating = np.array([one.rating for one in profile.ratings])
        folded = fold_in_rows(served.fitted, pa.array([NEW]), np.zeros(len(items), np.int64), items, rating)
        recommender = served.recommender(profile.n, True)  # of people the model knows; not of this one
        (one,) = recommender.records([NEW], recommender.for_folded(folded, leave_out_rated=True))
        del one["user"]
        return (
            served.about
            | one
            | {
                "columns": served.fitted.model.columns(),
                "factors": folded.rows[0].tolist(),
                "left_out": folded.left_out,
            }
        )


def _page(schema: dict) -> str:
    """The schema as a page: each path with what it takes."""
    rows = []
    for path, methods in schema["paths"].items():
        for method, about in methods.items():
            takes = [f"{p['name']}{'' if p['required'] else '?'}" for p in about.get("parameters", [])]
            body = (
                about.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            )
            if "$ref" in body:
                fields = schema["components"]["schemas"][body["$ref"].rsplit("/", 1)[1]]["properties"]
                takes.append("{" + ", ".join(fields) + "}")
            cells = (f"{method.upper()} {path}", ", ".join(takes), about.get("description", ""))
            rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>mfpipe</title>'
        "<style>body{font:16px sans-serif;margin:2em;max-width:60em}td{padding:.4em 1em .4em 0;"
        "vertical-align:top}td:first-child{white-space:nowrap;font-family:monospace}</style>"
        f"<h1>mfpipe</h1><table>{''.join(rows)}</table>"
        '<p>The whole schema: <a href="/openapi.json">/openapi.json</a></p></html>'
    )
