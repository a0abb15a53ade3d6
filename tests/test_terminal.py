"""What a terminal of 80 columns shows, and what is shown where there is none."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import numpy as np
import pytest
from rich.console import Console

from mfpipe.progress import iterations
from mfpipe.remaining import duration, iterations_left, seconds_left
from mfpipe.sparkline import sparkline

pytestmark = pytest.mark.timeout(170)

# Every command that prints a table, on data of the test's own; `{}` is its directory.
COMMANDS = """
ingest {0}/ratings.csv --out {0}/set
train {0}/ratings.csv --name films --rank 3 --max-iter 30 --tol 0 --cluster serial
train {0}/ratings.csv --name means --model user-item-mean --cluster serial
evaluate films {0}/ratings.csv --ranking 5
recommend films --user {1} -n 3
similar films --item {2} -n 3
explain films --user {1} --item {2}
predict films {0}/ratings.csv -o {0}/predictions.csv
compare {0}/ratings.csv --max-iter 3 --cluster threads --record 3 --test {0}/ratings.csv
path {0}/ratings.csv --model lasso-mf --lambdas 3 --max-iter 5 --rank 3 --cluster serial
tune {0}/ratings.csv --ranks 2,3 --lambdas 2 --min-resources 2 --max-iter 6 --cluster serial
retrain {0}/ratings.csv --name films --rank 3 --max-iter 30 --cluster serial
models
models history films
models verify
runs
report films -o {0}/report.html
"""
IDS = ["a film whose title is much longer than a column of the terminal is wide, part 2", "12 Monkeys"]
# Lines to copy from, and sentences, which the terminal itself breaks where its line ends.
MAY_BE_LONGER = re.compile(
    r"/\S+/|^(start|note|refused [-:0-9T]+|warning|to train with it|report): |^(yes|NO) |^like item |: user |^mfpipe: "
)


def run_in_terminal(code: str, columns: int = 80, **env: str) -> str:
    """What a Python program writes to a terminal that is its input, output and error stream."""
    main, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    kept = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=end, stdout=end, stderr=end, env=kept | {"TERM": "xterm"} | env
    ) as process:
        os.close(end)
        shown = b""
        try:
            while piece := os.read(main, 65536):
                shown += piece
        except OSError:  # what Linux says when the last process has closed its end
            pass
        os.close(main)
    assert process.returncode == 0, shown.decode()
    return shown.decode()


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> dict[str, str]:
    """What each of `COMMANDS` shows in a terminal."""
    directory = tmp_path_factory.mktemp("t")
    rng = np.random.default_rng(0)
    pairs = rng.choice(60 * 40, 900, replace=False)
    item = [IDS[k] if k < 2 else str(k) for k in range(40)]
    lines = [f"u{p // 40},{item[p % 40]!r},{r}" for p, r in zip(pairs, rng.integers(1, 6, 900), strict=True)]
    (directory / "ratings.csv").write_text("\n".join(["user,item,rating", *lines]).replace("'", '"') + "\n")
    code = f"""
import os, shlex
os.environ["MFPIPE_STORE"] = {str(directory / "store")!r}
from mfpipe.cli import main
for line in {COMMANDS!r}.strip().splitlines():
    arguments = [w.format({str(directory)!r}, "u7", {IDS[0]!r}) for w in shlex.split(line)]
    print("=== " + line, flush=True)
    code = main(arguments)
    assert code in (0, 6), (line, code)
"""
    parts = re.split(r"^=== (.*)\r\n", run_in_terminal(code), flags=re.M)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def plain(text: str) -> list[str]:
    """The lines as they were written, without colours; one that is written over another is one of its own."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-K]|\r", "\n", text)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).splitlines()


@pytest.mark.parametrize(
    "command", COMMANDS.strip().splitlines(), ids=lambda line: " ".join(line.split()[:2])
)
def test_tables_fit_eighty_columns_and_nothing_in_them_is_cut_off(shown, command):
    lines = plain(shown[command])
    assert lines
    assert [line for line in lines if len(line) > 80 and not MAY_BE_LONGER.search(line)] == []
    assert [line for line in lines if "…" in line] == []


def test_a_training_shows_its_progress_and_then_the_course_of_its_objective(shown):
    text = shown[next(command for command in shown if command.startswith("train"))]
    assert "\x1b[" in text
    bars = [line for line in plain(text) if "30/30" in line]
    assert all(len(line) <= 80 for line in bars)
    assert re.search(r"objective [\d.]+, RMSE [\d.]+, test [\d.]+, [\d.]+ s, 0 s left", bars[-1])
    assert any(re.search("its course +█[▁▂▃▄▅▆▇█]{29}$", line) for line in plain(text))


TRAIN = """
import sys, logging
from rich.console import Console
from mfpipe.printer import SafeConsole
from mfpipe.cli import _ConsoleLog
from mfpipe import progress
progress.LINE_SECONDS = 0
logging.getLogger("mfpipe").addHandler(_ConsoleLog(SafeConsole(stderr=True)))
logging.getLogger("mfpipe").setLevel("INFO")
with progress.iterations({"max_iter": 9, "tol": 1e-4}, SafeConsole(stderr=True)) as show:
    for k in range(1, 4):
        show({"iteration": k, "objective": 1 / k, "train_rmse": 1.0, "test_rmse": None, "seconds": 0.5})
"""


def test_without_colours_progress_is_plain_lines():
    text = run_in_terminal(TRAIN, NO_COLOR="1")
    assert "\x1b" not in text
    assert [line for line in plain(text) if line] == [
        "iteration 1/9: objective 1, RMSE 1.0000, 0.500 s",
        "iteration 2/9: objective 0.5, RMSE 1.0000, 0.500 s",
        "iteration 3/9: objective 0.333333, RMSE 1.0000, 0.500 s",
    ]
    assert "\x1b[" in run_in_terminal(TRAIN)
    piped = subprocess.run([sys.executable, "-c", TRAIN], capture_output=True, text=True, check=True)
    assert piped.stderr.splitlines() == [line for line in plain(text) if line]


def test_the_time_left_follows_a_power_law_to_the_tolerance():
    objectives = np.cumprod(
        1 - 0.1 * np.arange(1.0, 31) ** -1.5
    )  # falls of 0.1 k^-1.5: below 1e-4 from k = 100
    assert iterations_left(objectives, 1e-4, 1000) == pytest.approx(70, abs=1)
    assert iterations_left(objectives, 1e-4, 50) == 20
    assert iterations_left(objectives, 0, 50) == 20
    assert iterations_left(objectives[:3], 1e-4, 50) is None
    assert iterations_left([1.0, 0.9, 0.8, 0.6, 0.3], 1e-4, 50) == 45  # falling faster and faster
    assert iterations_left(objectives, 1e-4, 30) == 0
    assert iterations_left([1.0], 1e-4, 1) == 0
    assert seconds_left(objectives, [0.5] * 30, 0, 50) == 10
    assert seconds_left([], [], 1e-4, 50) is None


def test_durations_are_told_in_two_units():
    assert [duration(s) for s in (0, 59.4, 59.6, 3599, 3600, 90061)] == [
        "0 s", "59 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "25 h 1 min",
    ]  # fmt: skip


def test_a_sparkline_has_the_shape_of_its_values():
    assert sparkline([]) == ""
    assert sparkline([3.0]) == "▁"
    assert sparkline([1, 1, 1]) == "▁▁▁"
    assert (
        sparkline([100.0, 10.0, 1.0]) == "█▅▁"
    )  # logarithmic: half-way is 3.5 of 7 eighths, rounded to even
    assert sparkline([-7.0, 0.0, 7.0]) == "▁▅█"
    long = sparkline([1000.0 - k for k in range(999)], 40)
    assert len(long) == 40
    assert (long[0], long[-1]) == ("█", "▁")


def test_quiet_consoles_show_nothing(capsys):
    with iterations({"max_iter": 1}, Console(stderr=True, quiet=True)) as show:
        show({"iteration": 1, "objective": 1.0, "train_rmse": 1.0, "test_rmse": None, "seconds": 0.5})
    assert capsys.readouterr().err == ""
