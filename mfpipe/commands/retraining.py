"""The command that retrains behind a gate: retrain."""

from __future__ import annotations

import logging

from mfpipe.arguments import (
    add_checkpoints,
    add_holdout,
    add_json,
    add_params,
    add_place,
    add_ratings,
    add_store,
    checkpoints_from,
    data_from,
    params_from,
    place_from,
)
from mfpipe.printer import Printer

log = logging.getLogger("mfpipe")


def register(command) -> None:
    groups = (add_ratings, add_holdout, add_params, add_place, add_store, add_json, add_checkpoints)
    retrain = command(
        "retrain", _retrain, "train, judge against the current version, publish or keep", *groups
    )
    retrain.add_argument("--name", required=True, help="the model's name in the store")
    retrain.add_argument(
        "--model", help="default: the current version's, as are its parameters; als at first"
    )
    start = retrain.add_argument_group("how it begins")
    start.add_argument("--update", action="store_true", help="solve rows touched by new ratings first")
    start.add_argument("--cold-start", action="store_true", help="not from the current version's factors")
    gate = retrain.add_argument_group("the gate")
    gate.add_argument(
        "--margin",
        type=float,
        default=0.01,
        metavar="F",
        help="by how much its RMSE may exceed the current version's, as a share (default: %(default)g)",
    )
    gate.add_argument(
        "--confidence", type=float, default=0.95, metavar="F", help="of that (default: %(default)g)"
    )
    gate.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="how far the ratings may be from the current version's: fewest, most, mean, spread, "
        "unseen_users, unseen_items, days_back",
    )
    gate.add_argument("--force", action="store_true", help="publish even if refused; recorded")
    gate.add_argument("--refit", action="store_true", help="publish a fit on all rows, once it has passed")
    retrain.add_argument("--keep-versions", type=int, metavar="N", help="delete all but the latest N")


def _retrain(options, printer: Printer) -> None:
    from mfpipe.decision_tables import show_retrain
    from mfpipe.drift import Limits
    from mfpipe.errors import GateError
    from mfpipe.gate import GateRules
    from mfpipe.progress import iterations
    from mfpipe.retraining import Request, retrain
    from mfpipe.store import Store

    request = Request(
        data_from(options),
        options.name,
        options.model,
        params_from(options),
        place_from(options),
        update=options.update,
        cold_start=options.cold_start,
        refit=options.refit,
        force=options.force,
        limits=Limits.parse(options.limit),
        rules=GateRules(options.margin, options.confidence),
        keep_versions=options.keep_versions,
        checkpoints=checkpoints_from(options),
    )
    try:
        with iterations({"max_iter": 50, "tol": 1e-4} | request.params, printer.err) as show:
            record = retrain(request, Store(options.store), [show], log.info)
    except GateError as refused:
        printer.result(refused.record, show_retrain)
        raise
    printer.result(record, show_retrain)
