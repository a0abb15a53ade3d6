"""Going on with an interrupted run, as if it had not been interrupted."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable
from typing import Any

from mfpipe import runs
from mfpipe.errors import ParameterError
from mfpipe.job import Data, Place, prepare
from mfpipe.models import MODELS
from mfpipe.orders import other_machine, require_unchanged
from mfpipe.pipeline import Callbacks, Fitting, quarantine_file
from mfpipe.ratings import Rules
from mfpipe.store import Store

log = logging.getLogger(__name__)


def resume(
    run: str,
    store: Store,
    on_iteration: Callbacks = (),
    stage: Callable[[str], Any] = log.info,
    **place: Any,
) -> dict:
    """Finish an interrupted run: the same factors, history and objective as if it had run through.

    Parameters
    ----------
    run : str
        Its id, printed when it began and listed by `mfpipe runs`.
    store : Store
    on_iteration, stage
        See `mfpipe.pipeline.train`.
    **place
        Settings of `Place` that are to be others than it began with; they change nothing in the result.

    Returns
    -------
    dict
        What `train` would have returned.

    Raises
    ------
    RatingsError
        The ratings or the test records changed since it began.
    StoreError
        There is no such run, it is damaged, or still running.
    """
    with runs.reopened(store.path, run) as held:
        order = held.order
        if "retrain" in order:
            raise ParameterError(
                f"run {run}: is a retrain, which goes on through its gate: mfpipe resume {run}"
            )
        model = MODELS[order["model"]](**order["params"])
        where = dataclasses.replace(Place(**order["place"]), **place)
        store.require_writable(order["name"])
        stage("reading ratings")
        prepared = prepare(data_of(order), quarantine_file(store))
        require_unchanged(order, prepared.sums())
        elsewhere = other_machine(order)
        if elsewhere:
            log.warning("%s", elsewhere)
        state = held.state()
        stage(f"run {run}: going on from iteration {state.iteration if state else 0}")
        fitting = Fitting(model, order["name"], store, where, order["make_current"], on_iteration, stage)
        record = fitting.finish(prepared, held, state)
        return record | {"warnings": record["warnings"] + ([elsewhere] if elsewhere else [])}


def data_of(order: dict[str, Any]) -> Data:
    """The data of an order; paths are seen from the directory it was given in."""
    given = order["data"]
    inputs, test = (
        [os.path.join(order["directory"], path) for path in given[key]] for key in ("inputs", "test")
    )
    return Data(inputs, test, given["holdout"], Rules.of(given["rules"]))
