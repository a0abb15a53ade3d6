"""Commands about fits that are running or were interrupted: runs, resume."""

from __future__ import annotations

import logging

from mfpipe.arguments import add_json, add_place, add_store
from mfpipe.errors import GateError, ParameterError
from mfpipe.printer import Printer

log = logging.getLogger("mfpipe")


def register(command) -> None:
    runs = command("runs", _runs, "fits that are running or were interrupted", add_store, add_json)
    runs.add_argument("action", nargs="?", default="list", choices=["list", "remove"])
    runs.add_argument("run_id", nargs="?", metavar="RUN")

    resume = command("resume", _resume, "go on with an interrupted fit", add_place, add_store, add_json)
    resume.add_argument("run_id", metavar="RUN", help="the id printed when it began; see `mfpipe runs`")
    resume.set_defaults(cluster=None)


def _runs(options, printer: Printer) -> None:
    from pathlib import Path

    from mfpipe import runs
    from mfpipe.tables import show_runs

    store = Path(options.store)
    if options.action == "list":
        printer.result({"runs": runs.listed(store)}, lambda out, record: show_runs(out, record["runs"]))
        return
    if options.run_id is None:
        raise ParameterError("runs remove: give the RUN to remove")
    runs.remove(store, options.run_id)
    printer.result({"run": options.run_id}, lambda out, r: out.print(f"{r['run']} removed"))


def _resume(options, printer: Printer) -> None:
    from mfpipe.job import Place
    from mfpipe.progress import iterations
    from mfpipe.runs import order_held
    from mfpipe.store import Store

    store = Store(options.store)
    given = {name: getattr(options, name) for name in Place.__dataclass_fields__}
    changed = {name: value for name, value in given.items() if value is not None}
    Place(**changed)  # refused before anything is opened
    order = order_held(store.path, options.run_id)
    if "retrain" in order:
        from mfpipe.decision_tables import show_retrain as show_outcome
        from mfpipe.retraining import resume
    else:
        from mfpipe.resuming import resume
        from mfpipe.tables import show_training as show_outcome
    try:
        with iterations(order["params"], printer.err) as show:
            record = resume(options.run_id, store, [show], log.info, **changed)
    except GateError as refused:
        printer.result(refused.record, show_outcome)
        raise
    printer.result(record, show_outcome)
