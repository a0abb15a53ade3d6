"""Commands that make or read ratings only: ingest, synth."""

from __future__ import annotations

from pathlib import Path

from mfpipe.arguments import add_json, add_ratings, rules_from
from mfpipe.printer import Printer


def register(command) -> None:
    ingest = command("ingest", _ingest, "rating files → validated, encoded ratings", add_ratings, add_json)
    ingest.add_argument("--out", type=Path, required=True, metavar="DIR", help="the dataset's directory")

    synth = command("synth", _synth, "long-tailed synthetic ratings")
    for name in ("users", "items", "ratings"):
        synth.add_argument(f"--{name}", type=int, required=True, metavar=name[0].upper())
    synth.add_argument("--seed", type=int, default=0, metavar="S")
    synth.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help=".csv or .csv.gz")
    synth.add_argument(
        "--test-output", type=Path, metavar="FILE", help="write the latest ratings here instead"
    )
    synth.add_argument("--test-fraction", type=float, default=0.2, metavar="F", help="default: %(default)s")


def _ingest(options, printer: Printer) -> None:
    from mfpipe.dataset import ingest_to
    from mfpipe.tables import show_ingest

    report, made = ingest_to(options.ratings, options.out, rules_from(options))
    printer.result(report, show_ingest, str(options.out), made)


def _synth(options, printer: Printer) -> None:
    from mfpipe.synth import Synthetic

    data = Synthetic(options.users, options.items, options.ratings, options.seed)
    data.write(options.output, options.test_output, options.test_fraction)
