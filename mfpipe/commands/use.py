"""Commands that use a stored model: evaluate, predict, report."""

from __future__ import annotations

from pathlib import Path

from mfpipe.arguments import (
    add_columns,
    add_json,
    add_model_name,
    add_ratings,
    add_store,
    columns_from,
    rules_from,
)
from mfpipe.printer import Printer


def register(command) -> None:
    evaluate = command(
        "evaluate",
        _evaluate,
        "errors of a stored model on rating files",
        add_model_name,
        add_ratings,
        add_store,
        add_json,
    )
    evaluate.add_argument(
        "--ranking", type=int, metavar="N", help="also recall, NDCG, MRR, coverage and novelty of lists of N"
    )
    evaluate.add_argument(
        "--relevant",
        type=float,
        metavar="R",
        help="with --ranking: the least rating of a relevant item (default: the mean training rating)",
    )

    groups = (add_model_name, add_store, add_json, add_columns)
    predict = command("predict", _predict, "a rating for every pair of a file", *groups)
    predict.add_argument("pairs", metavar="PAIRS", help="a file with user and item columns")
    predict.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.csv")
    predict.add_argument(
        "--clip", type=float, nargs=2, metavar=("LOW", "HIGH"), help="move predictions into this range"
    )

    report = command("report", _report, "the HTML report of a version", add_model_name, add_store)
    report.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    report.add_argument(
        "--item-titles",
        type=Path,
        metavar="FILE",
        help="a CSV or TSV file with item and title columns; shows the nearest items of popular ones",
    )


def _evaluate(options, printer: Printer) -> None:
    from mfpipe.pipeline import evaluate
    from mfpipe.store import Store
    from mfpipe.tables import show_evaluation

    record = evaluate(
        Store(options.store),
        options.name,
        options.ratings,
        rules_from(options),
        options.ranking,
        options.relevant,
    )
    printer.result(record, show_evaluation)


def _predict(options, printer: Printer) -> None:
    from mfpipe.predictions import check_clip, predict_file
    from mfpipe.store import Store, parse_name

    columns, clip = columns_from(options), tuple(options.clip) if options.clip else None
    check_clip(clip)
    fitted = Store(options.store).version(*parse_name(options.name)).load()
    record = predict_file(fitted, options.pairs, options.output, columns, clip)
    printer.result(
        record, lambda out, r: out.print(f"{r['rows']:,} predictions in {options.output}", soft_wrap=True)
    )


def _report(options, printer: Printer) -> None:
    from mfpipe.report import write_report
    from mfpipe.store import Store, parse_name
    from mfpipe.titles import read_titles

    name = parse_name(options.name)
    titles = read_titles(options.item_titles) if options.item_titles else None
    write_report(Store(options.store).version(*name), options.output, titles)
    printer.out.print(str(options.output), soft_wrap=True)
