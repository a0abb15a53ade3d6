"""The live page: what fits tell it, and what a browser shows of that."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import pytest

from mfpipe.cluster import connect
from mfpipe.dashboards.live.fits import KEPT, Fits
from mfpipe.dashboards.live.panels import PANELS
from mfpipe.errors import NumericError
from mfpipe.evaluate import Holdout
from mfpipe.executors import InProcess, executor
from mfpipe.fit import fit
from mfpipe.job import Place, Prepared
from mfpipe.models import ALS, MODELS, UserMean
from mfpipe.pipeline import fit_and_evaluate, publish
from mfpipe.store import Store
from mfpipe.watching import COLUMNS, EVERY, TOPIC, Feed, has_page, watched
from tests.browser import browser
from tests.test_cluster import fitted

pytestmark = pytest.mark.timeout(120)
HOSTILE = "<script>document.title='hit'</script> \x1b[31m *bold* $$x^2$$ & \u202e"


@pytest.fixture(scope="module")
def local():
    """The default local cluster: all in this process, its dashboard on a free port."""
    with connect("local", dashboard_address="127.0.0.1:0") as client:
        assert has_page(client)
        yield client


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as made:
        yield made


def address(client, page="mfpipe"):
    return client.dashboard_link.removesuffix("status") + page


def seen_of(client) -> list[dict]:
    """What the plugin on the scheduler knows of each fit."""
    return client.run_on_scheduler(
        lambda dask_scheduler: [vars(seen) for seen in list(dask_scheduler.plugins["mfpipe-live"].fits)]
    )


def until(said, seconds=10):
    """What `said` returns, as soon as that is true."""
    end = time.monotonic() + seconds
    while not (found := said()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)
    return found


def text_of(page, name: str) -> str:
    """What is to be read in one of the page's texts."""
    return page.execute_script(
        """const model = window.Bokeh?.documents[0]?.get_model_by_name(arguments[0]);
        return model ? Bokeh.index.get_by_id(model.id).el.shadowRoot.textContent : ''""",
        name,
    )


def rows_of(page, panel: int) -> dict[str, list]:
    """The columns that a panel draws."""
    return page.execute_script(
        """const plot = Bokeh.documents[0].get_model_by_name(`panel_${arguments[0]}`);
        const rows = {visible: plot.visible, height: Bokeh.index.get_by_id(plot.id).el.clientHeight};
        for (const glyph of plot.renderers)
            for (const [name, values] of Object.entries(glyph.data_source.data)) rows[name] = Array.from(values);
        return rows""",
        panel,
    )


def severe(page) -> list[str]:
    return [entry["message"] for entry in page.get_log("browser") if entry["level"] == "SEVERE"]


def test_the_page_shows_the_stored_history_to_the_last_digit(local, page, small, tmp_path):
    train, test = Holdout.parse("random:0.2").split(small)
    model = ALS(3, 0.1, max_iter=12, tol=0)
    prepared = Prepared(train, test, {"inputs": [], "holdout": "random:0.2"}, train.fingerprint(), 0.0)
    page.get(address(local))
    store = Store(tmp_path / "store")
    with executor(train, model.storage, client=local, partitions=3) as where:
        trained = fit_and_evaluate(model, prepared, where, name="stored", store=store)
    history = publish(trained, prepared, "stored", store, Place()).table("history.parquet").to_pydict()

    assert until(lambda: "stored als, not converged" in text_of(page, "heading"))
    for number in range(len(PANELS) - 1):
        rows = until(lambda n=number: rows_of(page, n))
        assert rows["visible"]
        assert rows["height"] > 100
        for key in (
            "iteration",
            "objective",
            "item_objective",
            "train_rmse",
            "test_rmse",
            "seconds",
            "user_seconds",
        ):
            assert rows[key] == history[key], key
    rows = rows_of(page, len(PANELS) - 1)
    assert rows["partition"] == [0, 1, 2]
    halves = [
        half for record in trained.fit.history for half in record["half_steps"] if half["side"] == "item"
    ]
    assert rows["item_last"] == [part["seconds"] for part in halves[-1]["partitions"]]
    assert rows["item_mean"] == pytest.approx(
        [sum(half["partitions"][k]["seconds"] for half in halves) / 12 for k in range(3)]
    )
    figures, description = text_of(page, "figures"), text_of(page, "description")
    assert "iteration of at most 1212" in figures
    assert f"{history['objective'][-1]:.8g}" in figures
    assert f"{history['test_rmse'][-1]:.6f}" in figures
    assert f"mfpipe report stored --store {store.path} -o stored.html" in description
    assert "rank 3, regularization 0.1" in description
    assert severe(page) == []


def test_a_browser_that_watches_sees_iterations_as_they_end(local, page, small):
    page.get(address(local))
    seen = []

    def look(record):
        if record["iteration"] % 10 == 0:
            until(lambda: "watched als, running" in text_of(page, "heading"), 5)  # not the fit before it
            until(lambda: len(rows_of(page, 0).get("iteration", ())) >= record["iteration"], 5)
            seen.append(record["iteration"])

    with executor(small, ALS().storage, client=local, partitions=2) as where:
        watched(ALS(2, 0.1, max_iter=30, tol=0), small, where, "watched", on_iteration=[_last(look)])
    assert seen == [10, 20]
    assert severe(page) == []


def _last(call):
    """A callback that looks at the iteration before, which the feed after it has been told of by then."""
    before = []

    def told(record):
        if before:
            call(before[-1])
        before.append(record)

    return told


def test_hostile_names_and_failures_are_shown_as_text(local, page, small):
    def fail(record):
        raise NumericError("<b>user</b> 'x\x1b[2J': a value that is not finite")

    with executor(small, ALS().storage, client=local, partitions=2) as where, pytest.raises(NumericError):
        watched(ALS(2), small, where, HOSTILE, on_iteration=[fail], report=HOSTILE)
    page.get(address(local))
    heading = until(lambda: text_of(page, "heading"))
    assert "<script>document.title='hit'</script> \\x1b[31m *bold* $$x^2$$ & \\u202e als, failed" in heading
    assert "NumericError: <b>user</b> 'x\\x1b[2J': a value that is not finite" in heading
    assert page.title == "mfpipe: live"
    assert "<script>" in text_of(page, "choice")
    assert severe(page) == []


def test_a_model_without_factors_is_said_to_have_nothing_to_watch(local, page, small):
    with executor(small, UserMean().storage, client=local, partitions=2) as where:
        result = watched(UserMean(), small, where, "means")
    page.get(address(local))
    assert "computed in one pass" in until(lambda: text_of(page, "heading"))
    assert f"{result.train_rmse:.6f}" in text_of(page, "figures")
    assert not any(rows_of(page, number)["visible"] for number in range(len(PANELS)))


def test_fits_of_the_same_time_are_told_apart_and_one_can_be_chosen(local, page, small):
    feeds = [Feed(local, ALS(2), small, name) for name in ("first", "second")]
    until(lambda: len([seen for seen in seen_of(local) if seen["ended"] is None]) == 2)
    key = next(seen["key"] for seen in seen_of(local) if seen["about"]["name"] == "first")
    page.get(address(local))
    assert "second als, running" in until(lambda: text_of(page, "heading"))
    choice = text_of(page, "choice")
    assert "first" in choice
    assert "second" in choice
    page.get(address(local, f"mfpipe?fit={key}"))
    assert "first als, running" in until(lambda: text_of(page, "heading"))
    assert "first iteration has not ended yet" in text_of(page, "heading")
    for feed in feeds:
        feed.close("stopped", [])


def test_before_any_fit_the_page_says_so_and_is_in_the_navigation(page):
    with connect("local", 1, dashboard_address="127.0.0.1:0") as client:
        assert has_page(client)
        page.get(address(client))
        assert "No fit yet" in until(lambda: text_of(page, "heading"))
        assert severe(page) == []
        pages = [
            link.text for link in page.find_elements("css selector", ".navbar > ul > li > a") if link.text
        ]
        assert pages[:3] == ["Status", "Mfpipe", "Workers"]
        with urllib.request.urlopen(address(client, "tasks")) as other:
            assert '<a href="mfpipe">' in other.read().decode()


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_heard_of_whole_and_none_is_changed(local, small, name):
    model = MODELS[name](**({"max_iter": 4, "tol": 0} if hasattr(MODELS[name], "max_iter") else {}))
    with executor(small, model.storage, client=local, partitions=3) as where:
        result = watched(model, small, where, name)
    seen = seen_of(local)[-1]
    assert seen["columns"].keys() == set(COLUMNS)
    assert seen["columns"]["objective"] == [record["objective"] for record in result.history]
    assert seen["ended"]["state"] == ("converged" if result.converged else "not converged")
    assert result.objectives == fitted(model, small, cluster="serial").objectives


def test_a_hundred_iterations_a_second_are_two_events_a_second_with_all_of_them(local, small):
    record = fit(ALS(2, max_iter=1), small, InProcess(small, ALS().storage, 2)).history[0]
    before = len(local.get_events(TOPIC))
    began = time.monotonic()
    feed = Feed(local, ALS(2), small, "fast")
    for iteration in range(1, 201):
        feed(record | {"iteration": iteration})
        time.sleep(0.01)
    feed.close("stopped", [])
    took = time.monotonic() - began
    events = [message for _, message in local.get_events(TOPIC)[before:]]
    assert 2 < len(events) <= took / EVERY + 2
    heard = [k for message in events for k in message.get("columns", {}).get("iteration", ())]
    assert heard == list(range(1, 201))
    assert seen_of(local)[-1]["columns"]["iteration"] == heard


def test_a_resumed_fit_shows_what_it_had_done_before(local, small):
    states, model = [], ALS(2, 0.1, max_iter=6, tol=0)
    with executor(small, model.storage, client=local, partitions=2) as where:
        fit(model, small, where, on_state=states.append)
        watched(model, small, where, "resumed", state=states[3])
    assert seen_of(local)[-1]["columns"]["iteration"] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_lost_workers_and_drivers_are_counted_and_said(small):
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", host="127.0.0.1"
        ) as made,
        Client(made) as client,
    ):
        assert has_page(client)
        other = Client(made.scheduler_address, set_as_default=False)
        Feed(other, ALS(2), small, "left")
        feed = Feed(client, ALS(2), small, "stays")
        until(lambda: len(seen_of(client)) == 2)

        def by_name(name):
            return next(seen for seen in seen_of(client) if seen["about"]["name"] == name)

        pids = client.run(os.getpid)
        worker = next(iter(pids))
        pending = client.submit(time.sleep, 4, workers=[worker], allow_other_workers=True)
        until(lambda: client.processing()[worker])
        os.kill(pids[worker], signal.SIGKILL)
        until(lambda: by_name("stays")["workers_lost"] == 1)
        assert by_name("stays")["tasks_again"] == 1
        other.close()
        assert until(lambda: by_name("left")["ended"])["state"] == "lost"
        assert by_name("stays")["ended"] is None
        pending.cancel()
        feed.close("stopped", [])


def test_without_a_dashboard_the_fit_goes_on_with_one_line(small, caplog):
    from distributed import Client, LocalCluster

    caplog.set_level("INFO", "mfpipe")
    with (
        LocalCluster(
            n_workers=1, processes=False, dashboard_address=None, scheduler_kwargs={"dashboard": False},
            worker_dashboard_address="127.0.0.1:0",
        ) as made,
        Client(made) as client,
        executor(small, ALS().storage, client=client) as where,
    ):  # fmt: skip
        for _ in range(2):
            assert watched(ALS(2, max_iter=2), small, where, "unseen").n_iter == 2
    lines = [record.getMessage() for record in caplog.records if "live page" in record.getMessage()]
    assert lines == [
        "no live page on the Dask dashboard (RuntimeError: the scheduler was started without a dashboard)"
    ]


def test_without_bokeh_a_command_says_so_and_does_the_rest(tmp_path):
    rows = [f"u{k % 7},i{k % 5},{1 + k % 5}" for k in range(35)]
    (tmp_path / "r.csv").write_text("\n".join(["user,item,rating", *rows]))
    code = "import sys; sys.modules['bokeh'] = None; from mfpipe.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "train", "r.csv", "--rank", "2", "--max-iter", "3"]
    command += ["--dashboard-address", "127.0.0.1:0"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert found.returncode == 0, found.stderr
    assert "Traceback" not in found.stderr
    assert [
        line.partition(":")[0] for line in found.stderr.splitlines() if "no " in line and "page" in line
    ] == ["no live page on the Dask dashboard (ModuleNotFoundError"]


@contextmanager
def scheduler_without(module: str, *options: str):
    """A scheduler process that cannot import a module, with a worker that can."""
    code = (
        f"import sys; sys.modules[{module!r}] = None\nfrom distributed.cli.dask_scheduler import main; main()"
    )
    command = [
        sys.executable,
        "-c",
        code,
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--dashboard-address",
        "127.0.0.1:0",
    ]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as scheduler:
        try:
            found = next(line for line in scheduler.stderr if "Scheduler at:" in line).split()[-1]
            worker = [
                sys.executable,
                "-m",
                "distributed.cli.dask_worker",
                found,
                "--no-nanny",
                "--no-dashboard",
            ]
            with subprocess.Popen(worker, stderr=subprocess.DEVNULL) as process:
                try:
                    yield found
                finally:
                    process.kill()
        finally:
            scheduler.kill()


@pytest.mark.slow
@pytest.mark.parametrize("module", ["mfpipe", "bokeh"])
def test_a_scheduler_that_lacks_a_package_costs_the_page_and_not_the_fit(small, caplog, module):
    from distributed import Client

    caplog.set_level("INFO", "mfpipe")
    with scheduler_without(module) as found, Client(found) as client:
        client.wait_for_workers(1, timeout=30)
        if module == "mfpipe":  # without which Dask's scheduler runs no task of it either
            assert not has_page(client)
        else:
            with executor(small, ALS().storage, client=client) as where:
                assert watched(ALS(2, max_iter=2), small, where, "unseen").n_iter == 2
    (line,) = (record.getMessage() for record in caplog.records if "live page" in record.getMessage())
    assert "ModuleNotFoundError" in line
    assert module in line


@pytest.mark.slow
def test_a_scheduler_may_have_the_page_from_the_start():
    with scheduler_without("no_such_module", "--preload", "mfpipe.dashboards.live.plugin") as found:
        from distributed import Client

        with Client(found) as client, urllib.request.urlopen(address(client)) as answer:
            assert b'href="mfpipe"' in answer.read()


def test_of_many_fits_the_first_to_have_ended_are_forgotten():
    fits = Fits()
    for key in range(KEPT + 5):
        fits.take({"fit": str(key), "about": {"name": "n", "client": "c"}})
        if key != 3:
            fits.take({"fit": str(key), "ended": {"state": "converged", "words": []}})
    kept = [seen.key for seen in fits]
    assert len(kept) == KEPT
    assert "3" in kept
    assert "0" not in kept
    assert fits.chosen().key == "3"  # the one that runs
    assert fits.chosen("7").key == "7"
    fits.take({"fit": "unheard of", "columns": {"iteration": [1]}})
    assert len(fits) == KEPT
