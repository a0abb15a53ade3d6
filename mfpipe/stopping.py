"""Signals that end a run: it unwinds and cleans up, and is gone in ten seconds whatever it was doing."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_SECONDS = 8.0


class Stopped(BaseException):
    """A signal that ends the run; unwinds every `with` block on its way out."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise `Stopped` at the first signal; those after it do not cut short what it has to clean up.

    Python runs a signal's handler only between two of its instructions, and cleaning up may wait for
    something that never comes. So a thread is told too, by the file descriptor that the C handler writes
    to: if the process is still there `GRACE_SECONDS` later, it ends it.
    """
    handled = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # as by nohup
    if threading.current_thread() is not threading.main_thread() or not handled:
        yield
        return
    began = time.time()
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    threading.Thread(target=_end_in_time, args=(reader, handled, began), daemon=True).start()
    stopped: list[int] = []

    def stop(number: int, frame: Any) -> None:
        if not stopped:
            stopped.append(number)
            raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in handled}
    descriptor = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield
    except Stopped:
        _kill_children(began)  # of a cluster that was being started; one that had started is closed by now
        raise
    finally:
        if not stopped:
            signal.set_wakeup_fd(descriptor)
            writer.close()
        for number, handler in before.items():
            # All that is left to do after a signal is to leave, and no other may cut that short.
            signal.signal(number, signal.SIG_IGN if stopped else handler)


def dask_setup(worker: Any) -> None:
    """Called by Dask in each worker process of a local cluster.

    A terminal sends Ctrl-C to workers too, but they are their driver's to end.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end_in_time(reader: socket.socket, handled: list[signal.Signals], began: float) -> None:
    with reader:
        while number := reader.recv(1):
            if number[0] in handled:
                time.sleep(GRACE_SECONDS)
                end(number[0], began)


def end(number: int, began: float) -> None:
    """Leave at once, with no child process and no temporary directory left behind."""
    from mfpipe import scratch

    words = (
        f"mfpipe: still busy {GRACE_SECONDS:g} s after the signal; `mfpipe runs` lists what can be resumed\n"
    )
    with suppress(OSError):
        os.write(2, words.encode())
    with suppress(Exception):
        _kill_children(began)
    with suppress(Exception):
        scratch.remove_all()
    os._exit(128 + number)


def _kill_children(since: float) -> None:
    import psutil

    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if child.create_time() >= since - 1:
                child.kill()
