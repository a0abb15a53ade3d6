"""Signals that end a run: it unwinds and cleans up, and is gone in ten seconds whatever it was doing.

Nothing of it is needed any more, so it leaves without what Python and Dask do at a process's end: they wait
for threads that compute, close each cluster politely, and take a second to take themselves apart.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_SECONDS = 5.0
AGAIN_SECONDS = 0.1
REAP_SECONDS = 1.0


class Stopped(BaseException):
    """A signal that ends the run; unwinds every `with` block on its way out."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise `Stopped` at the first signal, and end the process with its exit code after this context.

    Last words are to be said within it. Signals after the first do not cut short what is cleaned up.
    Python runs a signal's handler only between two of its instructions, and cleaning up may wait for
    something that never comes. So a thread is told too, by the file descriptor that the C handler writes
    to: if the process is still there `GRACE_SECONDS` later, it ends it. Until then it sends the signal
    again where `Stopped` was not raised, or was lost, as is all that is raised within a `__del__`.
    """
    handled = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # as by nohup
    if threading.current_thread() is not threading.main_thread() or not handled:
        yield
        return
    began = time.time()
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    stopped: list[int] = []
    threading.Thread(target=_end_in_time, args=(reader, handled, began, stopped), daemon=True).start()

    def stop(number: int, frame: Any) -> None:
        if not stopped:
            stopped.append(number)
            raise Stopped(number)

    def unheard(lost: Any) -> None:
        if isinstance(lost.exc_value, Stopped):
            stopped.clear()
        else:
            hook(lost)

    hook, sys.unraisablehook = sys.unraisablehook, unheard
    before = {number: signal.signal(number, stop) for number in handled}
    descriptor = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        try:
            yield
        finally:
            if not stopped:
                sys.unraisablehook = hook
                signal.set_wakeup_fd(descriptor)
                writer.close()
                for number, handler in before.items():
                    signal.signal(number, handler)
    finally:
        if stopped:
            _leave(stopped[0], began)


def _end_in_time(reader: socket.socket, handled: list[signal.Signals], began: float, stopped: list) -> None:
    main = threading.main_thread().ident
    assert main is not None
    with reader:
        while number := reader.recv(1):
            if number[0] not in handled:
                continue
            until = time.monotonic() + GRACE_SECONDS
            # A signal that came just before a wait does not end it: Python has looked for signals already.
            while time.monotonic() < until:
                time.sleep(AGAIN_SECONDS)
                if not stopped:
                    signal.pthread_kill(main, number[0])
            _end(number[0], began)


def _end(number: int, began: float) -> NoReturn:
    words = (
        f"mfpipe: still busy {GRACE_SECONDS:g} s after the signal; `mfpipe runs` lists what can be resumed\n"
    )
    with suppress(OSError):
        os.write(2, words.encode())
    _leave(number, began)


def _leave(number: int, began: float) -> NoReturn:
    """Leave at once, with no child process, semaphore or temporary directory left behind."""
    from multiprocessing import util

    from mfpipe import scratch

    released = partial(util._run_finalizers, 0)  # type: ignore[attr-defined]
    try:
        for last in (partial(kill_children, began), released, scratch.remove_all, sys.stdout.flush):
            with suppress(Exception):
                last()
    finally:
        os._exit(128 + number)


def kill_children(since: float) -> None:
    """Kill the processes started since then, and wait until they are gone.

    Python's own that removes semaphores of the others is left alone: it ends with this one, after its work.
    """
    import psutil

    killed = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if child.create_time() >= since - 1 and not any("resource_tracker" in w for w in child.cmdline()):
                child.kill()
                killed.append(child)
    psutil.wait_procs(killed, timeout=REAP_SECONDS)
