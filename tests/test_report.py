"""The HTML report, as text and in a real browser."""

import dataclasses
import json
import re

import numpy as np
import pytest

from mfpipe import diagnosis, plots
from mfpipe.errors import RatingsError, StoreError
from mfpipe.evaluate import Holdout
from mfpipe.executors import executor
from mfpipe.job import Data, Place, Prepared
from mfpipe.models import MODELS
from mfpipe.page import MOST_ROWS, Panel, page, table_of
from mfpipe.pipeline import fit_and_evaluate, publish
from mfpipe.report import PANELS, render, write_report
from mfpipe.report_data import Stored
from mfpipe.report_findings import findings
from mfpipe.report_words import summary
from mfpipe.store import Store
from mfpipe.titles import read_titles
from tests.browser import browser, plots_shown
from tests.make import ratings_of, write

SCRIPT = "<script>alert({})</script>"
SYSTEMS = [
    {"model": "als", "label": "<b>als</b> $$\\frac{1}{2}$$", "test_rmse": 0.9, "test_rmse_warm": 0.8,
     "test_rmse_cold": None, "objective": 1.5, "n_iter": 3, "seconds": {"serial": 0.1}, "identical": True},
]  # fmt: skip
PARTITIONS = 3


def prepared_of(hostile=True, seed=0, **about):
    rng = np.random.default_rng(seed)
    pairs = rng.choice(900, 400, replace=False)
    ids = [SCRIPT.format(k) if hostile else str(k) for k in range(30)]
    ratings = ratings_of([ids[k] for k in pairs // 30], [ids[k] for k in pairs % 30], rng.integers(1, 6, 400))
    days = 86_400_000_000 * np.arange(len(ratings)) if hostile else None
    train, test = Holdout.parse("random:0.2").split(dataclasses.replace(ratings, time=days))
    data = Data([SCRIPT.format("'file'") + "\x1b[31m`=1+1`.csv"], holdout="random:0.2")
    about = data.about() | {"holdout": "random:0.2"} | about
    return Prepared(train, test, about, train.fingerprint(), 0.1)


def published(store, model, systems=None, name="m", prepared=None, about=None):
    prepared = prepared or prepared_of()
    with executor(prepared.ratings, model.storage, "serial", partitions=PARTITIONS) as where:
        trained = fit_and_evaluate(model, prepared, where)
    return publish(trained, prepared, name, store, Place("serial"), systems=systems, about=about)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_a_report_that_needs_no_network(store, name):
    html = render(Stored(published(store, MODELS[name](), name=name)))
    assert f"{name}@1" in html
    assert len(html.encode()) < 3_000_000
    assert "<script src" not in html
    words = re.sub(r"<script.*?</script>", "", html, flags=re.S)
    assert "//" not in words.replace("<!doctype", "")
    assert not re.search("None|nan|inf", words.replace("information", ""))


def test_hostile_texts_are_shown_as_text(store):
    version = published(store, MODELS["als"](), SYSTEMS, "hostile")
    title = "<img src=x onerror=alert(1)> *Markdown* =1+1 \x1b[31m"
    titles = dict.fromkeys((SCRIPT.format(k) for k in range(0, 30, 2)), title)
    html = render(Stored(version, titles))
    assert "<script>alert(" not in html
    assert "<img" not in html
    assert "<b>als</b>" not in html
    assert "\x1b" not in html
    assert "&lt;script&gt;alert(" in html
    assert "&lt;img src=x onerror=alert(1)&gt; *Markdown* =1+1 \\x1b[31m (" in html
    assert "item &lt;script&gt;" in html  # one without a title


def test_every_panel_is_drawn_in_a_browser(store, tmp_path, chromium):
    version = published(store, MODELS["als"](max_iter=7, tol=0), SYSTEMS, "seen")
    write_report(version, tmp_path / "report.html")
    chromium.get((tmp_path / "report.html").as_uri())
    drawn = plots_shown(chromium, len(PANELS))
    assert [entry for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert chromium.execute_script("return performance.getEntriesByType('resource').map(r => r.name)") == []
    titles = [element.text for element in chromium.find_elements("css selector", "figcaption h3")]
    tables = chromium.execute_script(
        "return [...document.querySelectorAll('figure')].map(f => f.querySelectorAll('tbody tr').length)"
    )
    unnamed = chromium.execute_script(
        "return document.querySelectorAll('[role=img]:not([aria-label])').length"
    )
    size = chromium.get_window_size()
    chromium.set_window_size(390, 2000)
    wide = chromium.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    chromium.set_window_size(size["width"], size["height"])
    assert titles == [panel.title for panel in PANELS]
    assert unnamed == 0
    shown = dict(zip(titles, drawn, strict=True))
    assert all(plot["size"] > 100 for plot in drawn)
    expected = points_of(Stored(version))
    for title, plot in shown.items():
        assert set(plot["points"]) - ({2} if title == "Calibration" else set()) == {expected[title]}, title
    assert dict(zip(titles, tables, strict=True)) == expected
    assert wide <= 0


def points_of(stored):
    """How many points each panel of the report above must have."""
    found, iterations = stored.diagnosis, 7
    return {
        "Every system on the same test records": 1,
        "Objective": iterations,
        "Decrease of the objective": iterations - 1,
        "RMSE by iteration": iterations,
        "RMSE by number of ratings of the user": len(found["by_user_count"]),
        "RMSE by number of ratings of the item": len(found["by_item_count"]),
        "RMSE by time": diagnosis.PERIODS,
        "RMSE by true rating": 5,
        "Calibration": diagnosis.CALIBRATED,
        "Residuals of the test records": 40,
        "Ranking quality": 3,
        "Norms of user factors": 40,
        "Norms of item factors": 40,
        "Strength and balance of factors": 10,
        "Seconds by stage": len(stored.timings["stages"]),
        "Seconds by half-step": iterations,
        "Seconds by partition": 2 * PARTITIONS,
        "Parallel efficiency": iterations,
    }


def painted(page):
    return page.execute_script(
        "return Bokeh.documents[0].roots().map(r => r.below[0].major_label_text_color).concat("
        "Bokeh.documents[0].roots()[1].renderers.at(-1).glyph.line_color.value)"
    )


def test_plots_follow_the_colour_scheme_and_are_light_on_paper(store, tmp_path, chromium):
    from selenium.webdriver.support.ui import WebDriverWait

    write_report(published(store, MODELS["als"](max_iter=2), SYSTEMS, "dark"), tmp_path / "report.html")
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    chromium.get((tmp_path / "report.html").as_uri())
    plots_shown(chromium, len(PANELS))
    WebDriverWait(chromium, 10).until(lambda page: {*painted(page)} == {"#e6e6e6", "#56B4E9"})
    background = chromium.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(22, 24, 28)"
    chromium.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert {*painted(chromium)} == {"#1c1c1c", "#0072B2"}
    chromium.execute_script("dispatchEvent(new Event('afterprint'))")
    assert {*painted(chromium)} == {"#e6e6e6", "#56B4E9"}
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_keyboard_reaches_the_links_and_the_tables(store, tmp_path, chromium):
    from selenium.webdriver.common.keys import Keys

    write_report(published(store, MODELS["als"](max_iter=2), name="keys"), tmp_path / "report.html")
    chromium.get((tmp_path / "report.html").as_uri())
    reached = []
    for _ in range(40):
        chromium.switch_to.active_element.send_keys(Keys.TAB)
        active = chromium.switch_to.active_element
        reached.append(active.tag_name)
        if active.tag_name == "summary":
            break
    active.send_keys(Keys.ENTER)
    assert chromium.execute_script("return document.activeElement.parentElement.open")
    assert reached[0] == "a"  # "Skip to the content"
    assert "div" in reached  # a table that scrolls


# What is missing is said


def test_a_version_of_an_older_mfpipe_says_what_it_was_stored_without(store):
    version = published(store, MODELS["als"](max_iter=2), name="old")
    for name in (diagnosis.FILE, "systems.json"):
        version.manifest["files"].pop(name, None)
    version.manifest["data"].pop("rules")
    html = render(Stored(version))
    assert "Calibration: this version was stored without diagnosis.json, by an older mfpipe." in html
    assert "mfpipe train" in html
    assert "its RMSE is" in html


def test_a_model_without_factors_says_so(store):
    html = render(Stored(published(store, MODELS["item-mean"](), name="plain")))
    assert "Objective: item-mean is not fitted by iterations." in html
    assert "Norms of user factors: item-mean has no factors." in html


def test_no_iteration_at_all_is_said(store):
    html = render(Stored(published(store, MODELS["als"](max_iter=0), name="none")))
    assert "RMSE by iteration: no iteration was run." in html


def test_a_collapsed_model_says_so(store):
    version = published(store, MODELS["als"](regularization=1e6, max_iter=3), name="flat")
    stored = Stored(version)
    html = render(stored)
    assert "Warning: all factors collapsed to zero" in html
    assert "All are zero." in html or "exactly zero" in html
    assert any("not clearly better than the user-item average" in found.words for found in findings(stored))


@pytest.mark.parametrize("name", ["item_factors.parquet", "history.parquet", diagnosis.FILE])
def test_a_damaged_version_shows_what_is_left_and_says_what_is_not(store, tmp_path, name):
    version = published(store, MODELS["als"](max_iter=2), name="torn")
    path = version.path / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    out = tmp_path / "report.html"
    with pytest.raises(StoreError, match=f"shows what is left of torn@.*{name}.*damaged"):
        write_report(store.version("torn", version.number), out)
    html = out.read_text()
    assert f"{name}: its checksum is not the manifest" in html
    assert f"its file {name} is damaged" in html


def test_nothing_to_draw_is_a_page_too():
    html = page("search.html", [], None, title="t", notes=[], columns=[], rows=[], data={"n_ratings": 1})
    assert "<title>t" in html


# In words


def test_the_summary_names_data_error_certainty_and_what_came_before(store):
    prepared = prepared_of(hostile=False)
    published(store, MODELS["user-item-mean"](), name="twice", prepared=prepared)
    stored = Stored(published(store, MODELS["als"](max_iter=3), name="twice", prepared=prepared))
    words = " ".join(summary(stored))
    n = len(prepared.test)
    low, high = stored.diagnosis["all"]["rmse_interval"]
    assert f"trained on {len(prepared.ratings):,} ratings of 30 users and 30 items" in words
    assert f"On {n} test records, held out (random:0.2), its RMSE is" in words
    assert f"95 % interval {low:.4f} to {high:.4f} over resamples of their" in words
    assert "than the user-item average (" in words
    assert "than twice@1, 95 % interval" in words
    assert low < stored.metrics["rmse"] < high


def test_versions_judged_on_other_records_are_not_compared(store):
    published(store, MODELS["als"](max_iter=2), name="other", prepared=prepared_of(seed=1))
    stored = Stored(published(store, MODELS["als"](max_iter=2), name="other"))
    assert stored.before.difference is None
    assert "other@1 was judged on other test records than this version (" in " ".join(summary(stored))


def test_a_damaged_version_before_is_named(store):
    before = published(store, MODELS["als"](max_iter=2), name="after")
    (before.path / "manifest.json").write_text("{")
    stored = Stored(published(store, MODELS["als"](max_iter=2), name="after"))
    assert "after@1 cannot be read" in " ".join(summary(stored))
    assert render(stored)


def test_the_gates_own_comparison_is_used_for_a_retrained_version(store):
    published(store, MODELS["als"](max_iter=2), name="judged")
    gate = {"difference": {"rmse": -0.01, "interval": [-0.02, -0.005], "margin": 0.1}}
    retrain = {"champion": "1", "judged_by": "judged@1", "gate": gate, "forced": True, "words": "far off",
               "start": {"how": "warm", "from": "judged@1"}}  # fmt: skip
    about = {"retrain": retrain}
    stored = Stored(published(store, MODELS["als"](max_iter=2), name="judged", about=about))
    words = " ".join(summary(stored))
    assert "0.0100 stars better than judged@1, 95 % interval 0.0050 to 0.0200" in words
    assert "It began from the factors of judged@1." in words
    assert "The gate refused it, and it was published all the same: far off." in [
        f.words for f in findings(stored)
    ]
    assert "ends elsewhere, because it began from the factors of judged@1." in render(stored)


def test_findings_name_what_stands_out_and_where(store):
    ingest = {"rejected": 3, "rows": 10, "reasons": {"rating: blank": 3}, "quarantine": "<q>.csv"}
    prepared = prepared_of(ingest=ingest, test_seen_in_training=2)
    stored = Stored(
        published(store, MODELS["als"](rank=20, regularization=1e-6), name="found", prepared=prepared)
    )
    words = [finding.words for finding in findings(stored)]
    assert any(
        "3 of 10 lines of the input were left out (3 rating: blank), listed in <q>.csv" in w for w in words
    )
    assert any("2 test records are also in the training ratings" in w for w in words)
    assert any("more regularization or a lower rank may do better" in w for w in words)
    titles = {panel.title for panel in PANELS}
    assert {finding.panel for finding in findings(stored)} <= titles | {""}


# The command that makes it again


def test_the_command_makes_the_same_version_again(tmp_path, monkeypatch, run_command):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    pairs = rng.choice(900, 300, replace=False)
    lines = [f"{k // 30};{k % 30};{rng.integers(1, 6)}" for k in pairs] + ["1;1;wrong"]
    write(tmp_path / "r i.csv", "who;what;stars\n" + "\n".join(lines))
    options = [
        "--user-column",
        "who",
        "--item-column",
        "what",
        "--rating-column",
        "stars",
        "--delimiter",
        ";",
    ]
    more = ["--max-bad-fraction", "0.5", "--rank", "3", "--cluster", "serial", "--name", "m"]
    run_command("train", "r i.csv", *options, *more)
    html = render(Stored(Store("mfpipe-store").version("m")))
    import html as escaping
    import shlex

    command = escaping.unescape(re.search("<code>(mfpipe train .*?)</code>", html)[1])
    run_command(*shlex.split(command)[1:])
    first, second = (Store("mfpipe-store").version("m", number).manifest for number in "12")
    assert first["checksums"] == second["checksums"]
    assert first["data"]["sha256"] == second["data"]["sha256"]
    write(tmp_path / "titles.tsv", "item\ttitle\n" + "".join(f"{k}\tThe {k}th\n" for k in range(30)))
    run_command("report", "m", "-o", "report.html", "--item-titles", "titles.tsv")
    popular = re.search(
        r'<h2 id="nearest">.*?<th scope="row">The (\d+)th</th><td>(\d+)</td>',
        (tmp_path / "report.html").read_text(),
        re.S,
    )
    counts = dict(
        zip(
            *(
                Store("mfpipe-store").version("m").table("item_factors.parquet")[c].to_pylist()
                for c in ("id", "n_ratings")
            ),
            strict=True,
        )
    )
    assert counts[popular[1]] == int(popular[2]) == max(counts.values())


@pytest.fixture
def run_command():
    from mfpipe.cli import main

    def run(*arguments):
        assert main(list(arguments)) == 0

    return run


# Titles


def test_titles_are_read_with_quotes_marks_and_other_columns(tmp_path):
    text = '\ufeffmovieId,title,genres\n1,"A, ""B""",x\n007,NA,\n\n1,Again,y\n'
    assert read_titles(write(tmp_path / "t.csv", text)) == {"1": "Again", "007": "NA"}
    assert read_titles(write(tmp_path / "t.tsv", "Name\titem\nx\t3\n")) == {"3": "x"}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "line 1: needs a column item_id"),
        (b"item,year\n1,2\n", "and a column title or name"),
        (b"item,title\n1\n", "line 2: has no title"),
        (b"item,title\n1,\xff\n", "cannot be read as UTF-8"),
    ],
)
def test_a_file_without_titles_is_refused(tmp_path, content, named):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(RatingsError, match=named):
        read_titles(path)
    with pytest.raises(RatingsError, match="no such file"):
        read_titles(tmp_path / "missing.csv")


# The page


def test_a_long_table_is_thinned_and_says_so():
    history = {"iteration": list(range(1, 1001)), "train_rmse": [1.0] * 1000, "test_rmse": [None] * 1000}
    table = table_of(plots.rmse(history))
    assert table.points == 1000
    assert len(table.rows) == MOST_ROWS
    assert table.rows[1] == ["6", "1", "–"]
    panel = Panel("Long", lambda _: "", lambda _: plots.rmse(history))
    html = page("search.html", [panel], None, title="t", notes=[], columns=[], rows=[], data={"n_ratings": 1})
    assert re.search(r"Figures as a table, 200 of\s+1,000 points", html)


def test_what_is_stored_for_the_report_is_small_and_plain(store):
    version = published(store, MODELS["als"](max_iter=2), name="small")
    text = (version.path / diagnosis.FILE).read_text()
    assert len(text) < 100_000
    assert json.loads(text)["test"]["sha256"] == prepared_of().sums()["test"]
