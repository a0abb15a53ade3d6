"""Readers and publishers at the same time, and the history they saw checked afterwards."""

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

from mfpipe.store import Store
from tests.faults.operations import publish, seed_of

# Each process is forked from one that has imported everything and runs nothing else.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.faults.operations"])


def read_often(directory: Path, number: int, reads: int, done) -> None:
    """Read the current version again and again; what was seen goes to a file."""
    store = Store(directory / "store")
    seen = []
    while len(seen) < reads or not done.is_set():
        version = store.version("m")
        seen.append([int(version.number), seed_of(version)])
    (directory / f"seen-{number}.json").write_text(json.dumps(seen))


def publish_rounds(directory: Path, number: int, rounds: int, barrier) -> None:
    """Publish at the same moment as the others, round after round."""
    made = []
    for turn in range(rounds):
        barrier.wait()
        seed = 1000 * number + turn
        version = publish(directory, seed)
        made.append([int(version.number), seed])
    (directory / f"made-{number}.json").write_text(json.dumps(made))


def publish_until_killed(directory: Path, number: int) -> None:
    turn = 0
    while True:
        publish(directory, 100_000 * number + turn)
        turn += 1


def ended(processes, seconds=150):
    for process in processes:
        process.join(seconds)
    return [process.exitcode for process in processes]


def check_seen(directory: Path, given: dict[int, int], reads: int) -> None:
    """Each answer is of one published version, and none is older than the one before."""
    for path in directory.glob("seen-*.json"):
        seen = json.loads(path.read_text())
        assert len(seen) >= reads
        numbers = [number for number, _ in seen]
        assert numbers == sorted(numbers)
        assert all(given[number] == seed for number, seed in seen)
        path.unlink()


@pytest.mark.parametrize(
    ("readers", "reads", "publications"),
    [(2, 30, 5), pytest.param(8, 200, 20, marks=pytest.mark.slow)],
)
def test_readers_during_publications_see_whole_versions_and_never_go_back(
    tmp_path, readers, reads, publications
):
    """The oldest versions are removed meanwhile too, under the readers' feet."""
    store = Store(tmp_path / "store")
    given = {int(publish(tmp_path, 1).number): 1}
    done = PROCESSES.Event()
    started = [PROCESSES.Process(target=read_often, args=(tmp_path, n, reads, done)) for n in range(readers)]
    for process in started:
        process.start()
    for seed in range(2, publications + 2):
        given[int(publish(tmp_path, seed).number)] = seed
        if seed > 3:
            store.remove("m", str(seed - 2))
        time.sleep(0.05)
    done.set()
    assert ended(started) == [0] * readers
    check_seen(tmp_path, given, reads)


@pytest.mark.parametrize(("publishers", "rounds"), [(3, 3), pytest.param(8, 20, marks=pytest.mark.slow)])
def test_publishers_at_once_each_get_a_number_of_their_own(tmp_path, publishers, rounds):
    barrier = PROCESSES.Barrier(publishers)
    started = [
        PROCESSES.Process(target=publish_rounds, args=(tmp_path, n, rounds, barrier))
        for n in range(publishers)
    ]
    for process in started:
        process.start()
    assert ended(started) == [0] * publishers
    made = [pair for path in tmp_path.glob("made-*.json") for pair in json.loads(path.read_text())]
    assert sorted(number for number, _ in made) == list(range(1, publishers * rounds + 1))
    store = Store(tmp_path / "store")
    for number, seed in made:
        assert seed_of(store.version("m", str(number))) == seed
    assert store.current("m") == str(publishers * rounds)


@pytest.mark.slow
def test_publishers_killed_and_stopped_at_random_leave_a_history_that_holds(tmp_path):
    """Thirty kills, and stops in which the lock is held: readers never wait, and never see half."""
    rng = random.Random(0)
    store = Store(tmp_path / "store")
    publish(tmp_path, 1)
    done = PROCESSES.Event()
    reader = PROCESSES.Process(target=read_often, args=(tmp_path, 0, 200, done))
    reader.start()
    for turn in range(1, 31):
        publisher = PROCESSES.Process(target=publish_until_killed, args=(tmp_path, turn))
        publisher.start()
        before = store.current("m")
        while store.current("m") == before:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.05))
        if turn % 3 == 0:
            os.kill(publisher.pid, signal.SIGSTOP)
            seed_of(store.version("m"))  # readers take no lock
            time.sleep(0.1)
        publisher.kill()
        publisher.join()
    last = publish(tmp_path, 2)  # takes the lock over
    done.set()
    assert ended([reader]) == [0]
    given = {int(number): seed_of(store.version("m", number)) for number in store.numbers("m")}
    assert sorted(given) == list(range(1, int(last.number) + 1))
    check_seen(tmp_path, given, 200)
    assert store.current("m") == last.number
    assert not list((tmp_path / "store" / "m").glob(".writing-*"))
