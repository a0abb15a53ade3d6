"""Imports point one way."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Each room, and the rooms it may import from (besides errors, arrow, ids and itself).
ALLOWED = {
    "errors": set(),
    "arrow": set(),
    "ids": set(),
    "files": set(),
    "addresses": set(),
    "printable": set(),
    "published": set(),
    "scratch": {"files"},
    "memory": set(),
    "stopping": {"scratch"},
    "sealed": {"cores", "files"},
    "kernels": set(),
    "models": {"kernels"},
    "cores": set(),
    "sources": set(),
    "scanning": {"kernels"},
    "texts": {"kernels"},
    "pairs": {"cores", "kernels"},
    "reading": {"cores", "sources", "scanning"},
    "ratings": {"cores", "files", "printable", "sources", "reading", "texts", "pairs"},
    "dataset": {"files", "sources", "ratings"},
    "partition": {"models", "pairs", "ratings"},
    "cluster": {"cores", "scratch", "stopping"},
    "executors": {"cluster", "cores", "memory", "models", "partition", "ratings", "scratch"},
    "spectral": {"cluster", "executors", "models", "ratings"},
    "fit": {"kernels", "models", "executors", "ratings", "spectral"},
    "fitted": {"models", "fit", "ratings"},
    "evaluate": {"kernels", "fitted", "ratings"},
    "predictions": {"files", "sources", "reading", "texts", "fitted"},
    "rated": {"models", "fitted", "ratings", "store"},
    "topn": {"kernels", "models", "fitted"},
    "similar": {"models", "fitted", "topn"},
    "folding": {"models", "fitted", "ratings"},
    "explain": {"models", "fitted"},
    "recommend": {"files", "models", "fitted", "rated", "folding", "topn", "independent"},
    "ranking": {"bootstrap", "kernels", "models", "fitted", "ratings", "rated", "recommend", "topn"},
    "answers": {
        "models",
        "fitted",
        "ratings",
        "topn",
        "similar",
        "folding",
        "explain",
        "recommend",
        "inputs",
    },
    "serving": {
        "models",
        "fitted",
        "rated",
        "store",
        "similar",
        "folding",
        "explain",
        "recommend",
        "ratings",
    },
    "version": {"models", "fitted", "sealed"},
    "store": {"fitted", "published", "files", "sealed", "version"},
    "plots": set(),
    "remaining": set(),
    # The page goes where the client of a fit is, so what has one is all that may know of pages.
    "watching": {"dashboards.live", "fit", "models", "ratings", "remaining"},
    "command_line": {"models", "ratings"},
    "page": {"files", "printable"},
    "bootstrap": set(),
    "diagnosis": {"bootstrap", "evaluate", "fitted", "gate", "models", "ranking", "ratings"},
    "titles": {"sources", "reading"},
    "report_plots": {"plots"},
    "report_data": {"bootstrap", "diagnosis", "fitted", "models", "store", "version"},
    "report_words": {"models", "report_data"},
    "report_findings": {"report_data", "report_words"},
    "report_panels": {"diagnosis", "page", "plots", "report_data", "report_plots", "report_words"},
    "report": {
        "command_line",
        "page",
        "ratings",
        "report_data",
        "report_findings",
        "report_panels",
        "report_words",
        "similar",
        "version",
    },
    "search_report": {"plots", "page", "tables"},
    "synth": set(),
    "runs": {"files", "sealed", "models", "fit"},
    "orders": {"sources", "dataset", "models"},
    "resuming": {"models", "orders", "job", "pipeline", "ratings", "reading", "runs", "store"},
    "progress": {"remaining"},
    "sparkline": set(),
    "tables": {"printable", "sparkline"},
    "decision_tables": {"tables"},
    "job": {"addresses", "dataset", "evaluate", "fit", "models", "ratings"},
    "pipeline": {
        "command_line",
        "watching",
        "job",
        "models",
        "ratings",
        "diagnosis",
        "executors",
        "fit",
        "fitted",
        "evaluate",
        "rated",
        "ranking",
        "topn",
        "store",
        "runs",
        "sealed",
        "orders",
        "version",
    },
    "dashboards": set(),
    "dashboards.live": {"models", "plots", "printable", "remaining", "watching"},
    "dashboards.history": {
        "decisions",
        "files",
        "fitted",
        "page",
        "plots",
        "printable",
        "rated",
        "report",
        "report_data",
        "runs",
        "sealed",
        "store",
        "tables",
        "version",
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
        "job",
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
        "job",
        "pipeline",
        "resuming",
        "retrain_steps",
        "runs",
        "store",
    },
    "systems": {"models"},
    "independent": {"cluster", "cores"},
    "regularization": {
        "command_line",
        "models",
        "ratings",
        "executors",
        "fit",
        "job",
        "pipeline",
        "watching",
    },
    "halving": {"models", "ratings", "executors", "fit", "independent", "job", "pipeline", "regularization"},
    "comparison": {"cluster", "fit", "job", "pipeline", "models", "executors", "ratings"},
    "demo": {"files", "comparison", "job", "pipeline", "dataset", "models", "report", "store"},
    "inputs": {"texts"},
    "estimators": {
        "models",
        "executors",
        "fit",
        "fitted",
        "rated",
        "ratings",
        "store",
        "answers",
        "inputs",
        "watching",
    },
}
ANYONE = {"errors", "arrow", "ids"}
TOP = {"cli", "arguments", "commands", "printer", "__init__", "__main__"}
DASK_IN = {"partition", "cluster", "executors", "independent", "dashboards.live"}


def room_of(module):
    """The part of mfpipe that a module is in; each folder of dashboards is one."""
    parts = module.split(".")[1:]
    return ".".join(parts[:2]) if parts[0] == "dashboards" else parts[0]


def modules():
    for path in sorted((ROOT / "mfpipe").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield room_of(".".join(part for part in parts if part != "__init__" or len(parts) == 2)), path


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
        name
        for name in names
        if name.split(".")[0] in ("mfpipe_flows", "flows", "dashboards", "benchmarks", "prefect")
    }
    if room not in DASK_IN:
        assert not {name for name in names if name.split(".")[0] in ("dask", "distributed")}
    if room in TOP:
        return
    rooms = {room_of(name) for name in names if name.startswith("mfpipe.")}
    assert rooms <= ALLOWED[room] | ANYONE | {room} | {"__version__"}


def test_peers_scripts_run_where_mfpipe_is_not_installed():
    scripts = sorted((ROOT / "benchmarks" / "peers").glob("*.py"))
    assert len(scripts) > 6
    names = {name.split(".")[0] for path in scripts for name in imported(path)}
    assert not names & {"mfpipe", "benchmarks"}


def test_light_imports_stay_light():
    import subprocess
    import sys

    heavy = ("pandas", "dask", "distributed", "sklearn", "bokeh", "prefect", "scipy.sparse", "asyncio")
    code = f"import mfpipe.cli, mfpipe.pipeline, sys; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_fit_is_read_made_and_stored_without_pandas(tmp_path):
    import subprocess
    import sys

    code = (
        "import sys\n"
        "from mfpipe.cli import main\n"
        f"made = main(['train', {str(ROOT / 'data' / 'train.csv.gz')!r}, '--holdout', 'random:0.2', '--json',\n"
        f"    '--cluster', 'threads', '--max-iter', '2', '--store', {str(tmp_path)!r}, '-q'])\n"
        "print(made, 'pandas' in sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "0 False"


def test_kernels_load_no_blas_and_leave_numba_able_to():
    import subprocess
    import sys

    code = (
        "import sys, numba, numpy as np\n"
        "from mfpipe.pairs import counted\n"
        "print(counted(np.zeros(3, np.int32), 1), 'scipy.linalg' in sys.modules)\n"
        "print(numba.njit(lambda a: a @ a)(np.full((2, 2), 3.0))[0, 0], 'scipy.linalg' in sys.modules)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["[3]", "False", "18.0", "True"]
