"""The blind page in a browser: keys, undo, resuming, saving, loading. Needs Chromium and playwright."""

import json
import shutil

import pytest

from whet.evaluate.blind import render
from whet.evaluate.votes import Pair, draw_pairs

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the path"),
]
PAIRS = [Pair("p", f"q{at}", f"Question {at} <b>", f"one {at}", f"two {at}") for at in range(8)]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def save(page, path):
    with page.expect_download() as download:
        page.click("#save")
    download.value.save_as(path)
    return json.loads(path.read_text())


def test_votes_are_given_taken_back_kept_saved_and_loaded(browser, tmp_path):
    (tmp_path / "b.html").write_text(render(PAIRS, 5, 2))
    faults = []
    context = browser.new_context(accept_downloads=True)
    page = context.new_page()
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text))
    page.on("request", lambda request: faults.append(request.url) if not request.url.startswith(("file:", "blob:")) else None)
    page.goto((tmp_path / "b.html").as_uri())
    keys = [pair.key for pair in draw_pairs(PAIRS, 5, 2)]
    assert page.inner_text("#text") == draw_pairs(PAIRS, 5, 2)[0].text
    for key in "12u0":
        page.keyboard.press(key)
    page.reload()
    assert page.inner_text("#done") == "2 of 5 read"
    assert save(page, tmp_path / "half.json")["votes"] == {keys[0]: "left", keys[1]: "tie"}
    page.keyboard.press("2")
    page.click("#right")
    page.click("#left")
    assert page.is_visible("#end")
    page.keyboard.press("1")
    votes = {keys[0]: "left", keys[1]: "tie", keys[2]: "right", keys[3]: "right", keys[4]: "left"}
    assert save(page, tmp_path / "whole.json")["votes"] == votes

    other = browser.new_context().new_page()
    other.goto((tmp_path / "b.html").as_uri())
    other.set_input_files("#load", tmp_path / "half.json")
    other.wait_for_function("document.getElementById('done').textContent === '2 of 5 read'")
    (tmp_path / "wrong.json").write_text("{}")
    other.set_input_files("#load", tmp_path / "wrong.json")
    other.wait_for_selector("#trouble:not([hidden])")
    assert other.inner_text("#done") == "2 of 5 read"
    assert faults == []
