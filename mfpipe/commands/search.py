"""Commands that choose parameters: path, tune."""

from __future__ import annotations

import logging
from pathlib import Path

from mfpipe.arguments import (
    add_holdout,
    add_json,
    add_params,
    add_place,
    add_ratings,
    add_store,
    data_from,
    params_from,
    place_from,
)
from mfpipe.errors import ParameterError
from mfpipe.printer import Printer

log = logging.getLogger("mfpipe")


def register(command) -> None:
    groups = (add_ratings, add_holdout, add_params, add_place, add_store, add_json)
    path = command("path", _path, "one model at a grid of λ, judged on held-out training ratings", *groups)
    path.add_argument("--model", default="als", help="default: %(default)s")
    path.add_argument(
        "--lambdas", default="10", metavar="N|A,B,…", help="how many λ, or which (default: %(default)s)"
    )

    tune = command("tune", _tune, "successive halving over rank × λ × weighting", *groups)
    tune.add_argument("--model", default="als", help="default: %(default)s")
    tune.add_argument("--ranks", default="4,8,16", metavar="K,…", help="default: %(default)s")
    tune.add_argument(
        "--lambdas", default="6", metavar="N|A,B,…", help="how many λ, or which (default: %(default)s)"
    )
    tune.add_argument("--weightings", default="uniform,count", metavar="W,…", help="default: %(default)s")
    tune.add_argument(
        "--factor", type=int, default=3, metavar="N", help="a rung keeps one in N (default: %(default)s)"
    )
    tune.add_argument(
        "--min-resources",
        type=int,
        default=5,
        metavar="N",
        help="iterations of the first rung (default: %(default)s)",
    )
    for made in (path, tune):
        made.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the HTML report here")


def _path(options, printer: Printer) -> None:
    from mfpipe.pipeline import quarantine_file
    from mfpipe.regularization import parse_lambdas, path
    from mfpipe.store import Store
    from mfpipe.tables import show_path

    model = _model(options, {"regularization": "--lambdas"})
    write = _report_writer(options, "write_path_report")
    lambdas, place, data = parse_lambdas(options.lambdas), place_from(options), data_from(options)

    def told(fitted, record: dict) -> None:
        log.info(
            "λ %.4g: objective %.6g, validation RMSE %.4f, %d iterations, %.2f s",
            record["regularization"],
            record["objective"],
            record["validation_rmse"],
            record["n_iter"],
            record["seconds"],
        )

    found = path(data, model, lambdas, place, quarantine_file(Store(options.store)), log.info, told)
    _give(options, printer, found, show_path, write)


def _tune(options, printer: Printer) -> None:
    from mfpipe.halving import tune
    from mfpipe.pipeline import quarantine_file
    from mfpipe.regularization import parse_lambdas
    from mfpipe.store import Store
    from mfpipe.tables import show_tune

    taken = {"rank": "--ranks", "weighting": "--weightings", "regularization": "--lambdas"}
    model = _model(options, taken)
    write = _report_writer(options, "write_tune_report")
    found = tune(
        data_from(options),
        model,
        _integers("--ranks", options.ranks),
        parse_lambdas(options.lambdas),
        options.weightings.split(","),
        options.factor,
        options.min_resources,
        place_from(options),
        quarantine_file(Store(options.store)),
        log.info,
    )
    _give(options, printer, found, show_tune, write)


def _model(options, taken: dict[str, str]):
    """The model asked for; what the command itself chooses must not be given."""
    from mfpipe.models import MODELS, FactorModel
    from mfpipe.models.base import flag
    from mfpipe.pipeline import models_from

    params = params_from(options)
    for name, instead in taken.items():
        if name in params:
            raise ParameterError(f"{flag(name)} {params[name]}: is what is looked for here; give {instead}")
    (model,) = models_from([options.model], params)
    if not isinstance(model, FactorModel):
        able = ", ".join(name for name, kind in MODELS.items() if issubclass(kind, FactorModel))
        raise ParameterError(f"--model {options.model}: has no λ; choose one of {able}")
    if options.output is not None and (options.output.is_dir() or not options.output.parent.is_dir()):
        raise ParameterError(f"--output {options.output}: must be a file in a directory that exists")
    return model


def _report_writer(options, name: str):
    """What writes the report, if one is asked for: where Bokeh is missing, that is said before fitting."""
    if options.output is None:
        return None
    from mfpipe import search_report

    return getattr(search_report, name)


def _integers(name: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ParameterError(f"{name} {text!r}: must be integers with commas between them") from None


def _give(options, printer: Printer, found: dict, show, write) -> None:
    if options.output is not None:
        write(found, options.output)
        found["report"] = str(options.output)
    printer.result(found, show)
