"""The HTML report, as text and in a real browser."""

import re

import numpy as np
import pytest

from mfpipe.evaluate import Holdout
from mfpipe.executors import executor
from mfpipe.models import MODELS
from mfpipe.pipeline import Place, Prepared, fit_and_evaluate, publish
from mfpipe.report import PANELS, render, write_report
from mfpipe.store import Store
from tests.browser import browser, plots_shown
from tests.make import ratings_of

SYSTEMS = [
    {"model": "<b>als</b>", "test_rmse": 0.9, "test_rmse_warm": 0.8, "test_rmse_cold": None, "objective": 1.5,
     "n_iter": 3, "seconds": {"serial": 0.1}, "identical": True},
]  # fmt: skip


def published(store, model, systems=None, name="m"):
    rng = np.random.default_rng(0)
    pairs = rng.choice(900, 400, replace=False)
    ids = [f"<script>alert({k})</script>" for k in range(30)]
    ratings = ratings_of([ids[k] for k in pairs // 30], [ids[k] for k in pairs % 30], rng.integers(1, 6, 400))
    train, test = Holdout.parse("random:0.2").split(ratings)
    about = {"inputs": ["<script>alert('file')</script>.csv"], "holdout": "random:0.2"}
    prepared = Prepared(train, test, about, train.fingerprint(), 0.1)
    with executor(train, model.storage, "serial", partitions=3) as where:
        trained = fit_and_evaluate(model, prepared, where)
    return publish(trained, prepared, name, store, Place("serial"), systems=systems)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_a_report_that_needs_no_network(store, name):
    html = render(published(store, MODELS[name](), name=name))
    assert f"{name}@1" in html
    assert len(html.encode()) < 3_000_000
    assert "<script src" not in html
    words = re.sub(r"<script.*?</script>", "", html, flags=re.S)
    assert "//" not in words.replace("<!doctype", "")
    assert "None" not in words


def test_hostile_texts_are_shown_as_text(store):
    html = render(published(store, MODELS["als"](), SYSTEMS, "hostile"))
    assert "<script>alert(" not in html
    assert "<b>als</b>" not in html.replace("\\u003cb", "")
    assert "&lt;script&gt;alert(" in html


def test_every_panel_is_drawn_in_a_browser(store, tmp_path):
    version = published(store, MODELS["als"](max_iter=7, tol=0), SYSTEMS, "seen")
    write_report(version, tmp_path / "report.html")
    with browser(tmp_path / "profile") as page:
        page.get((tmp_path / "report.html").as_uri())
        plots = plots_shown(page, len(PANELS))
        assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []
        assert page.execute_script("return performance.getEntriesByType('resource').map(r => r.name)") == []
        titles = [element.text for element in page.find_elements("css selector", "figcaption h2")]
        page.set_window_size(390, 2000)
        wide = page.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    assert titles == [panel.title for panel in PANELS]
    shown = dict(zip(titles, plots, strict=True))
    assert all(plot["size"] > 100 for plot in plots)
    assert set(shown["Objective"]["points"]) == set(shown["RMSE by iteration"]["points"]) == {7}
    assert shown["Seconds by partition"]["points"] == [6]
    assert shown["Residuals of the test records"]["points"] == [40]
    assert shown["Every system on the same test records"]["points"] == [1]
    assert wide <= 0
