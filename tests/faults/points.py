"""Every point at which an operation can crash, tried one after the other.

    python -m tests.faults.points DIRECTORY MODE,… OPERATION,…

prints for each operation and mode how many points there were, and every state that was neither the old
one nor the new one. It runs by itself because it forks, which a process with a Dask cluster should not.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from mfpipe.errors import MfpipeError
from tests.faults.faulty import KILLED, Faults

DONE, REFUSED, NO_SUCH_POINT = 0, 5, 99


class Operation(NamedTuple):
    """What is interrupted, and how the directory it changes is judged afterwards."""

    prepare: Callable[[Path], Any]  # makes the old state
    run: Callable[[Path], Any]
    state: Callable[[Path], Any]  # what a reader finds; raises where something is not readable
    again: Callable[[Path], Any]  # the next operation; raises where it does not succeed
    between: tuple = ()  # complete states that may also be seen after a kill


def enumerate_points(
    operation: Operation, modes: list[str], directory: Path
) -> tuple[dict[str, int], list[str]]:
    """The number of points in each mode, and what was wrong at any of them."""
    template, work = directory / "template", directory / "work"
    template.mkdir(parents=True)
    operation.prepare(template)
    old = operation.state(template)
    shutil.copytree(template, work)
    operation.run(work)
    new = operation.state(work)
    assert new != old
    counts, wrong = {}, []
    for mode in modes:
        point = 0
        while True:
            point += 1
            shutil.rmtree(work)
            shutil.copytree(template, work)
            code, message = _interrupted(operation, work, mode, point)
            if code == NO_SUCH_POINT:
                break
            assert point < 500, message
            fault = _judged(operation, work, code, message, old, new)
            if fault:
                wrong.append(f"{mode} at {point}: {fault}")
        counts[mode] = point - 1
    return counts, wrong


def _interrupted(operation: Operation, work: Path, mode: str, point: int) -> tuple[int, str]:
    """Run the operation in a process of its own, with a fault; how it ended."""
    said = work.parent / "said"
    child = os.fork()
    if child == 0:
        code = 1
        try:
            faults = Faults(mode, point).install()
            try:
                operation.run(work)
                code = DONE if faults.count >= point else NO_SUCH_POINT
                said.write_text("")
            except MfpipeError as error:
                code = REFUSED
                said.write_text(str(error))
        except BaseException:
            said.write_text(traceback.format_exc())
        os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code, "" if code == KILLED else said.read_text()


def _judged(operation: Operation, work: Path, code: int, message: str, old, new) -> str | None:
    """What is wrong with what the fault left behind; None if nothing is."""
    try:
        found = operation.state(work)
        if code == KILLED and found not in (old, new, *operation.between):
            return f"after a kill: {found}"
        if code == DONE and found != new:
            return f"said to be done, but {found}"
        if code == REFUSED:
            admitted = "is published, but" in message or " may " in message
            if found != old and not (admitted and found in (new, *operation.between)):
                return f"said {message!r}, but {found}"
        if code not in (KILLED, DONE, REFUSED):
            return f"ended with {code}: {message}"
        operation.again(work)
    except Exception:
        return f"ended with {code}; then {traceback.format_exc()}"
    return None


def main(directory: str, modes: str, names: str) -> None:
    from tests.faults.operations import OPERATIONS

    found = {}
    for name in names.split(","):
        counts, wrong = enumerate_points(OPERATIONS[name], modes.split(","), Path(directory) / name)
        found[name] = {"points": counts, "wrong": wrong}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
