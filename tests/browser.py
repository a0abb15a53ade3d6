"""A real browser for the tests that look at pages."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager

import pytest

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1200,2600",
)  # fmt: skip


@contextmanager
def browser(profile):
    """A headless Chromium; skips where there is none, except in CI, where that is a failure."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        if os.environ.get("CI") == "true":
            pytest.fail("no Chromium with its driver, and .ci/run should have installed them")
        pytest.skip("no Chromium with its driver (Debian: chromium, chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield made
    finally:
        made.quit()


def plots_shown(page, expected: int) -> list[dict]:
    """Wait until that many Bokeh plots are drawn; for each, the number of points of each renderer."""
    from selenium.webdriver.support.ui import WebDriverWait

    drawn = """
        if (!window.Bokeh) return [];
        const roots = Bokeh.documents.flatMap(d => d.roots());
        if (!Bokeh.documents.every(d => d.is_idle)) return [];
        return roots.map(r => ({
            points: r.renderers.map(g => g.data_source.get_length()),
            size: Bokeh.index.get_by_id(r.id)?.el.getBoundingClientRect().height ?? 0,
        }));
    """
    WebDriverWait(page, 30).until(lambda p: len(p.execute_script(drawn)) == expected)
    return page.execute_script(drawn)
