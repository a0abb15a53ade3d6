"""A Dask cluster: reached or started, seen to be the right one, and watched while it works.

What a cluster cannot do is an error in words within a minute, and never silence. Dask itself waits for
workers for ever: one that is killed for its memory may be restarted without end.
"""

from __future__ import annotations

import logging
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from mfpipe import scratch
from mfpipe.cores import available_cores
from mfpipe.errors import ClusterError, ParameterError
from mfpipe.stopping import Stopped, kill_children

if TYPE_CHECKING:
    from distributed import Client, LocalCluster

log = logging.getLogger(__name__)

Result = TypeVar("Result")
CONNECT_SECONDS = 10
ATTEMPTS = 4
KILLER_ATTEMPTS = 2  # of a task that has taken four workers with it each time
LOOK_SECONDS = 2.0  # between two looks at a cluster that is working
ASLEEP_SECONDS = 60  # of a loop that is to start nothing more before its process ends
STALL_SECONDS = 45.0  # without a task that runs, before it is given up
# Without a sign of a worker of a local cluster, before its work is given to another. Dask looks this often
# too, so it may take twice as long, which must be less than STALL_SECONDS.
WORKER_SECONDS = 20
# Dask keeps the last thousand messages of each connection, for who works on Dask, and those of up to a
# megabyte as they are: with the factors of a half-step in them. Fewer take a few megabytes, not hundreds.
MESSAGES = {"distributed.admin.low-level-log-length": 100}
SAME = ("python", "mfpipe", "numpy", "numba", "dask", "distributed")


@contextmanager
def connect(
    cluster: str,
    workers: int | None = None,
    threads_per_worker: int | None = None,
    dashboard_address: str | None = None,
    client: Client | None = None,
) -> Iterator[Client]:
    """A client of the cluster meant; see `mfpipe.executors.executor`.

    Raises
    ------
    ClusterError
        No scheduler answers at the address, it has no workers or ones with other versions of what results
        depend on, or a local cluster does not start.
    """
    if client is not None:
        require_same_versions(client)
        yield client
    elif cluster == "local":
        with _local(workers, threads_per_worker, dashboard_address or "127.0.0.1:8787") as made:
            yield made
    else:
        with _remote(cluster) as made:
            require_same_versions(made)
            yield made


@contextmanager
def _local(workers: int | None, threads_per_worker: int | None, dashboard: str) -> Iterator[Client]:
    import dask
    from distributed import Client

    settings: dict[str, Any] = {
        "n_workers": workers or 1,
        "threads_per_worker": threads_per_worker or max(1, available_cores() // (workers or 1)),
        "dashboard_address": dashboard,
    }
    if workers:
        settings |= {"host": "127.0.0.1"}
    else:
        # In this process nothing is copied. The worker's own page would otherwise listen everywhere,
        # and at a memory limit, which would be this process's, Dask only stops and waits.
        settings |= {"processes": False, "memory_limit": None, "worker_dashboard_address": "127.0.0.1:0"}
    with (
        scratch.directory() as spill,
        dask.config.set(
            {
                "temporary-directory": str(spill),
                "distributed.scheduler.worker-ttl": f"{WORKER_SECONDS}s",
                "distributed.dashboard.link": _link(dashboard),
                **MESSAGES,
            }
        ),
        one_blas_thread(),
    ):
        began, loop = time.time(), None
        try:
            with ExitStack() as stack:
                loop = stack.enter_context(_loop())
                local = _started(settings, loop)
                stack.callback(_close, local, began)
                made = stack.enter_context(Client(local))
                _say_where(made, dashboard)
                try:
                    yield made
                except Stopped:
                    stack.pop_all()  # nothing is closed
                    raise
        except Stopped:
            _abandon(loop, began)
            raise


@contextmanager
def _loop() -> Iterator[Any]:
    """An event loop for Dask, in a thread that is deaf to Ctrl-C, as are processes started from there.

    A terminal sends it to them too, from their first moment on, but they are this process's to end.
    """
    from multiprocessing import resource_tracker

    from distributed.utils import LoopRunner

    runner = LoopRunner()
    resource_tracker.ensure_running()  # where Python starts it, it opens that thread's ears again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        runner.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    yield runner.loop
    runner.stop()


def _started(settings: dict[str, Any], loop: Any) -> LocalCluster:
    from distributed import LocalCluster

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Port .* is already in use", UserWarning)  # said later
            return LocalCluster(**settings, loop=loop)
    except (OSError, RuntimeError, TimeoutError) as error:
        cause = error.__cause__ or error
        raise ClusterError(f"the local Dask cluster does not start ({cause})") from error


def _close(local: LocalCluster, began: float) -> None:
    """Close a cluster that has done its work; what Dask may stumble over on the way no longer matters to it.

    It does where a nanny is just starting a worker anew (an `AssertionError`).
    """
    from distributed import Nanny

    try:
        local.close()
    except Exception as error:
        log.warning("the local Dask cluster did not close by itself (%r): its workers are killed", error)
        for worker in local.workers.values():
            if isinstance(worker, Nanny):
                worker.close_gracefully("its cluster has ended")  # or it would start another
        kill_children(began)


def _abandon(loop: Any, began: float) -> None:
    """End the worker processes of a cluster where this process is about to end too.

    Asked to close, each takes a second or two, and Dask waits for four. A worker in this process may
    compute for long; it ends with the process.
    """
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # it would say that workers are lost
    if loop:
        loop.add_callback(time.sleep, ASLEEP_SECONDS)  # or others would be started in their place
    kill_children(began)


def _link(dashboard: str) -> str:
    """The link to a local cluster's dashboard, unless the user has configured what it is seen as.

    Dask's own names another of the machine's addresses for a worker in this process.
    """
    import dask

    link = dask.config.get("distributed.dashboard.link")
    host = dashboard.rpartition(":")[0] or "127.0.0.1"
    return link.replace("{host}", host) if link == "{scheme}://{host}:{port}/status" else link


def _say_where(client: Client, dashboard: str) -> None:
    asked = dashboard.rpartition(":")[2]
    try:
        import bokeh  # noqa: F401
    except ModuleNotFoundError:
        log.info("no Dask dashboard: Bokeh is not installed")
        return
    port = client.scheduler_info()["services"].get("dashboard")
    if asked not in ("0", str(port)):
        log.warning("port %s is taken", asked)
    log.info("Dask dashboard: %s", client.dashboard_link)


@contextmanager
def _remote(address: str) -> Iterator[Client]:
    import dask
    from distributed import Client

    try:
        with dask.config.set(MESSAGES):
            made = Client(address, timeout=CONNECT_SECONDS)
    except (ValueError, TypeError) as error:
        if "ssl" in str(error):
            why = "Dask has no certificate for it; set distributed.comm.tls in its configuration"
        else:
            why = "not serial, threads, local or a scheduler's address"
        raise ParameterError(f"--cluster {address}: {why}") from error
    except OSError as error:
        raise ClusterError(f"{address}: no Dask scheduler answers ({error}); is it running?") from error
    with made:
        if not made.nthreads():
            raise ClusterError(
                f"{address}: the scheduler has no workers; start one with: dask worker {address}"
            )
        yield made


def require_same_versions(client: Client) -> None:
    """ClusterError, naming both, if a worker has another version of what a result depends on."""
    versions: Any = client.get_versions(packages=["mfpipe", "numba"])
    here = versions["client"]["packages"]
    for address, found in versions["workers"].items():
        there = found["packages"]
        other = [
            f"{name} {there.get(name) or 'missing'}, and here {here[name]}"
            for name in SAME
            if there.get(name) != here[name]
        ]
        if other:
            raise ClusterError(
                f"worker {address} has {'; '.join(other)}: the same factors to the last bit take the same "
                "versions; install them there too"
            )


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Threads are ours to count: a BLAS that starts its own would fight with them for the cores."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield


def gathered(client: Client, futures: Sequence[Any]) -> list:
    """The results of futures, in their order, with an eye on whether anybody works on them.

    Raises
    ------
    ClusterError
        For `STALL_SECONDS` no worker that gives a sign of life has run or fetched anything.
    Exception
        What a task raised, or what Dask raises for one whose worker was lost.
    """
    from distributed import wait

    watched = _Watched(client, futures)
    while True:
        try:
            wait(futures, timeout=LOOK_SECONDS)
            break
        except TimeoutError:
            watched.look()
    return client.gather(futures)


class _Watched:
    """Futures, and when somebody was last seen working on them."""

    def __init__(self, client: Client, futures: Sequence[Any]):
        self.client, self.futures = client, futures
        self.done, self.seen = -1, {}  # type: ignore[var-annotated]
        self.moved = time.monotonic()

    def look(self) -> None:
        """ClusterError if nothing has moved for too long."""
        done = sum(future.done() for future in self.futures)
        workers = self._workers()
        alive = {name: w for name, w in workers.items() if w["last_seen"] != self.seen.get(name)}
        busy = any(
            w["metrics"].get("task_counts", {}).get(what)
            for w in alive.values()
            for what in ("executing", "flight")
        )
        if busy or done != self.done:
            self.moved = time.monotonic()
        self.done = done
        # A worker's sign of life is a new one; it comes every half second or so, or a few seconds apart.
        self.seen = {name: w["last_seen"] for name, w in workers.items()}
        idle = time.monotonic() - self.moved
        if idle > STALL_SECONDS:
            held = (
                f"{len(workers)} of its workers are left, and none"
                if workers
                else "it has no workers left, and nobody"
            )
            raise ClusterError(
                f"{_address(self.client)}: lost for good ({held} has run anything for {idle:.0f} s; "
                "a worker that is killed for its memory is restarted by Dask without a word)"
            )

    def _workers(self) -> dict[str, dict]:
        try:
            found = self.client.scheduler_info(n_workers=-1)
        except OSError:  # the scheduler is gone: waiting for the futures ends at once
            return {}
        return found.get("workers", {})  # a client that has given its scheduler up knows nothing


def _address(client: Client) -> str:
    return str(client.scheduler.address) if client.scheduler else "the cluster"


def with_retries(client: Client, run: Callable[[], Result]) -> Result:
    """What `run` returns, run again where workers were lost with it.

    Raises
    ------
    ClusterError
        The scheduler is gone, or workers were lost again and again.
    """
    from distributed import KilledWorker
    from distributed.client import ClosedClientError, FutureCancelledError, FuturesCancelledError
    from distributed.comm import CommClosedError

    lost = FutureCancelledError, FuturesCancelledError, ClosedClientError, CommClosedError, TimeoutError
    address = _address(client)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return run()
        except KilledWorker as error:
            if attempt == KILLER_ATTEMPTS:
                raise ClusterError(
                    f"{address}: lost for good ({error.task} has taken {4 * attempt} workers with it: too "
                    "little memory for it, or a fault in what it calls)"
                ) from error
        except lost as error:
            if attempt == ATTEMPTS or client.status != "running":
                gone = "the scheduler is gone; " if client.status != "running" else ""
                first = str(error).partition("\n")[0]
                raise ClusterError(
                    f"{address}: lost for good ({gone}{type(error).__name__}: {first})"
                ) from error
        log.warning("work lost with a worker; running it again")
    raise AssertionError
