"""Wherever an operation is cut off, what a reader finds is the old state or the new one, entirely."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.faulty import MODES
from tests.faults.operations import OPERATIONS

MEMORY = Path("/dev/shm")  # flushing costs nothing there; what is flushed when, test_files.py looks at


@pytest.fixture
def directory(tmp_path):
    import tempfile

    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else tmp_path) as made:
        yield Path(made)


def enumerate_points(directory, modes, names):
    command = [sys.executable, "-m", "tests.faults.points", str(directory), ",".join(modes), ",".join(names)]
    root = Path(__file__).parents[2]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=390)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_in_short_a_kill_leaves_the_old_state_or_the_new(directory):
    found = enumerate_points(directory, ("kill after",), ["publish the next"])["publish the next"]
    assert found["wrong"] == []
    assert found["points"]["kill after"] >= 30


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "retrain"])
def test_every_crash_point_leaves_the_old_state_or_the_new(directory, name, record_property):
    found = enumerate_points(directory, MODES, [name])[name]
    total = sum(found["points"].values())
    print(f"{name}: {total} points, {found['points']}")
    record_property("crash_points", total)
    assert found["wrong"] == []
    assert found["points"]["kill before"] == found["points"]["kill after"] >= 10


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("mode", MODES)
def test_every_crash_point_of_a_retrain_does_too(directory, mode, record_property):
    found = enumerate_points(directory, [mode], ["retrain"])["retrain"]
    print(f"retrain: {found['points']}")
    record_property("crash_points", found["points"][mode])
    assert found["wrong"] == []
    assert found["points"][mode] >= 10
