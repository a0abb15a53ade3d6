"""The page in docs, made of a run's results so that no figure is typed.

python -m benchmarks.page build/bench/results/results.json > docs/benchmarks.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.tables import Table, tables


def page(results: dict) -> str:
    """The results as Markdown."""
    parts = [f"# Benchmarks\n{summary(results)}\n"]
    parts += [markdown(table) for table in tables(results) if table.rows]
    return "\n".join(parts)


def summary(results: dict) -> str:
    """On what, when and by what the figures were made."""
    machine = results["machine"]
    minutes = sum(results["seconds"].values()) / 60
    blas = ", ".join(
        f"{one['internal_api']} {one['version']} ({one['architecture']})" for one in machine["blas"]
    )
    return (
        f"Made by `{results['command']}` in {minutes:.0f} minutes from {results['started']}, with mfpipe "
        f"{results['mfpipe']}, on {machine['cores']} cores of {machine['cpu']}, "
        f"{machine['memory'] / 2**30:.0f} GiB, {machine['system']}, Python {machine['python']}, numpy "
        f"{machine['numpy']}, {blas}; load {machine['load_before'][0]:.2f} before it began. This page is "
        "`python -m benchmarks.page results.json > docs/benchmarks.md`."
    )


def markdown(table: Table) -> str:
    """One table under its title."""
    lines: list[Sequence[str]] = [table.columns, ["---"] * len(table.columns), *table.rows]
    text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    words = f"{table.words}\n\n" if table.words else ""
    return f"## {table.title}\n{words}{text}\n"


if __name__ == "__main__":
    print(page(json.loads(Path(sys.argv[1]).read_text())), end="")
