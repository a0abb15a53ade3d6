"""What the terminal shows: tables that fit 80 columns."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mfpipe.printable import printable
from mfpipe.sparkline import sparkline


def table_of(*columns: str) -> Table:
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


def show_comparison(console: Console, record: dict) -> None:
    """The systems of `compare`: accuracy, time, and the test record asked for."""
    systems = record["systems"]
    accuracy = table_of("system", "all", "warm", "cold", "objective", "iter.", "zeros")
    for s in systems:
        zeros = None if s["sparsity"] is None else f"{100 * s['sparsity']:.1f} %"
        figures = (number(s[key]) for key in ("test_rmse", "test_rmse_warm", "test_rmse_cold"))
        accuracy.add_row(s["label"], *figures, f"{s['objective']:.6g}", str(s["n_iter"]), zeros or "–")
    _print(console, "Test RMSE in stars", accuracy)
    console.print()
    _print(console, "Fitting time in seconds, and how many times faster than serial", _times(systems))
    for note in record["notes"]:
        console.print(f"\nnote: {note}")
    if systems and systems[0]["record"]:
        first = systems[0]["record"]
        title = f"Test record {first['record']}: user {first['user']}, item {first['item']}"
        table = table_of("system", "predicted", "true")
        for s in systems:
            table.add_row(s["label"], str(s["record"]["predicted"]), str(s["record"]["true"]))
        console.print()
        _print(console, title, table)


def _times(systems: list[dict]) -> Table:
    table = table_of("system", "serial", "threads", "", "cluster", "", "identical")
    for s in systems:
        cells = [number(s["seconds"]["serial"], 3)]
        for way in ("threads", "cluster"):
            faster = s["speedups"].get(way)
            cells += [number(s["seconds"].get(way), 3), "–" if faster is None else f"{faster:.2f}×"]
        table.add_row(s["label"], *cells, "yes" if s["identical"] else "NO")
    return table


def show_timings(console: Console, timings: dict[str, float]) -> None:
    table = table_of("stage", "seconds")
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
        "  its course": sparkline([row["objective"] for row in record["history"]]),
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
    table = table_of("test records", "rows", "RMSE")
    table.add_row("all", number(record["rows"]), number(record["rmse"], 6))
    for source, found in record["sources"].items():
        table.add_row(source, number(found["rows"]), number(found["rmse"], 6))
    _print(console, f"{record['name']}@{record['version']}: {record['model']}", table)
    console.print(f"MAE {record['mae']:.6f} stars; {100 * record['coverage']:.1f} % of the records are warm")
    if "ranking" in record:
        console.print()
        _show_ranking(console, record["ranking"])


def _show_ranking(console: Console, found: dict) -> None:
    n = found["n"]
    table = table_of(f"lists of {n}", "")
    for name, key in ((f"recall@{n}", "recall"), (f"NDCG@{n}", "ndcg"), (f"MRR@{n}", "mrr")):
        table.add_row(name, number(found[key], 6))
    table.add_row("catalogue in any list", f"{100 * found['catalogue']:.1f} %")
    table.add_row("novelty", f"{number(found['novelty'], 3)} bits")
    title = f"Ranking over {found['users']:,} users, relevant from {found['relevant']:.4g} stars"
    _print(console, title, table)
    if found["users_cold"]:
        console.print(f"{found['users_cold']:,} more users are not in the model")


def show_models(console: Console, rows: list[dict]) -> None:
    table = table_of("name", "version", "current", "model", "test RMSE", "created")
    for row in rows:
        current = "yes" if row["current"] else ""
        table.add_row(
            row["name"], row["version"], current, row["model"], number(row["test_rmse"]), row["created"][:16]
        )
    _print(console, "Stored models", table)


def show_path(console: Console, record: dict) -> None:
    """The λ of `path`, from small to large."""
    table = table_of(
        "λ",
        "objective",
        "train\nRMSE",
        "valid.\nRMSE",
        "zeros",
        "user\nnorm",
        "item\nnorm",
        "iter.",
        "seconds",
    )
    for row in record["path"]:
        best = row["regularization"] == record["best"]
        table.add_row(
            f"{row['regularization']:.4g}",
            f"{row['objective']:.6g}",
            number(row["train_rmse"]),
            number(row["validation_rmse"]),
            f"{100 * row['sparsity']:.1f} %",
            f"{row['user_norm']:.4g}",
            f"{row['item_norm']:.4g}",
            str(row["n_iter"]),
            f"{row['seconds']:.3f}",
            style="bold" if best else None,
        )
    params = record["params"]
    _print(console, f"{record['model']}, rank {params['rank']}, {params['weighting']} weighting", table)
    best = next(row for row in record["path"] if row["regularization"] == record["best"])
    console.print()
    console.print(largest_in_words(record), soft_wrap=True)
    console.print(
        f"lowest validation RMSE: {best['validation_rmse']:.4f} stars at λ = {record['best']:.4g}",
        soft_wrap=True,
    )
    within = record["one_standard_error"]
    if within is not None:
        console.print(
            f"largest λ within one standard error of it: {within['regularization']:.4g} "
            f"({within['validation_rmse']:.4f} stars)",
            soft_wrap=True,
        )
    _end(console, record)


def largest_in_words(found: dict) -> str:
    """The λ from which on a path has nothing to find, and what it is."""
    if found["params"].get("l1_ratio"):
        return f"the first half-step from the start gives zeros from λ = {found['largest_useful']:.5g} on"
    return f"the largest useful λ is {found['largest_useful']:.5g}"


def show_tune(console: Console, record: dict) -> None:
    """The rungs of `tune`, and the candidates that came to the last one."""
    table = table_of("rung", "candidates", "iterations", "best validation RMSE")
    for at, rung in enumerate(record["schedule"], 1):
        figures = (rung["candidates"], rung["iterations"], number(rung["validation_rmse"]))
        table.add_row(str(at), *map(str, figures))
    _print(console, f"{record['model']}: successive halving by a factor of {record['factor']}", table)
    console.print()
    table = table_of("weighting", "rank", "λ", "train RMSE", "valid. RMSE", "iterations", "seconds")
    last = sorted((row for row in record["candidates"] if row["place"]), key=lambda row: row["place"])
    for row in last:
        end = row["rungs"][-1]
        table.add_row(
            row["weighting"],
            str(row["rank"]),
            f"{row['regularization']:.4g}",
            number(end["train_rmse"]),
            number(end["validation_rmse"]),
            str(end["n_iter"]),
            f"{row['seconds']:.3f}",
            style="bold" if row["place"] == 1 else None,
        )
    _print(console, "Of the last rung", table)
    spent, most = record["iterations"]["spent"], record["iterations"]["without_halving"]
    console.print(f"\n{spent:,} iterations in all, of at most {most:,} without halving")
    _end(console, record)


def _end(console: Console, record: dict) -> None:
    for note in record["notes"]:
        console.print(f"note: {note}")
    console.print(f"\nto train with it: {record['command']}", soft_wrap=True)
    if "report" in record:
        console.print(f"report: {record['report']}", soft_wrap=True)
    console.print()
    show_timings(console, record["timings"])


def show_runs(console: Console, rows: list[dict]) -> None:
    table = table_of("run", "state", "model", "iteration", "objective", "checkpoint")
    for row in rows:
        reached = str(row["iteration"]), number(row["objective"]), (row["written"] or "")[:16]
        table.add_row(row["run"], row["state"], row["model"], *reached)
    _print(console, "Runs", table)


def show_recommendations(console: Console, record: dict) -> None:
    """The outcome of `recommend`: lists, or where they were written."""
    if "output" in record:
        console.print(
            f"{record['rows']:,} recommendations for {record['users']:,} users in {record['output']}",
            soft_wrap=True,
        )
        return
    for one in record["users"]:
        table = table_of("rank", "item", "score")
        for row in one["items"]:
            table.add_row(str(row["rank"]), printable(row["item"]), number(row["score"]))
        _print(console, f"{printable(one['user'])} ({one['source']})", table)
        if not one["items"]:
            console.print("  nothing is left to recommend")


def show_similar(console: Console, record: dict) -> None:
    """The outcome of `similar`."""
    for one in record["similar"]:
        side = "item" if "item" in one else "user"
        table = table_of("rank", side, "cosine")
        for row in one[f"{side}s"]:
            table.add_row(str(row["rank"]), printable(row[side]), number(row["score"]))
        _print(console, f"like {side} {printable(one[side])}", table)


def show_explanation(console: Console, record: dict, most: int = 10) -> None:
    """The outcome of `explain`: the parts, and the largest shares."""
    pair = f"user {printable(record['user'])}, item {printable(record['item'])}"
    title = f"{record['name']}@{record['version']}: {pair}"
    table = table_of("part", "rating", "stars")
    for name, value in record["parts"].items():
        table.add_row(name, "", number(value))
    for row in record["ratings"][:most]:
        table.add_row(f"item {printable(row['item'])}", number(row["rating"], 1), number(row["share"]))
    rest = record["ratings"][most:]
    if rest:
        table.add_row(f"{len(rest):,} other ratings", "", number(sum(row["share"] for row in rest)))
    table.add_row("prediction", "", number(record["prediction"]), style="bold")
    _print(console, title, table)
