"""What the terminal shows of a retrain and of a model's history."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from mfpipe.tables import number, show_timings, table_of


def show_retrain(console: Console, record: dict[str, Any]) -> None:
    """The outcome of `retrain`: the decision, what it rests on, and where the time went."""
    name = f"{record['name']}@{record['version']}" if record["version"] else record["name"]
    console.print(Text(f"{name}: {record['decision']}", style="bold"), soft_wrap=True)
    console.print(record["words"], soft_wrap=True)
    console.print(f"start: {start_in_words(record['start'])}", soft_wrap=True)
    if record["gate"]:
        test = record["test"]
        console.print(f"\nRMSE in stars on {test['rows']:,} held-out ratings ({test['holdout']})")
        systems = table_of("system", "all", "warm", "cold", "coverage")
        for system, found in record["gate"]["systems"].items():
            figures = (number(found[key], 5) for key in ("rmse", "rmse_warm", "rmse_cold"))
            systems.add_row(system, *figures, f"{100 * found['coverage']:.2f} %")
        console.print(systems)
        console.print()
        for check in record["gate"]["checks"]:
            passed = "yes" if check["passed"] else "NO "
            console.print(f"{passed}  {check['check']}: {check['words']}", soft_wrap=True)
    console.print()
    show_timings(console, record["timings"])


def start_in_words(start: dict[str, Any]) -> str:
    """How the fit began."""
    if start["how"] == "cold":
        return "from the keyed start" + (f" ({start['why']})" if "why" in start else "")
    new, touched = start["new"], start["touched"]
    first = ", touched rows solved first" if start["how"] == "update" else ""
    return (
        f"from {start['from']}{first}; new: {new['user']:,} users, {new['item']:,} items; touched by other "
        f"ratings than then: {touched['user']:,} users, {touched['item']:,} items"
    )


def show_history(console: Console, record: dict[str, Any]) -> None:
    """A model's history, oldest first."""
    rows = table_of("when", "decision", "version", "RMSE", "champion", "its RMSE")
    for row in record["history"]:
        current = row["version"] is not None and row["version"] == record["current"]
        rows.add_row(
            row["when"][:16],
            row["decision"] + (", forced" if row["forced"] else ""),
            (row["version"] or "–") + (" current" if current else ""),
            number(row["rmse"]),
            row["champion"] or "–",
            number(row["champion_rmse"]),
            style="bold" if current else None,
        )
    console.print(Text(f"{record['name']}: history", style="bold"), soft_wrap=True)
    console.print(rows)
    for row in record["history"]:
        if row["decision"] == "refused":
            console.print(f"refused {row['when'][:16]}: {row['words']}", soft_wrap=True)
