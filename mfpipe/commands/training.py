"""Commands that fit: demo, train, compare."""

from __future__ import annotations

import logging
from pathlib import Path

from mfpipe.arguments import (
    add_checkpoints,
    add_json,
    add_params,
    add_place,
    add_ratings,
    add_store,
    add_test,
    checkpoints_from,
    data_from,
    params_from,
    place_from,
)
from mfpipe.errors import ParameterError
from mfpipe.printer import Printer

log = logging.getLogger("mfpipe")


def register(command) -> None:
    demo = command("demo", _demo, "the main job on the shipped data", add_place, add_json)
    demo.add_argument(
        "--out", type=Path, default=Path("mfpipe-demo"), metavar="DIR", help="default: %(default)s"
    )

    fitting = (add_ratings, add_test, add_params, add_place, add_store, add_json)
    train = command("train", _train, "fit, evaluate and store a model", *fitting)
    train.add_argument("--model", default="als", help="default: %(default)s")
    train.add_argument("--name", help="name in the store (default: the model's)")
    add_checkpoints(train)
    train.add_argument("--no-publish", action="store_true", help="leave the current version as it is")

    compare = command("compare", _compare, "every system side by side", *fitting)
    compare.add_argument("--model", action="append", help="only this system (may be repeated; default: all)")
    compare.add_argument(
        "--systems", type=Path, metavar="FILE.toml", help="systems with parameters of their own"
    )
    compare.add_argument(
        "--record", type=int, metavar="T", help="show each prediction of this test record, from 0"
    )


def _demo(options, printer: Printer) -> None:
    from mfpipe.demo import demo
    from mfpipe.tables import show_comparison, show_timings

    place = place_from(options)
    found = demo(options.out, place, log.info)
    printer.result(found, show_comparison)
    if not printer.json:
        printer.out.print()
        show_timings(printer.out, found["timings"])
        printer.out.print(f"\nreport: {found['report']}", soft_wrap=True)


def _train(options, printer: Printer) -> None:
    from mfpipe.pipeline import models_from, train
    from mfpipe.progress import iterations
    from mfpipe.store import Store, parse_name
    from mfpipe.tables import show_training

    (model,) = models_from([options.model], params_from(options))
    name, _ = parse_name(model.name if options.name is None else options.name)
    data, place, checkpoints = data_from(options), place_from(options), checkpoints_from(options)
    current, store = not options.no_publish, Store(options.store)
    with iterations(model.params, printer.err) as show:
        record = train(data, model, name, store, place, current, [show], log.info, checkpoints)
    printer.result(record, show_training)


def _compare(options, printer: Printer) -> None:
    from mfpipe.comparison import compare
    from mfpipe.models import MODELS
    from mfpipe.pipeline import models_from, quarantine_file
    from mfpipe.store import Store
    from mfpipe.systems import read_systems
    from mfpipe.tables import show_comparison, show_timings

    if options.model and options.systems:
        raise ParameterError(f"--model {options.model[0]} and --systems {options.systems}: give one of them")
    if options.systems:
        systems = read_systems(options.systems, params_from(options))
    else:
        names = options.model or list(MODELS)
        for name in names:
            if names.count(name) > 1:
                raise ParameterError(
                    f"--model {name}: given more than once; use --systems FILE.toml for that"
                )
        systems = dict(zip(names, models_from(names, params_from(options)), strict=True))
    if options.record is not None and options.record < 0:
        raise ParameterError(f"--record {options.record}: must be 0 or more")
    data, place = data_from(options), place_from(options)
    quarantine = quarantine_file(Store(options.store))
    labels, models = list(systems), list(systems.values())
    found = compare(data, models, place, options.record, quarantine, log.info, labels=labels).record()
    printer.result(found, show_comparison)
    if not printer.json:
        printer.out.print()
        show_timings(printer.out, found["timings"])
