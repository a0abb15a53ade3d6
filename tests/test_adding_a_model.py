"""docs/adding-a-model.md, run from its text: the model it adds, the shared suite on it, and the command line."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "adding-a-model.md").read_text(encoding="utf-8")
MODULE = "added_by_the_page"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The page's code as a module that this machine's processes can import."""
    folder = tmp_path_factory.mktemp("added")
    text = "\n\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S))
    (folder / f"{MODULE}.py").write_text(text, encoding="utf-8")
    return os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


def run(environment, *command):
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280
    )


def test_the_model_is_short():
    assert len(re.search(r"```python\n(.*?)```", PAGE, re.S)[1].splitlines()) < 60


def test_the_shared_suite_picks_it_up(environment):
    suite = ("tests/test_models.py", "tests/test_report.py", "-k", "damped-mean", "-m", "not slow")
    done = run(environment, "-m", "pytest", "-p", MODULE, *suite, "-rp", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout + done.stderr
    passed = set(re.findall(r"^PASSED \S+::(test_\w+)\[damped-mean\]", done.stdout, re.M))
    assert {
        "test_a_cluster_changes_nothing",
        "test_its_estimator_has_its_parameters_and_fits_the_same",
    } <= passed
    assert len(passed) >= 11


def test_the_command_line_picks_it_up(environment, tmp_path):
    code = f"import sys, {MODULE}; from mfpipe.cli import main; sys.exit(main())"
    data = ("data/train.csv.gz", "--test", "data/test.csv.gz", "--store", str(tmp_path))
    options = ("--model", "damped-mean", "--user-damping", "5", "--cluster", "serial", "--json", "-q")
    done = run(environment, "-c", code, "train", *data, *options)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["params"] == {"user_damping": 5.0, "item_damping": 25.0}
    assert 0.85 < record["test_rmse"] < 0.95  # the sample's other means have 0.96 to 1.03
