"""Imports point one way."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Each room, and the rooms it may import from (besides errors, ids and itself).
ALLOWED = {
    "errors": set(),
    "ids": set(),
    "files": set(),
    "sealed": {"files"},
    "kernels": set(),
    "models": {"kernels"},
    "sources": set(),
    "reading": {"sources"},
    "ratings": {"files", "sources", "reading"},
    "dataset": {"files", "sources", "ratings"},
    "partition": {"models", "ratings"},
    "executors": {"models", "partition", "ratings"},
    "fit": {"kernels", "models", "executors", "ratings"},
    "fitted": {"models", "fit", "ratings"},
    "evaluate": {"kernels", "fitted", "ratings"},
    "recommend": {"sources", "reading", "ratings", "fitted"},
    "version": {"models", "fitted", "sealed"},
    "store": {"fitted", "files", "sealed", "version"},
    "plots": set(),
    "command_line": {"models", "ratings"},
    "report": {"command_line", "plots", "models", "fitted", "store"},
    "search_report": {"plots", "report", "tables"},
    "synth": set(),
    "runs": {"files", "sealed", "models", "fit"},
    "orders": {"sources", "dataset", "models"},
    "resuming": {"models", "orders", "pipeline", "ratings", "reading", "runs", "store"},
    "progress": set(),
    "tables": set(),
    "decision_tables": {"tables"},
    "pipeline": {
        "models",
        "ratings",
        "dataset",
        "executors",
        "fit",
        "fitted",
        "evaluate",
        "store",
        "runs",
        "orders",
    },
    "drift": {"fitted", "ratings"},
    "gate": {"models"},
    "warm_start": {"fit", "fitted", "models", "ratings", "regularization"},
    "champion": {"evaluate", "store", "version"},
    "decisions": {"files", "sealed", "store"},
    "retrain_steps": {
        "champion",
        "decisions",
        "drift",
        "evaluate",
        "executors",
        "fit",
        "fitted",
        "gate",
        "models",
        "orders",
        "pipeline",
        "ratings",
        "runs",
        "store",
        "version",
        "warm_start",
    },
    "retraining": {
        "decisions",
        "drift",
        "files",
        "gate",
        "orders",
        "pipeline",
        "resuming",
        "retrain_steps",
        "runs",
        "store",
    },
    "systems": {"models"},
    "independent": {"executors"},
    "regularization": {"command_line", "models", "ratings", "executors", "fit", "pipeline"},
    "halving": {"models", "ratings", "executors", "fit", "independent", "pipeline", "regularization"},
    "comparison": {"fit", "pipeline", "models", "executors", "ratings"},
    "demo": {"comparison", "pipeline", "dataset", "models", "report", "store"},
    "inputs": {"ratings"},
    "estimators": {"inputs", "models", "executors", "fit", "fitted", "ratings", "store"},
}
ANYONE = {"errors", "ids"}
TOP = {"cli", "arguments", "commands", "printer", "__init__", "__main__"}
DASK_IN = {"partition", "executors", "independent"}


def modules():
    for path in sorted((ROOT / "mfpipe").rglob("*.py")):
        relative = path.relative_to(ROOT / "mfpipe")
        yield relative.parts[0].removesuffix(".py"), path


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module == "mfpipe")


@pytest.mark.parametrize(("room", "path"), list(modules()), ids=lambda value: getattr(value, "stem", value))
def test_rooms_import_only_what_lies_below_them(room, path):
    names = set(imported(path))
    assert not {
        name for name in names if name.split(".")[0] in ("mfpipe_flows", "flows", "dashboards", "prefect")
    }
    if room not in DASK_IN:
        assert not {name for name in names if name.split(".")[0] in ("dask", "distributed")}
    if room in TOP:
        return
    rooms = {name.split(".")[1] for name in names if name.startswith("mfpipe.")}
    assert rooms <= ALLOWED[room] | ANYONE | {room} | {"__version__"}


def test_light_imports_stay_light():
    import subprocess
    import sys

    code = "import mfpipe.cli, sys; print([m for m in ('pandas', 'dask', 'distributed', 'sklearn', 'bokeh', 'prefect') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
