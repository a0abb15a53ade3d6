"""A command line that stops at a given function and says so: `driver.py MODULE:NAME ARGUMENTS…`.

It then sleeps in small steps, as a run that takes long there would be found at work.
"""

import importlib
import sys
import time

WAIT_SECONDS = 60


def pause_at(place: str) -> None:
    module, _, path = place.partition(":")
    owner = importlib.import_module(module)
    *above, name = path.split(".")
    for each in above:
        owner = getattr(owner, each)
    whole = getattr(owner, name)

    def paused(*arguments, **options):
        print("HERE", file=sys.stderr, flush=True)
        until = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < until:
            time.sleep(0.01)
        return whole(*arguments, **options)

    setattr(owner, name, paused)


if __name__ == "__main__":
    from mfpipe.cli import main

    if sys.argv[1] != "-":
        pause_at(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
