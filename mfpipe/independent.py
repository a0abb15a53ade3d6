"""Independent calls on the same data: one after another, in threads, or as tasks on a Dask cluster.

A fit that is spread over a cluster meets it twice an iteration; fits that do not depend on each other
need to meet it once each. So they run whole, each on one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from threadpoolctl import threadpool_limits

from mfpipe.cluster import connect, gathered, with_retries
from mfpipe.cores import available_cores

Run = Callable[[Callable[[Any, Any], Any], Sequence[Any]], list]


@contextmanager
def independent(
    make: Callable[[], Any],
    cluster: str = "local",
    workers: int | None = None,
    threads_per_worker: int | None = None,
    dashboard_address: str | None = None,
) -> Iterator[Run]:
    """A function that makes many independent calls, and returns their results in order.

    Parameters
    ----------
    make : callable
        Returns what all calls share; called once in this process, or once on the cluster, which copies
        the result to the workers that need it, and calls again if it was lost with one. Pickled there.
    cluster, workers, threads_per_worker, dashboard_address
        See `mfpipe.executors.executor`.

    Yields
    ------
    callable
        `run(call, arguments)` is `[call(shared, argument) for argument in arguments]`.

    Raises
    ------
    ClusterError
        The cluster is not reachable, or lost for good.
    """
    if cluster not in ("serial", "threads"):
        with connect(cluster, workers, threads_per_worker, dashboard_address) as client:
            yield _on_cluster(client, make)
        return
    shared = make()
    threads = 1 if cluster == "serial" else (workers or available_cores())
    with threadpool_limits(1), ThreadPoolExecutor(threads, "mfpipe") as pool:
        yield lambda call, arguments: list(pool.map(lambda one: call(shared, one), arguments))


def _on_cluster(client, make: Callable[[], Any]) -> Run:
    import warnings

    from dask import delayed

    shared = client.persist(delayed(make, pure=False, traverse=False)())

    def run(call, arguments):
        one = delayed(call, pure=False)

        def compute():
            calls = [one(shared, delayed(each, traverse=False)) for each in arguments]
            return gathered(client, client.compute(calls))

        with warnings.catch_warnings():
            # Dask advises scattering large arguments, but scattered ones die with their worker.
            warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
            return with_retries(client, compute)

    return run
