"""The search page in Chromium, by mouse, by keyboard and on a phone."""

import os
import re
import shutil
from types import SimpleNamespace

import pytest
import serving
from playwright import sync_api
from serving import Colours, draw, encode

from symm_jax.search import Index, index

expect = sync_api.expect
expect.set_options(timeout=30_000)
MARKUP = "<b>bold & red</b>"


@pytest.fixture(scope="module")
def page_server(tmp_path_factory):
    """A server whose classes have names that a page must not take for markup, and whose results have thresholds."""
    opened = serving.make_index(tmp_path_factory.mktemp("page"))
    rows = [row._replace(label=MARKUP if row.label == "red" else row.label) for row in opened.rows]
    index.write(opened.folder, opened.about, rows, [opened.embeddings])
    with serving.running(Index(opened.folder), Colours()) as running:
        # As --mode=calibrate measures them.
        running.service.thresholds = SimpleNamespace(at={"0.01": 0.9}, is_match=lambda similarity: similarity >= 0.9)
        yield running


@pytest.fixture(scope="module")
def chromium():
    path = shutil.which("chromium")
    if not path:
        reason = "chromium is not installed; the search page is tested in it"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def browse(page_server, chromium):
    """browse(address, **options of the browser's context) -> the page, which must neither complain nor fetch."""
    complaints, fetched, tabs = [], [], []

    def open_page(address="/", **options):
        tab = chromium.new_page(**options)
        tab.set_default_timeout(30_000)
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: fetched.append(request.url))
        tab.goto(page_server.url + address)
        tabs.append(tab)
        return tab

    yield open_page
    for tab in tabs:
        tab.close()
    # The browser itself notes an answer of 400, which the page shows to the user.
    assert not [text for text in complaints if "status of 400" not in text]
    assert [url for url in fetched if not url.startswith((page_server.url, "blob:", "data:"))] == []


def results(tab):
    return [int(row) for row in tab.locator("#neighbours button").evaluate_all("x => x.map(e => e.dataset.row)")]


def drop(tab, content):
    tab.evaluate(
        """bytes => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "mine.png", {type: "image/png"}));
            document.dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true}));
        }""",
        list(content),
    )


def test_drop_click_box_filter_and_share(browse, page_server):
    tab = browse()
    expect(tab.locator("#starts button")).to_have_count(8)
    expect(tab.locator("#facts")).to_have_text("12 pictures of 3 classes")

    drop(tab, encode(draw("red", 1)))
    expect(tab.locator("#announcement")).to_have_text("10 results for mine.png")
    assert results(tab)[0] == 9 and "upload=" in tab.url
    first, last = tab.locator("#neighbours button").first, tab.locator("#neighbours button").last
    expect(first).to_have_attribute("aria-label", f"Result 1, {MARKUP}, red/1.png, similarity 1.000, match")
    expect(last).to_have_attribute("aria-label", re.compile("no match"))
    expect(tab.locator("#key-threshold")).to_have_text("similarity of a match: at least 0.900")
    assert tab.locator("#answer b").count() == 0  # names are text
    expect(tab.locator("#picture")).to_have_js_property("naturalWidth", 60)

    # A box is dragged over the white corner: white and grey are near what is bright.
    stage = tab.locator("#stage").bounding_box()
    whole = results(tab)
    tab.mouse.move(stage["x"] + 2, stage["y"] + 2)
    tab.mouse.down()
    tab.mouse.move(stage["x"] + stage["width"] / 2, stage["y"] + stage["height"] / 2, steps=3)
    tab.mouse.up()
    expect(tab.locator("#announcement")).to_have_text(re.compile("a part of it"))
    assert re.search(r"box=\d%2C\d%2C3[01]%2C2[01]", tab.url), tab.url
    expect(tab.locator("#box")).to_be_visible()
    shared = tab.url.removeprefix(page_server.url)
    part = results(tab)

    # The address opens the same search elsewhere, until the server forgets the picture.
    other = browse(shared)
    expect(other.locator("#neighbours button")).to_have_count(10)
    assert results(other) == part
    expect(other.locator("#box")).to_be_visible()
    tab.locator("#whole").click()
    expect(tab.locator("#box")).to_be_hidden()
    assert results(tab) == whole

    tab.locator("#class").select_option("blue")
    expect(tab.locator("#neighbours button")).to_have_count(4)
    assert set(results(tab)) == {0, 1, 2, 3}
    clicked = results(tab)[2]
    tab.locator("#neighbours button").nth(2).click()
    expect(tab.locator("#query-name")).to_have_text(f"blue/{clicked}.png")
    expect(tab.locator("#neighbours button")).to_have_count(3)  # itself is left out
    assert f"path=blue%2F{clicked}.png&class=blue" in tab.url or f"class=blue&path=blue%2F{clicked}.png" in tab.url
    tab.go_back()
    expect(tab.locator("#neighbours button")).to_have_count(4)


def test_an_address_with_an_unknown_class_shows_a_message_and_no_empty_answer(browse):
    tab = browse("/?path=green%2F1.png&class=purple")
    expect(tab.locator("#problem")).to_contain_text("No picture of the index has this class")
    expect(tab.locator("#answer")).to_be_hidden()


def test_by_keyboard(browse):
    tab = browse("/?path=green%2F1.png&k=5")
    expect(tab.locator("#neighbours button")).to_have_count(5)
    expect(tab.locator("#picture")).to_have_js_property("naturalWidth", 60)
    tab.locator("#stage").focus()
    for key in ("Enter", "ArrowLeft", "ArrowUp", "Shift+ArrowRight", "Shift+ArrowDown"):
        tab.keyboard.press(key)
    expect(tab.locator("#box")).to_have_attribute("style", re.compile(r"left: 23%; top: 23%; width: 52%; height: 52%"))
    tab.keyboard.press("Escape")
    expect(tab.locator("#box")).to_be_hidden()
    tab.keyboard.press("Enter")
    tab.keyboard.press("Enter")
    expect(tab.locator("#announcement")).to_have_text("5 results for green/1.png, a part of it")
    assert "box=15%2C10%2C45%2C30" in tab.url
    tab.keyboard.press("Escape")
    expect(tab.locator("#announcement")).to_have_text("5 results for green/1.png")

    tab.locator("#neighbours button").first.focus()
    tab.keyboard.press("ArrowRight")
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert tab.evaluate(outline) == "solid"
    row = tab.evaluate("document.activeElement.dataset.row")
    tab.keyboard.press("Enter")
    expect(tab.locator("#query-name")).to_have_text(re.compile(rf"{int(row) % 4}.png"))
    assert tab.evaluate("document.activeElement.parentElement.id") == "neighbours"
    assert tab.locator("img:not([alt])").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(browse, scheme):
    size = {"width": 360, "height": 740}
    tab = browse("/?path=red%2F1.png", viewport=size, has_touch=True, is_mobile=True, color_scheme=scheme)
    expect(tab.locator("#neighbours button")).to_have_count(10)
    assert tab.evaluate("document.documentElement.scrollWidth") == 360
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(251, 250, 248)", "dark": "rgb(20, 21, 24)"}[scheme]
    expect(tab.locator("#picture")).to_have_js_property("naturalWidth", 60)
    assert tab.locator("#stage").bounding_box() == tab.locator("#picture").bounding_box()  # what a box is a part of
    tab.locator("#part").tap()
    expect(tab.locator("#part")).to_have_text("Search this part")
    tab.locator("#part").tap()
    expect(tab.locator("#announcement")).to_have_text(re.compile("a part of it"))
