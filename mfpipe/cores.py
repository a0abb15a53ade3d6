"""Work on several threads, with its results in the order of what was worked on."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(function: Callable[[T], R], arguments: Iterable[T], threads: int) -> Iterator[R]:
    """Results of a function that releases the GIL, in the order of its arguments.

    Arguments are taken one ahead of the threads and no further, which bounds the memory they hold. An
    error, in the function or in the making of an argument, comes where a plain loop would raise it.
    """
    waiting: deque[Future[R]] = deque()
    stopped: Exception | None = None
    source = iter(arguments)
    with ThreadPoolExecutor(threads, "mfpipe-reading") as pool:
        try:
            while True:
                try:
                    waiting.append(pool.submit(function, next(source)))
                except StopIteration:
                    break
                except Exception as error:
                    stopped = error
                    break
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
    if stopped is not None:
        raise stopped
