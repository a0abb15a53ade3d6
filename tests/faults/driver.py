"""A command line that stops at a given function and says so: `driver.py MODULE:NAME[#CALL] ARGUMENTS…`.

It stops there at the first call, or at the CALL-th, and then sleeps in small steps, as a run that takes
long there would be found at work. A coroutine sleeps as one, so that its event loop goes on.
"""

import asyncio
import importlib
import inspect
import itertools
import sys
import time

WAIT_SECONDS = 60


def pause_at(place: str) -> None:
    place, _, call = place.partition("#")
    module, _, path = place.partition(":")
    calls = itertools.count(1)
    owner = importlib.import_module(module)
    *above, name = path.split(".")
    for each in above:
        owner = getattr(owner, each)
    whole = getattr(owner, name)

    async def waiting(*arguments, **options):
        if next(calls) == int(call or 1):
            print("HERE", file=sys.stderr, flush=True)
            await asyncio.sleep(WAIT_SECONDS)
        return await whole(*arguments, **options)

    def paused(*arguments, **options):
        if next(calls) < int(call or 1):
            return whole(*arguments, **options)
        print("HERE", file=sys.stderr, flush=True)
        until = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < until:
            time.sleep(0.01)
        return whole(*arguments, **options)

    setattr(owner, name, waiting if inspect.iscoroutinefunction(whole) else paused)


if __name__ == "__main__":
    from mfpipe.cli import main

    if sys.argv[1] != "-":
        pause_at(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
