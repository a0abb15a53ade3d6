"""What the terminal shows: tables that fit 80 columns."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=number > 0)
    return table


def _print(console: Console, title: str, table: Table) -> None:
    console.print(Text(title, style="bold"), soft_wrap=True)
    console.print(table)


def number(value: Any, digits: int = 4) -> str:
    """A figure for a table; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"


def seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f} s"


def show_comparison(console: Console, record: dict) -> None:
    """The systems of `compare`: accuracy, time, and the test record asked for."""
    systems = record["systems"]
    accuracy = _table("system", "all", "warm", "cold", "objective", "iterations", "zeros")
    for s in systems:
        zeros = None if s["sparsity"] is None else f"{100 * s['sparsity']:.1f} %"
        figures = (number(s[key]) for key in ("test_rmse", "test_rmse_warm", "test_rmse_cold"))
        accuracy.add_row(s["model"], *figures, f"{s['objective']:.6g}", str(s["n_iter"]), zeros or "–")
    _print(console, "Test RMSE in stars", accuracy)
    time = _table("system", "serial", "threads", "cluster", "speed-up", "identical")
    for s in systems:
        ways = (seconds(s["seconds"].get(way)) for way in ("serial", "threads", "cluster"))
        speedup = "–" if s["speedup"] is None else f"{s['speedup']:.2f}×"
        time.add_row(s["model"], *ways, speedup, "yes" if s["identical"] else "NO")
    console.print()
    _print(console, "Fitting time", time)
    if systems and systems[0]["record"]:
        first = systems[0]["record"]
        title = f"Test record {first['record']}: user {first['user']}, item {first['item']}"
        table = _table("system", "predicted", "true")
        for s in systems:
            table.add_row(s["model"], str(s["record"]["predicted"]), str(s["record"]["true"]))
        console.print()
        _print(console, title, table)


def show_timings(console: Console, timings: dict[str, float]) -> None:
    table = _table("stage", "seconds")
    for stage, value in timings.items():
        table.add_row(stage.replace("_", " "), f"{value:.3f}")
    _print(console, "Where the time went", table)


def show_training(console: Console, record: dict) -> None:
    """The outcome of `train`."""
    test, data = record["test"], record["data"]
    console.print(Text(f"{record['name']}@{record['version']}: {record['model']}", style="bold"))
    rows = {
        "trained on": f"{data['n_ratings']:,} ratings, {data['n_users']:,} users, {data['n_items']:,} items",
        "iterations": f"{record['n_iter']}, {'converged' if record['converged'] else 'not converged'}",
        "objective": f"{record['objective']:.8g}",
        "train RMSE": f"{record['train_rmse']:.6f} stars",
        "test RMSE": f"{record['test_rmse']:.6f} stars over {test['rows']:,} records",
        "  warm": f"{number(test['rmse_warm'], 6)} over {test['warm']:,}",
        "  cold": f"{number(test['rmse_cold'], 6)} over {test['cold']:,}",
        "stored in": record["path"] + ("" if record["published"] else " (not made current)"),
    }
    for key, value in rows.items():
        console.print(f"{key:<12}  {value}", soft_wrap=True)
    console.print()
    show_timings(console, record["timings"])


def show_ingest(console: Console, record: dict, out: str, made: bool) -> None:
    console.print(
        f"{record['ratings']:,} ratings of {record['users']:,} users and {record['items']:,} items in {out}"
        + ("" if made else " (unchanged, kept as it was)"),
        soft_wrap=True,
    )
    console.print(
        f"{record['rows']:,} lines, {record['rejected']:,} left out, {record['duplicates']:,} repeated"
    )
    for reason, count in record["reasons"].items():
        console.print(f"  {count:,} × {reason}", soft_wrap=True, markup=False)
    if record["quarantine"]:
        console.print(f"lines left out are listed in {record['quarantine']}", soft_wrap=True)


def show_evaluation(console: Console, record: dict) -> None:
    table = _table("test records", "rows", "RMSE")
    table.add_row("all", number(record["rows"]), number(record["rmse"], 6))
    for source, found in record["sources"].items():
        table.add_row(source, number(found["rows"]), number(found["rmse"], 6))
    _print(console, f"{record['name']}@{record['version']}: {record['model']}", table)
    console.print(f"MAE {record['mae']:.6f} stars; {100 * record['coverage']:.1f} % of the records are warm")


def show_models(console: Console, rows: list[dict]) -> None:
    table = _table("name", "version", "current", "model", "test RMSE", "created")
    for row in rows:
        current = "yes" if row["current"] else ""
        table.add_row(
            row["name"], row["version"], current, row["model"], number(row["test_rmse"]), row["created"][:16]
        )
    _print(console, "Stored models", table)


def show_runs(console: Console, rows: list[dict]) -> None:
    table = _table("run", "state", "model", "iteration", "objective", "checkpoint")
    for row in rows:
        reached = str(row["iteration"]), number(row["objective"]), (row["written"] or "")[:16]
        table.add_row(row["run"], row["state"], row["model"], *reached)
    _print(console, "Runs", table)
