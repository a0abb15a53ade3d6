"""Signals at every stage, and machines that lack something: an exit code, words, and nothing left behind."""

import itertools
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mfpipe import scratch
from mfpipe.errors import StoreError
from mfpipe.executors import executor
from mfpipe.models import ALS
from mfpipe.store import Store
from tests.make import write

DRIVER = Path(__file__).with_name("driver.py")
LINES = "user,item,rating\n" + "".join(f"{n % 40},{n % 37},{1 + n % 5}\n" for n in range(900))
LIMIT_SECONDS = 10
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
STAGES = {
    "reading": ("mfpipe.ratings:_settle", ("--cluster", "serial")),
    "compiling": ("mfpipe.pipeline:compile_kernels", ("--cluster", "serial")),
    "fitting in threads": ("mfpipe.executors:InProcess.half_step", ("--cluster", "threads")),
    "solving in threads": ("mfpipe.executors:update_block", ("--cluster", "threads")),
    "starting a cluster": ("distributed.nanny:Nanny.__init__", ("--workers", "2")),  # its loop is blocked
    "starting workers": ("distributed.nanny:WorkerProcess._wait_until_connected", ("--workers", "2")),
    "fitting on the local cluster": ("mfpipe.executors:OnCluster.half_step", ("--cluster", "local")),
    "solving on the local cluster": ("mfpipe.executors:update_block", ("--cluster", "local")),
    "fitting on two workers": ("mfpipe.executors:OnCluster.half_step", ("--workers", "2")),
    "storing": ("mfpipe.store:seal", ("--cluster", "serial")),
    "pointing": ("mfpipe.store:Store._point", ("--cluster", "serial")),
    "after publication": ("mfpipe.runs:Run.delete", ("--cluster", "serial")),
}


def started(tmp_path, place, *options):
    """A driver of its own session and temporary directory, which has got to a place."""
    source = write(tmp_path / "r.csv", LINES)
    temporary = tmp_path / "tmp"
    temporary.mkdir(exist_ok=True)
    command = [
        sys.executable,
        str(DRIVER),
        place,
        "train",
        source,
        "--name",
        "m",
        "--max-iter",
        "5",
        *options,
    ]
    process = subprocess.Popen(
        [*command, "--dashboard-address", "127.0.0.1:0"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": str(Path(__file__).parents[2])},
        start_new_session=True,
        preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number in CODES],
    )
    said = list(itertools.takewhile(lambda line: line != "HERE\n", process.stderr))
    assert process.poll() is None, "".join(said)
    return process, temporary


def ended(process, temporary, began):
    """The driver's last words; it is gone in time and with all that it started."""
    _, said = process.communicate(timeout=20)
    seconds = time.monotonic() - began
    print(f"{seconds:.2f} s from the signal to the end")
    assert seconds < LIMIT_SECONDS
    left = [
        p
        for p in psutil.process_iter(["environ"])
        if (p.info["environ"] or {}).get("TMPDIR") == str(temporary)
    ]
    _, alive = psutil.wait_procs(left, timeout=5)
    assert not alive
    assert list(temporary.iterdir()) == []
    assert "Traceback" not in said
    assert "leaked" not in said  # semaphores, as Python's multiprocessing says
    assert "still busy" not in said
    return said


QUICK = {
    (signal.SIGINT, "fitting on two workers"),
    (signal.SIGINT, "solving on the local cluster"),
    (signal.SIGTERM, "pointing"),
    (signal.SIGHUP, "fitting in threads"),
}


@pytest.mark.parametrize(
    ("number", "stage"),
    [
        pytest.param(
            number,
            stage,
            id=f"{number.name} {stage}",
            marks=[] if (number, stage) in QUICK else [pytest.mark.slow],
        )
        for number in CODES
        for stage in STAGES
    ],
)
def test_a_signal_at_any_stage(tmp_path, stage, number):
    place, options = STAGES[stage]
    process, temporary = started(tmp_path, place, *options)
    began = time.monotonic()
    process.send_signal(number)
    said = ended(process, temporary, began)
    assert process.returncode == CODES[number], said
    published = Store(tmp_path / "mfpipe-store").numbers("m")
    assert published == (["1"] if stage in ("pointing", "after publication") else [])
    outcome = {"pointing": "m@1, but not made current,", "after publication": "m@1"}.get(stage, "nothing")
    assert f"{number.name}: stopped; {outcome} was published" in said
    assert ("go on with: mfpipe resume" in said) == (stage not in ("reading", "after publication"))


@pytest.mark.parametrize(
    ("stage", "after"),
    [
        ("fitting in threads", 0),
        pytest.param("fitting on the local cluster", 0, marks=pytest.mark.slow),
        pytest.param("fitting on two workers", 0, marks=pytest.mark.slow),
        ("starting workers", 0.2),  # while they import
        pytest.param("starting workers", 1, marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_again_and_again_and_to_the_whole_group(tmp_path, stage, after):
    """As a terminal sends it: to the workers too, and by a hand that does not wait."""
    place, options = STAGES[stage]
    process, temporary = started(tmp_path, place, *options)
    time.sleep(after)
    began = time.monotonic()
    for _ in range(4):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.15)
        if process.poll() is not None:
            break
    said = ended(process, temporary, began)
    assert process.returncode == 130, said
    assert "SIGINT: stopped; nothing was published" in said


def test_a_process_that_cannot_unwind_is_ended(tmp_path):
    """Its main thread is in C, where no handler of Python's runs."""
    code = (
        "import ctypes, sys; from mfpipe import scratch, stopping\n"
        "stopping.GRACE_SECONDS = 1\n"
        "mutex = ctypes.create_string_buffer(64)\n"
        "with stopping.stoppable(), scratch.directory():\n"
        "    print('HERE', file=sys.stderr, flush=True)\n"
        "    lock = ctypes.CDLL(None).pthread_mutex_lock\n"
        "    lock(mutex), lock(mutex)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert process.stderr.readline() == "HERE\n"
    while psutil.Process(process.pid).status() != psutil.STATUS_SLEEPING:  # it does once it waits in C
        time.sleep(0.01)
    assert len(list(tmp_path.iterdir())) == 1
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=15)
    assert process.returncode == 143
    assert time.monotonic() - began < 5
    assert "still busy 1 s after the signal" in said
    assert list(tmp_path.iterdir()) == []


def test_a_signal_that_comes_while_an_object_is_deleted_ends_the_run_too(tmp_path):
    """Python drops what is raised there, and goes on."""
    code = (
        "import sys, time; from mfpipe import stopping\n"
        "class Deleted:\n"
        "    def __del__(self):\n"
        "        print('HERE', file=sys.stderr, flush=True)\n"
        "        time.sleep(30)\n"
        "with stopping.stoppable():\n"
        "    try:\n"
        "        Deleted()\n"
        "        time.sleep(30)\n"
        "    except stopping.Stopped as error:\n"
        "        print('last words', error, file=sys.stderr)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    assert process.stderr.readline() == "HERE\n"
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=15)
    assert process.returncode == 143
    assert time.monotonic() - began < 3
    assert said == "last words SIGTERM\n"


@pytest.mark.slow
def test_what_a_killed_driver_left_is_removed_by_the_next(tmp_path):
    place, options = STAGES["fitting on two workers"]
    process, temporary = started(tmp_path, place, *options)
    process.kill()
    process.wait()
    process.stderr.close()
    assert list(temporary.glob("mfpipe-scratch-*"))
    workers = [
        p
        for p in psutil.process_iter(["environ"])
        if (p.info["environ"] or {}).get("TMPDIR") == str(temporary)
    ]
    assert not psutil.wait_procs(workers, timeout=10)[1]
    process, temporary = started(tmp_path, "mfpipe.executors:OnCluster.half_step", "--cluster", "local")
    assert len(list(temporary.glob("mfpipe-scratch-*"))) == 2  # partitions, and Dask's own
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    ended(process, temporary, began)


def test_the_scratch_of_a_living_process_and_what_is_not_ours_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch.tempfile, "tempdir", str(tmp_path))
    (tmp_path / "mfpipe-scratch-link").symlink_to(tmp_path)
    (tmp_path / "mfpipe-scratch-unlocked").mkdir()  # has no lock at all, so no process of ours made it
    with scratch.directory() as one, scratch.directory() as two:
        assert one.is_dir()
        assert two.is_dir()
        assert oct(one.stat().st_mode & 0o777) == "0o700"
    assert {path.name for path in tmp_path.iterdir()} == {"mfpipe-scratch-link", "mfpipe-scratch-unlocked"}


# Machines that lack something


def test_a_full_temporary_directory_is_said(small, monkeypatch, tmp_path):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    for what in ("mfpipe.partition.pq.write_table", "tempfile.mkdtemp"):
        with monkeypatch.context() as patched:
            patched.setattr(scratch.tempfile, "tempdir", str(tmp_path))
            patched.setattr(what, full)
            with (
                pytest.raises(StoreError, match="temporary directory .*No space left on device.*set TMPDIR"),
                executor(small, ALS(2).storage, dashboard_address="127.0.0.1:0"),
            ):
                pass
        assert list(tmp_path.iterdir()) == []


def test_a_taken_port_is_said_with_the_one_taken_instead(small, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("mfpipe"), "propagate", True)
    with socket.create_server(("127.0.0.1", 0)) as taken, caplog.at_level(logging.INFO, "mfpipe"):
        port = taken.getsockname()[1]
        with executor(small, ALS(2).storage, dashboard_address=f"127.0.0.1:{port}"):
            pass
    assert f"port {port} is taken" in caplog.text
    links = [r.getMessage() for r in caplog.records if "Dask dashboard: http://127.0.0.1:" in r.getMessage()]
    assert links
    assert not [link for link in links if f":{port}/" in link]


BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "bokeh":
            raise ModuleNotFoundError(f"No module named {name!r}", name="bokeh")
sys.meta_path.insert(0, Blocked())
from mfpipe.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_without_bokeh_everything_but_reports_works(tmp_path):
    def run(*arguments):
        command = [sys.executable, "-c", BLOCK, *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    source = write(tmp_path / "r.csv", LINES)
    trained = run("train", source, "--name", "m", "--max-iter", "2")
    assert trained.returncode == 0, trained.stderr
    assert "no Dask dashboard: Bokeh is not installed" in trained.stderr
    searched = run("path", source, "--lambdas", "2", "--max-iter", "2", "--cluster", "serial")
    assert searched.returncode == 0, searched.stderr
    for command in (("report", "m", "-o", "r.html"), ("path", source, "-o", "r.html", "--cluster", "serial")):
        refused = run(*command)
        assert refused.returncode == 2
        assert "needs bokeh, which is not installed" in refused.stderr
        assert "reading" not in refused.stderr  # before anything else is done
        assert not (tmp_path / "r.html").exists()


SET_BACK = """
import json, sys, time
from datetime import UTC, datetime
from pathlib import Path
from mfpipe.models import ALS
from mfpipe.job import Data, Place
from mfpipe.pipeline import train
from mfpipe.runs import Checkpoints, listed
from mfpipe.store import Store
source, clock = sys.argv[1], Path(sys.argv[2])
store, days, dates = Store("store"), 0, []

def set_back(record):
    global days
    days += 1
    clock.write_text(f"-{days}d")
    dates.append(time.time())

for name in "mmn":
    train(Data([source]), ALS(2, max_iter=3, tol=0), name, store, Place("threads"), on_iteration=[set_back],
          checkpoints=Checkpoints(iterations=1))
histories = [store.version(*each).table("history.parquet").to_pydict() for each in (("m", "1"), ("m", "2"))]
print(json.dumps({
    "dates": dates,
    "numbers": store.numbers("m"),
    "current": store.current("m"),
    "created": [store.version("m", number).manifest["created"] for number in ("1", "2")],
    "objectives": [history["objective"] for history in histories],
    "seconds": [second for history in histories for second in history["seconds"]],
    "timings": store.version("m").json("timings.json"),
    "left": listed(store.path),
}))
"""


def test_a_clock_that_is_set_back_during_a_fit_changes_nothing(tmp_path):
    """By a day after each iteration, with libfaketime; versions follow their numbers and not their dates."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if library is None:
        pytest.skip("needs libfaketime (Debian's package faketime)")
    source, clock = write(tmp_path / "r.csv", LINES), write(tmp_path / "clock", "+0d")
    environment = {"LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": clock, "FAKETIME_NO_CACHE": "1"}
    environment |= {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(
        [sys.executable, "-c", SET_BACK, source, clock],
        cwd=tmp_path,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["dates"] == sorted(found["dates"], reverse=True)
    assert found["dates"][0] - found["dates"][-1] > 7 * 86_400
    assert (found["numbers"], found["current"]) == (["1", "2"], "2")
    assert found["created"][1] < found["created"][0]
    assert found["objectives"][0] == found["objectives"][1]
    assert all(0 <= second < 60 for second in found["seconds"])
    assert not re.search(r"[^e]-[0-9]", json.dumps(found["timings"]))
    assert found["left"] == []
