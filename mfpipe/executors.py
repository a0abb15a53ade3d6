"""Where a half-step runs: in this process, in its threads, or on a Dask cluster.

Every executor runs the same function on the same blocks and returns rows in row order, so that where
a fit runs, and in how many pieces, changes nothing in its result.
"""

from __future__ import annotations

import time
import uuid
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import numpy as np

from mfpipe import scratch
from mfpipe.cluster import connect, gathered, one_blas_thread, with_retries
from mfpipe.cores import available_cores
from mfpipe.errors import ClusterError
from mfpipe.memory import Reused
from mfpipe.models import FactorModel
from mfpipe.models.base import Block, Totals, Update, Updates
from mfpipe.partition import block_of, both, frame, group, split, write
from mfpipe.ratings import Ratings

if TYPE_CHECKING:
    from distributed import Client


class Part(NamedTuple):
    """One partition's share of a half-step."""

    update: Update
    seconds: float
    ratings: int
    worker: str


class HalfStep(NamedTuple):
    """One side updated: rows in row order, with the sums and timings they came with."""

    rows: np.ndarray
    squared_error: np.ndarray
    penalty: np.ndarray
    seconds: float
    partitions: list[dict]
    unfinished: int  # rows that are not at their optimum; see `Update`


class Executor(Protocol):
    """Runs half-steps over all blocks of a side."""

    cluster: str
    workers: int

    def half_step(
        self, model: Updates, side: str, own: np.ndarray, other: np.ndarray, evaluate: bool = False
    ) -> HalfStep:
        """Update every row of `side` with `other` fixed, or only evaluate the rows it has."""


def update_block(
    block: Block,
    model: Updates,
    side: str,
    own,
    other: np.ndarray,
    totals: Totals,
    evaluate: bool,
    worker: str,
) -> Part:
    """Update or evaluate one block, and time it; `own` holds the rows of the whole side, or none."""
    started = time.perf_counter()
    mine = own[block.first_row : block.first_row + block.n_rows]
    if evaluate:
        assert isinstance(model, FactorModel)
        update = model.evaluate(side, block, mine, other, totals)
    else:
        update = model.update(side, block, mine, other, totals)
    return Part(update, time.perf_counter() - started, len(block.values), worker)


def _totals(ratings: Ratings) -> Totals:
    return Totals(len(ratings), ratings.mean)


def _joined(parts: list[Part], started: float, memory: Reused) -> HalfStep:
    updated, squared_error, penalty = zip(*(part.update[:3] for part in parts), strict=True)
    shape = (sum(map(len, updated)), *updated[0].shape[1:])
    rows = np.concatenate(updated, out=memory.empty(shape, updated[0].dtype))
    partitions = [
        {"partition": k, "seconds": part.seconds, "ratings": part.ratings, "worker": part.worker}
        for k, part in enumerate(parts)
    ]
    unfinished = sum(part.update.unfinished for part in parts)
    seconds = time.perf_counter() - started
    sums = np.concatenate(squared_error), np.concatenate(penalty)
    return HalfStep(rows, *sums, seconds, partitions, unfinished)


class InProcess:
    """Half-steps in this process, on one thread or several.

    Parameters
    ----------
    ratings : Ratings
    dtype : numpy.dtype
        Of the values the model solves with.
    n_partitions : int
    workers : int
        Threads; the kernels release the GIL.
    """

    def __init__(self, ratings: Ratings, dtype: np.dtype, n_partitions: int, workers: int = 1):
        self.cluster = "serial" if workers == 1 else "threads"
        self.workers = workers
        self._blocks = {side: split(block, n_partitions) for side, block in both(ratings, dtype).items()}
        self._totals, self._memory = _totals(ratings), Reused()
        self._pool = ThreadPoolExecutor(workers, "mfpipe") if workers > 1 else None

    def half_step(self, model, side, own, other, evaluate=False) -> HalfStep:
        def run(block: Block) -> Part:
            return update_block(block, model, side, own, other, self._totals, evaluate, "this process")

        started = time.perf_counter()
        parts = list((self._pool.map if self._pool else map)(run, self._blocks[side]))
        return _joined(parts, started, self._memory)

    def close(self) -> None:
        if self._pool:
            self._pool.shutdown(wait=False)  # it is idle, or there was a signal and nothing is waited for


# The scheduler's dashboard shows tasks by the name of their function: one for each thing that happens.


def build_blocks(part, first_row: int, n_rows: int) -> list[Block]:
    """One partition of a Dask DataFrame as the one block of a bag's partition."""
    return [block_of(part, first_row, n_rows)]


class Rows:
    """Both sides' rows on their way to a half-step.

    `token` is new each time: Dask names a task after its arguments, and would otherwise read through all
    of the rows for a name, or give back the result of an equal half-step before.
    """

    def __init__(self, own: np.ndarray, other: np.ndarray):
        self.own, self.other, self.token = own, other, uuid.uuid4().hex

    def __dask_tokenize__(self) -> str:
        return self.token


class RowsHere:
    """Where a worker in this process finds the rows.

    They stay out of what is sent, because Dask keeps the last 1000 messages within a process whole.
    """

    _held: ClassVar[dict[str, Rows]] = {}

    def __init__(self, token: str):
        self.token = token

    @classmethod
    @contextmanager
    def holding(cls, rows: Rows) -> Iterator[RowsHere]:
        """Lets tasks find these rows until the end of the context."""
        cls._held[rows.token] = rows
        try:
            yield cls(rows.token)
        finally:
            del cls._held[rows.token]

    own = property(lambda self: self._held[self.token].own)
    other = property(lambda self: self._held[self.token].other)

    def __dask_tokenize__(self) -> str:
        return self.token


def update_user_factors(blocks, model, rows: Rows | RowsHere, totals) -> list[Part]:
    """The user half-step of one partition, on a worker."""
    return _on_worker(blocks, model, "user", rows, totals)


def update_item_factors(blocks, model, rows: Rows | RowsHere, totals) -> list[Part]:
    """The item half-step of one partition, on a worker."""
    return _on_worker(blocks, model, "item", rows, totals)


_UPDATES = {"user": update_user_factors, "item": update_item_factors}


def evaluate_factors(blocks, model, rows: Rows | RowsHere, totals, side: str) -> list[Part]:
    """The errors of one partition's rows as they are, on a worker."""
    return _on_worker(blocks, model, side, rows, totals, evaluate=True)


def _on_worker(blocks, model, side: str, rows: Rows | RowsHere, totals, evaluate: bool = False) -> list[Part]:
    return [
        update_block(block, model, side, rows.own, rows.other, totals, evaluate, _this_worker())
        for block in blocks
    ]


def _this_worker() -> str:
    from distributed import get_worker

    return str(get_worker().address)


class OnCluster:
    """Half-steps as `map_partitions` over blocks that live on the workers of a Dask cluster.

    The partitions are Parquet files that every worker must be able to read; a worker that is lost takes
    only copies with it, because its blocks are built again from there, and factors come from here.

    Parameters
    ----------
    ratings, dtype, n_partitions
        See `InProcess`.
    client : distributed.Client
    directory : Path
        For the partition files.
    """

    def __init__(self, ratings: Ratings, dtype: np.dtype, n_partitions: int, client: Client, directory: Path):
        from dask import delayed
        from dask.bag import from_delayed

        self.client = client
        self.cluster = client.scheduler_info()["address"]
        self.workers = sum(client.nthreads().values())
        self._totals, self._memory = _totals(ratings), Reused()
        self.frames, self.blocks = {}, {}
        for side in ("user", "item"):
            blocks = split(group(ratings, side, dtype), n_partitions)
            try:
                specs = write(blocks, side, directory)
            except OSError as error:
                raise scratch.unusable(error) from error
            self.frames[side] = frame(specs, side, dtype)
            build = delayed(build_blocks)
            parts = zip(self.frames[side].to_delayed(), specs, strict=True)
            bag = from_delayed([build(part, s["first_row"], s["n_rows"]) for part, s in parts])
            self.blocks[side] = client.persist(bag)
        try:
            for bag in self.blocks.values():
                with_retries(client, partial(self._items, bag.map(len)))
        except FileNotFoundError as error:
            raise ClusterError(
                f"a worker of {self.cluster} cannot read {error.filename}: the partitions must lie on a "
                "file system that all workers share (set TMPDIR to one)"
            ) from error

    def half_step(self, model, side, own, other, evaluate=False) -> HalfStep:
        def run() -> list[Part]:
            with self._sent(Rows(own, other)) as rows:
                return self._items(self.graph(model, side, rows, evaluate))

        started = time.perf_counter()
        parts = with_retries(self.client, run)
        return _joined(parts, started, self._memory)

    def _items(self, bag: Any) -> list:
        """The items of a bag."""
        from distributed import futures_of

        with warnings.catch_warnings():
            # Dask advises scattering large arguments; see `_sent` for why these travel with the graph.
            warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
            # The one before is let go of with the message that brings this one: Dask's client sends no
            # second message within 10 ms.
            self._latest = self.client.persist(bag)
        return list(chain.from_iterable(gathered(self.client, futures_of(self._latest))))

    @contextmanager
    def _sent(self, rows: Rows) -> Iterator[Any]:
        """The rows as an argument of tasks.

        They are part of the graph, once, so that the scheduler can give them to another worker when one
        dies with its copy; scattered ones would be lost, and are no faster (measured, two processes: 28
        against 30 ms a half-step of small factors, 38 against 46 ms of 18 MB). A worker in this process
        finds them here.
        """
        from dask import delayed

        if self.cluster.startswith("inproc:"):
            with RowsHere.holding(rows) as here:
                yield here
        else:
            yield delayed(rows, name=f"factors-{rows.token}", pure=False, traverse=False)

    def graph(self, model: Updates, side: str, rows: Any, evaluate: bool = False):
        """The half-step as a Dask collection; `rows` as `_sent` gives them, or `Rows`."""
        update = partial(evaluate_factors, side=side) if evaluate else _UPDATES[side]
        return self.blocks[side].map_partitions(update, model=model, rows=rows, totals=self._totals)


@contextmanager
def executor(
    ratings: Ratings,
    dtype: np.dtype,
    cluster: str = "local",
    workers: int | None = None,
    threads_per_worker: int | None = None,
    partitions: int | None = None,
    dashboard_address: str | None = None,
    client: Client | None = None,
) -> Iterator[Any]:
    """An executor for these ratings, closed at the end with all that it started.

    Parameters
    ----------
    ratings : Ratings
    dtype : numpy.dtype
    cluster : str
        `serial`, `threads`, `local` (a Dask cluster of this machine), or a scheduler's address.
    workers, threads_per_worker : int, optional
        Of threads, all cores by default. Of a local cluster, that many worker processes; by default one
        worker inside this process with all cores as threads, which shares the factors without copies.
    partitions : int, optional
        Per side; by default four for each thread.
    dashboard_address : str, optional
        Of a local cluster; loopback port 8787 by default.
    client : distributed.Client, optional
        An existing one to use instead of `cluster`.
    """
    if client is None and cluster in ("serial", "threads"):
        threads = 1 if cluster == "serial" else (workers or available_cores())
        here = InProcess(ratings, dtype, partitions or 4 * threads, threads)
        with one_blas_thread():
            try:
                yield here
            finally:
                here.close()
        return
    with (
        scratch.directory() as directory,
        connect(cluster, workers, threads_per_worker, dashboard_address, client) as connected,
    ):
        threads = sum(connected.nthreads().values())
        yield OnCluster(ratings, dtype, partitions or 4 * threads, connected, directory)
