"""A fit that waits to be let go, in a process whose PYTHONPATH names this directory.

Python imports this as it starts. The fit stops before iteration `BEFORE` for as long as the file is there
that MFPIPE_HOLD names, and writes its pid into it when it does.
"""

import os
import time
from pathlib import Path

from mfpipe import fit

BEFORE = 20
iterate = fit._Loop.iterate


def held(loop, iteration, test):
    hold = Path(os.environ["MFPIPE_HOLD"])
    if iteration == BEFORE and hold.exists():
        hold.write_text(str(os.getpid()))
        while hold.exists():
            time.sleep(0.05)
    return iterate(loop, iteration, test)


fit._Loop.iterate = held
