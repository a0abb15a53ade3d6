"""The history of a store: every page in a real browser, what it says, and that it keeps up to date."""

import json
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.error import HTTPError
from urllib.request import Request as Ask
from urllib.request import urlopen

import numpy as np
import psutil
import pytest
from numpy.testing import assert_allclose

from mfpipe import runs
from mfpipe.cli import main
from mfpipe.dashboards.history import reading, server
from mfpipe.dashboards.history.export import export
from mfpipe.dashboards.history.moved import moved
from mfpipe.dashboards.history.pages import PAGES
from mfpipe.dashboards.history.plots import share_of_limit
from mfpipe.dashboards.history.reading import History
from mfpipe.dashboards.history.server import Served, serving
from mfpipe.drift import Limits, too_far
from mfpipe.errors import GateError
from mfpipe.job import Data, Place
from mfpipe.models import ALS, UserItemMean
from mfpipe.retraining import Request, retrain
from mfpipe.sealed import checksum, json_bytes
from mfpipe.store import Store
from mfpipe.version import Version
from tests.browser import browser, plots_shown
from tests.make import write
from tests.test_report import published
from tests.test_retraining import PARAMS, lines

# What each page is asked with; a page that is not here fails the smoke test.
ASKED = {
    "": {},
    "model": {"name": "m"},
    "compare": {"a": "m@1", "b": "m@3"},
    "report": {"version": "m@3"},
}
EVIL = "\x1b]0;owned\x07\u202e=1+1 **bold** <img src=x onerror=alert(1)>"


@pytest.fixture(autouse=True)
def every_look_is_a_new_one(monkeypatch):
    monkeypatch.setattr(reading, "LOOK_SECONDS", 0)


def publish(store, seed=0, name="m", **options):
    """A version of 30 users and items whose ids are scripts."""
    model = ALS(rank=2, regularization=0.05, random_state=seed, max_iter=3, tol=0, **options)
    return published(store, model, name=name)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """`m`: three versions of which the second is current; `means`: no factors; `nightly`: retrained, and refused."""
    home = tmp_path_factory.mktemp("history")
    store = Store(home / "store")
    for seed in range(3):
        publish(store, seed)
    store.rollback("m", "2")
    published(store, UserItemMean(), name="means")
    for n, shuffled in ((3000, False), (3300, False), (3300, True)):
        source = write(home / f"{n}{shuffled}.csv", lines(n, shuffled=shuffled))
        request = Request(Data([source], (), "random:0.1"), "nightly", None, PARAMS, Place("serial"))
        try:
            retrain(request, store)
        except GateError:
            assert shuffled
    return store


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A browser with a page that every test may take elsewhere."""
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@contextmanager
def served(store):
    """The address of a server of the store's pages."""
    with socket.create_server(("127.0.0.1", 0)) as listening, serving(store, listening):
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def shown(store, page="", /, **given):
    status, html = Served(store).page(page, given)
    assert status == 200, html
    return html


def words_of(html):
    return re.sub(r"<script.*?</script>", "", html, flags=re.S)


@pytest.mark.parametrize("name", PAGES)
def test_every_page_opens(store, name):
    html = shown(store, name, **ASKED[name])
    assert "None" not in words_of(html)
    assert "nan" not in words_of(html)


def test_every_page_in_a_browser(store, page):
    expected = {
        "": {"Test RMSE over time": {1, 2, 3}, "Seconds over time": {1, 2, 3}},
        "model?name=m": {
            "RMSE over time": {3, 1},  # every version, and the ring around the current one
            "Seconds over time": {3},
            "Ratings, users and items": {3},
        },
        "model?name=nightly": {
            "RMSE over time": {2, 1},
            "Seconds over time": {2},
            "Ratings, users and items": {2},
            "Data drift": {2},
            "Gate": {2, 1},
        },
        "compare?a=m%401&b=m%403": {"How far predictions moved": {40}},
        "compare?a=means%401&b=m%403": {"How far predictions moved": {40}},
    }
    page.get_log("browser")
    with served(store) as url:
        for address, points in expected.items():
            page.set_window_size(1200, 2600)
            page.get(f"{url}/{address}")
            plots = plots_shown(page, len(points))
            assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []
            loaded = page.execute_script("return performance.getEntriesByType('resource').map(r => r.name)")
            assert all(name.startswith(url) for name in loaded)
            drawn = page.find_elements("css selector", "figure:has([role=img])")
            titles = [figure.find_element("tag name", "h2").text for figure in drawn]
            assert {title: set(plot["points"]) for title, plot in zip(titles, plots, strict=True)} == points
            assert all(plot["size"] > 100 for plot in plots)
            for figure in drawn:
                plot = figure.find_element("css selector", "[role=img]")
                words = page.find_element("id", plot.get_attribute("aria-describedby")).text
                assert len(words) > 20
                assert plot.get_attribute("aria-label").startswith("Plot: ")
            page.set_window_size(390, 2000)
            wide = page.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
            assert wide <= 0, address
        assert page.execute_script("return document.querySelectorAll('main img').length") == 0


def test_all_versions_of_all_models_are_points(store, page):
    total = sum(len(store.numbers(name)) for name in store.names())
    with served(store) as url:
        page.get(url)
        for plot in plots_shown(page, 2):
            lines, scatters = plot["points"][::2], plot["points"][1::2]
            assert sum(lines) == sum(scatters) == total


def test_a_page_follows_the_colours_and_the_keyboard(store, page):
    from selenium.webdriver import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    pixel = """
        const root = Bokeh.documents[0].roots()[0];
        const canvas = Bokeh.index.get_by_id(root.id).canvas_view.primary.canvas;
        return [...canvas.getContext("2d").getImageData(3, 3, 1, 1).data];
    """
    with served(store) as url:
        page.get(f"{url}/model?name=m")
        plots_shown(page, 3)
        light = max(page.execute_script(pixel)[:3])
        dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
        WebDriverWait(page, 20).until(lambda p: max(p.execute_script(pixel)[:3]) < 60)
        assert light == 255
        body = page.find_element("tag name", "body")
        body.send_keys(Keys.TAB)
        assert page.switch_to.active_element.text == "Skip to the content"
        field = page.find_element("name", "a")
        field.clear()
        field.send_keys("means@1", Keys.TAB, Keys.TAB)
        page.switch_to.active_element.send_keys(Keys.ENTER)
        WebDriverWait(page, 20).until(lambda p: "compare?a=means%401" in p.current_url)
        assert "means@1 and m@3" in page.title
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_published_version_appears_by_itself(page, tmp_path):
    from selenium.webdriver.support.ui import WebDriverWait

    mine = Store(tmp_path / "store")
    with served(mine) as url:
        page.get(url)
        assert "There is no model in" in page.find_element("tag name", "main").text
        for count in (1, 2):
            publish(mine, count)
            WebDriverWait(page, 20).until(lambda p: p.find_elements("css selector", "[role=img]"))
            if count == 1:
                page.get(f"{url}/model?name=m")
            else:
                WebDriverWait(page, 20).until(lambda p: "2 (current)" in p.page_source)
                assert page.find_element("id", "status").text.startswith("The store has changed")
            assert plots_shown(page, 3)[0]["points"][0] == count


def test_a_page_says_that_its_server_is_gone(store, page):
    from selenium.webdriver.support.ui import WebDriverWait

    with served(store) as url:
        page.get(url)
    WebDriverWait(page, 20).until(lambda p: "does not answer" in p.find_element("id", "status").text)
    assert page.find_elements("css selector", "[role=img]")


def test_hostile_texts_are_text(store, tmp_path):
    html = shown(store, "compare", a="m@1", b="m@3")
    assert "<script>alert(" not in html
    assert "&lt;script&gt;alert(" in html
    mine = Store(tmp_path / "store")
    version = publish(mine)
    manifest = json.loads((version.path / "manifest.json").read_text())
    del manifest["checksum"]
    manifest["data"]["inputs"] = [EVIL]
    manifest["params"][EVIL] = EVIL
    manifest["model"] = EVIL
    (version.path / "manifest.json").write_bytes(json_bytes(manifest | {"checksum": checksum(manifest)}))
    for name, given in {"model": {"name": "m"}, "compare": {"a": "m@1", "b": "m@1"}, "": {}}.items():
        status, html = Served(mine).page(name, given)
        assert status == 200
        assert "\x1b" not in html
        assert "\u202e" not in html
        assert "<img" not in html
    assert (
        "\\x1b]0;owned\\x07\\u202e=1+1 **bold** &lt;img"
        in Served(mine).page("compare", {"a": "m@1", "b": "m@1"})[1]
    )
    for label in (EVIL, "<b>@1", "m@<b>", "../x", "m@1\n"):
        for name, given in {
            "model": {"name": label},
            "compare": {"a": label, "b": "m@1"},
            "report": {"version": label},
        }.items():
            status, html = Served(store).page(name, given)
            assert status in (400, 404)
            assert "\x1b" not in html
            assert "<b>" not in html
            assert "<img" not in html


def test_an_empty_store_says_what_to_do(tmp_path):
    for path in (tmp_path / "missing", tmp_path):
        html = shown(Store(path))
        assert f"There is no model in {path} yet" in html
        assert "mfpipe train" in html
        assert "No fit is running" in html
    assert Served(Store(tmp_path)).page("model", {"name": "m"})[0] == 404


def test_damage_is_named_and_the_rest_is_shown(tmp_path):
    mine = Store(tmp_path / "store")
    for seed in range(3):
        publish(mine, seed)
    path = mine.path / "m" / "2" / "manifest.json"
    path.write_bytes(path.read_bytes()[:-40])
    html = shown(mine, "model", name="m")
    assert str(path) in html
    assert "not a manifest" in html
    assert "mfpipe models verify" in html
    assert "3 (current)" in html
    factors = mine.path / "m" / "1" / "user_factors.parquet"
    factors.write_bytes(factors.read_bytes()[:-1])
    html = shown(mine, "compare", a="m@1", b="m@3")
    assert f"{factors}: its checksum" in html
    assert "Parameters" in html
    (mine.path / "m" / "current").write_text("?")
    html = shown(mine, "model", name="m")
    assert "current: damaged" in html
    assert "None is current" in html
    metrics = mine.path / "m" / "3" / "timings.json"
    metrics.unlink()
    assert "test RMSE" in shown(mine, "model", name="m")


def test_a_damaged_decision_is_left_out_and_named(store, tmp_path):
    import shutil

    shutil.copytree(store.path, tmp_path / "store")
    mine = Store(tmp_path / "store")
    record = sorted((mine.path / ".retrains" / "nightly").glob("*.json"))[-1]
    record.write_text("{}")
    html = shown(mine, "model", name="nightly")
    assert f"{record}: damaged; left out" in html
    assert "refused challenger" not in html


def test_a_run_in_progress_is_told(tmp_path):
    mine = Store(tmp_path / "store")
    order = {"name": "m", "model": "als", "checkpoints": {"seconds": 60.0, "iterations": None}, "params": {}}
    before = Served(mine).state()
    with runs.started(mine.path, order, "m-1"):
        html = shown(mine)
        assert ">m-1<" in html
        assert "running" in html
        assert Served(mine).state() != before
        publish(mine)
        assert ">m-1<" in shown(mine, "model", name="m")
    assert "No fit is running" in shown(mine)


def test_a_model_without_factors_says_so(store):
    assert "A user-item-mean has no factors" in shown(store, "model", name="means")
    assert "Predictions that moved most" in shown(store, "compare", a="means@1", b="m@2")


def test_decisions_drift_and_gate_are_told(store):
    html = words_of(shown(store, "model", name="nightly"))
    assert "refused" in html
    assert "2 challengers judged, 1 refused" in html
    assert "2 retrains compared" in html
    assert "1 refused challenger marked ×" in html
    assert "by hand, without a gate" in shown(store, "model", name="m")


def test_shares_of_limits_are_beyond_1_where_a_retrain_is_refused():
    rng = np.random.default_rng(0)
    limits, usual = Limits(), dict.fromkeys(("ratings", "users", "items", "spread"), 1.0)
    usual |= dict.fromkeys(("mean", "unseen_users", "unseen_items", "days_back"), 0.0)
    refused = 0
    for what in usual:
        for value in rng.lognormal(0, 2, 40) * (-1 if what == "mean" else 1):
            found = usual | {what: float(value)}
            share = share_of_limit(what, found[what], vars(limits))
            assert (share > 1) == bool(too_far(found, limits)), (what, value)
            refused += share > 1
    assert 40 < refused < 280
    assert share_of_limit("mean", None, vars(limits)) is None
    assert share_of_limit("mean", 1.0, vars(limits) | {"mean": 0}) is None
    assert share_of_limit("ratings", 0.5, vars(limits) | {"fewest": 0}) is None


def test_moved_predictions_are_those_of_the_models(store, monkeypatch):
    a, b = store.version("m", "1"), store.version("m", "3")
    found = moved(a, b)
    assert (found.pairs, found.of) == (b.manifest["data"]["n_ratings"],) * 2
    assert sum(found.counts) == found.pairs
    table, fitted = b.table("ratings.parquet"), b.load()
    users, items = (
        ids.texts.take(table[side]) for side, ids in (("user", fitted.users), ("item", fitted.items))
    )
    users, items = users.combine_chunks(), items.combine_chunks()
    first, second = (version.load().predict(users, items)[0] for version in (a, b))
    assert_allclose(found.rms, np.sqrt(np.mean((second - first) ** 2)))
    order = np.argsort(-np.abs(second - first))[:20]
    assert_allclose([row["b"] - row["a"] for row in found.most], (second - first)[order])
    assert [(row["user"], row["item"]) for row in found.most][:3] == [
        (users[k].as_py(), items[k].as_py()) for k in order[:3]
    ]
    monkeypatch.setattr("mfpipe.dashboards.history.moved.MOST_PAIRS", 100)
    some = moved(a, b)
    assert (some.pairs, some.of) == (-(-found.pairs // 4), found.pairs)
    assert f"{some.pairs} of {some.of}" in shown(store, "compare", a="m@1", b="m@3")


def test_versions_without_ratings_are_compared_on_a_grid(store, monkeypatch):
    monkeypatch.setattr("mfpipe.rated.FILE", "none.parquet")
    found = moved(store.version("m", "1"), store.version("m", "3"))
    assert found.pairs == found.of == 30 * 30
    assert "neither version keeps its ratings" in found.what
    assert found.most[0]["rating"] is None


def test_a_listing_reads_each_manifest_once_and_no_factors(store, monkeypatch):
    read = []
    real = Store.version
    monkeypatch.setattr(
        Store,
        "version",
        lambda self, name, number=None: read.append((name, number)) or real(self, name, number),
    )
    monkeypatch.setattr(Version, "read", lambda self, name: pytest.fail(f"read {name}"))
    history = History(store)
    first = history.look()
    assert len(read) == sum(len(model.versions) for model in first.models.values()) == 6
    again = history.look()
    assert len(read) == 6
    assert again.state == first.state
    assert again.models["m"].versions[0] is first.models["m"].versions[0]


def test_pages_are_made_once_for_each_state_and_few_are_kept(store, monkeypatch):
    monkeypatch.setattr(server, "KEPT_PAGES", 3)
    pages = Served(store)
    first = pages.page("model", {"name": "m"})[1]
    assert pages.page("model", {"name": "m"})[1] is first
    for name in ("means", "nightly", "m"):
        pages.page("model", {"name": name})
    pages.page("", {})
    assert len(pages._kept) == 3
    assert pages.page("model", {"name": "m"})[1] is first
    made = []
    with monkeypatch.context() as patched, ThreadPoolExecutor(4) as pool:
        patched.setattr(server, "render", lambda *given: made.append(given) or "<p>")
        answers = list(pool.map(lambda _: pages.page("compare", ASKED["compare"]), range(8)))
    assert answers == [(200, "<p>")] * 8
    assert len(made) == 1
    store.rollback("m", "3")
    try:
        assert "Version 3 is current" in pages.page("model", {"name": "m"})[1]
    finally:
        store.rollback("m", "2")


def test_what_is_removed_is_forgotten(tmp_path):
    mine = Store(tmp_path / "store")
    for seed in range(3):
        publish(mine, seed)
    history = History(mine)
    before = history.look()
    assert len(history._kept) == 3
    mine.remove("m", "1")
    after = history.look()
    assert len(history._kept) == 2
    assert [version.number for version in after.models["m"].versions] == ["2", "3"]
    assert after.state != before.state
    mine.rollback("m", "2")
    assert history.look().models["m"].current == "2"
    assert history.look().state != after.state


def test_an_export_opens_offline(store, page, tmp_path):
    first = export(store, tmp_path / "copy")
    names = {path.name for path in first.parent.iterdir()}
    assert {"index.html", "model-m.html", "model-means.html", "compare-m@1-m@2.html", "bokeh.min.js"} <= names
    for path in first.parent.glob("*.html"):
        targets = re.findall(r'(?:href|src)="([^"#][^"]*)"', path.read_text())
        assert {target for target in targets if target != "data:,"} <= names
    page.get_log("browser")
    for name, plots in {"index.html": 2, "model-nightly.html": 5, "compare-m@2-m@3.html": 1}.items():
        page.get((first.parent / name).as_uri())
        plots_shown(page, plots)
        assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert "it does not change" in page.find_element("id", "status").text
    assert "data-state" not in first.read_text()


def test_the_command_exports_and_refuses(store, tmp_path, capsys):
    assert main(["dashboard", "--store", str(store.path), "--export", str(tmp_path / "copy")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "copy" / "index.html")
    blocked = write(tmp_path / "file", "")
    assert main(["dashboard", "--store", str(store.path), "--export", blocked]) == 5
    for address in ("0.0.0.0:0", ":0", "127.0.0.1", "192.168.0.1:1"):
        assert main(["dashboard", "--dashboard-address", address]) == 2
        assert f"--dashboard-address {address!r}" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert main(["dashboard", "--dashboard-address", address]) == 2
    assert (
        f"--dashboard-address {address!r}: cannot listen there (Address already in use"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_command_serves_on_loopback_until_it_is_told_to_stop(store, number, code):
    command = [sys.executable, "-m", "mfpipe", "dashboard", "--store", str(store.path)]
    with subprocess.Popen(
        [*command, "--dashboard-address", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            url = server.stdout.readline().split()[-1]
            with urlopen(f"{url}/model?name=m", timeout=30) as answer:
                assert "m" in answer.read().decode()
                policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'; script-src 'self'" in policy
            listening = [
                c.laddr.ip for c in psutil.Process(server.pid).net_connections() if c.status == "LISTEN"
            ]
            assert listening == ["127.0.0.1"]
            with pytest.raises(HTTPError) as refused:
                urlopen(Ask(url, headers={"Host": "evil.example"}), timeout=30)
            assert refused.value.code == 404
            with pytest.raises(HTTPError) as missing:
                urlopen(f"{url}/no/such/page", timeout=30)
            assert missing.value.code == 404
        finally:
            server.send_signal(number)
            _, err = server.communicate(timeout=30)
    assert server.returncode == code
    assert err.count("\n") == 1
    assert "nothing was published" in err
