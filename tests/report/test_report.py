"""The report of a run: its files, what it says when files are missing, and the page in a browser."""

import errno
import html
import json
import os
import shlex
import shutil

import numpy as np
import PIL.Image
import pytest
from clusters import clusters
from playwright import sync_api

from configs import glyphs_symm_npair
from symm_jax import errors, report
from symm_jax.data import datasets
from symm_jax.data.arrays import Arrays
from symm_jax.data.names import Names
from symm_jax.report import figures, page, planes
from symm_jax.run import paths


def test_text_cannot_leave_its_place():
    text = page.to_json({"a": ["</script><!--", np.float32("nan"), np.arange(2)]})
    assert "<" not in text and json.loads(text) == {"a": ["</script><!--", None, [0, 1]]}
    head = {"name": '<b>&"$name', "facts": ["<i>"], "chosen": "<u>", "figures": [("<s>", 0.5)], "commands": ["<p>"]}
    document = page.render(head, {"chosen": 1000})
    assert "&lt;b&gt;&amp;&quot;$name" in document and "50.00 %" in document and "Step 1,000" in document
    assert not any(tag in document for tag in ("<b>&", "<i>", "<u>", "<s>", "<p></pre>"))


# A workdir as evaluation leaves it, of made-up images.


def make_names():
    classes = {label: f"<b>{label}</b>" for label in range(9)}
    classes |= {9: "$\\frac$", 10: "葉\n", 11: "</script><b>" + 200 * "x"}
    return Names(classes, tuple(f"<i>/{row}.jpg" for row in range(120)))


def make_run(folder):
    """(config, workdir, test images): 120 images of 12 classes with hostile names, without any training."""
    embeddings, labels = clusters(12, 10, noise=0.9)
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 24, 24, 3), dtype=np.uint8)
    workdir = folder / "<b>run & co"
    (workdir / "best").mkdir(parents=True)
    np.save(workdir / "best/embeddings.npy", embeddings)
    choice = {"step": 600, "chosen_by": "test", "metric": "recall@1", "value": 0.9123}
    (workdir / "best/choice.json").write_text(json.dumps(choice))
    write_lines(workdir, "train", [{"step": s, "loss": 5.0 / s, "learning_rate": 1e-3} for s in range(20, 801, 20)])
    recalls = {"recall@1": 0.9123, "recall@2": 0.95, "map@r": 0.6, "nmi": 0.8}
    write_lines(workdir, "eval", [{"step": s, **recalls} for s in (200, 400, 600, 800)])
    test = Arrays(images, labels, np.ones((len(labels), 2)), names=make_names())
    return glyphs_symm_npair.get_config(), workdir, test


@pytest.fixture
def run(tmp_path, monkeypatch):
    config, workdir, test = make_run(tmp_path)
    monkeypatch.setattr(datasets, "load", lambda *_: test)
    return config, workdir


def write_lines(workdir, kind, lines):
    path = paths.metrics(workdir, kind)
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_report_is_one_file_and_its_figures(written):
    workdir = written.parent
    assert written.name == "report.html"
    names = ("curves", "map", "neighbours", "points")
    assert sorted(path.stem for path in (workdir / "figures").iterdir()) == sorted(names)
    for name in names:
        with PIL.Image.open(workdir / "figures" / f"{name}.png") as picture:
            assert min(picture.size) > 300 and len(picture.convert("RGB").getcolors(2**24)) > 50
    text = (workdir / "report.html").read_text()
    assert (
        "Selected on the test classes" in text
        and "optimistic. The values of the last checkpoint" in text
        and "npair loss with symmetric" in text
    )
    quoted = html.escape(shlex.quote(str(workdir)))
    assert f"--mode=embed --workdir={quoted} --images=FOLDER --out=INDEX\npython launch.py --mode=serve" in text
    assert f"<h1>config.json in {html.escape(str(workdir))}</h1>" in text
    assert "<b>" not in text and "<i>" not in text and text.count("</script>") == 2


def test_report_of_little(run, capsys):
    """No synthesis, nothing logged in training, and a checkpoint chosen on held-out classes."""
    config, workdir = run
    config.losses, config.data.validation_classes = ({"name": "npair"},), 7
    paths.metrics(workdir, "train").write_text("")
    choice = {"step": 200, "chosen_by": "validation", "metric": "validation/recall@1", "value": 0.5}
    (workdir / "best/choice.json").write_text(json.dumps(choice))
    text = report.write(config, workdir, "configs/glyphs_npair.py").read_text()
    assert "<h1>glyphs_npair.py in " in text
    printed = capsys.readouterr()
    assert f"report    {workdir / 'report.html'}" in printed.out
    assert "to 800: unless log_every was changed, it is lost" in printed.err  # not only up to the selected step
    assert "without the test classes" in text and "7 held-out training classes" in text
    assert '"points":null' in text and not (workdir / "figures/points.png").exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("best/choice.json", None, "choice.json is missing.*--mode=eval"),
        ("best/choice.json", b'{"step": 600}', "choice.json is damaged.*--mode=eval"),
        ("best/embeddings.npy", None, "embeddings.npy is missing.*--mode=eval"),
        ("best/embeddings.npy", b"", "embeddings.npy is damaged.*--mode=eval"),
        ("best/embeddings.npy", b"\x93NUMPY\x01\x00", "embeddings.npy is damaged.*Move .*best away.*--mode=eval"),
        ("best/embeddings.npy", b"PK\x03\x04 an archive", "embeddings.npy is damaged.*--mode=eval"),
        ("best/embeddings.npy", np.zeros((3, 8)), r"each of the 120 .* float64 of shape \(3, 8\).*--mode=eval"),
        ("best/embeddings.npy", np.zeros((120, 8), int), r"floating embedding .* got int64 of shape .*--mode=eval"),
        ("best/embeddings.npy", np.full((120, 8), "?"), r"floating embedding .* got <U1 of shape .*--mode=eval"),
        ("best/embeddings.npy", np.full((120, 8), np.nan), "NaN"),
        ("eval/metrics.jsonl", None, "metrics.jsonl has no line of step 600.*--mode=eval"),
    ],
)
def test_what_is_missing_is_named(run, file, content, message):
    config, workdir = run
    path = workdir / file
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(errors.InputError, match=message):
        report.write(config, workdir)


def test_a_report_that_fails_leaves_the_earlier_one(run, monkeypatch):
    """The disk is full while the map is written: every file is the earlier one or the new one, complete."""
    config, workdir = run
    paths.figures(workdir).mkdir()
    before = {path: f"earlier {path.name}".encode() for path in (paths.report(workdir), workdir / "figures/map.png")}
    for path, content in before.items():
        path.write_bytes(content)
    save = figures.matplotlib.figure.Figure.savefig

    def fill_disk(figure, path, **options):
        path.write_bytes(b"half")
        if "map.png" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(figure, path, **options)

    monkeypatch.setattr(figures.matplotlib.figure.Figure, "savefig", fill_disk)
    monkeypatch.setattr(planes, "lay_out", lambda x: planes.Map(x[:, :2], "two numbers"))
    with pytest.raises(OSError, match="No space left on device.*figures/map.png"):
        report.write(config, workdir)
    assert {path: path.read_bytes() for path in before} == before
    assert [path.name for path in workdir.rglob("*.partial")] == []


# The page in Chromium.


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    config, workdir, test = make_run(tmp_path_factory.mktemp("report"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load", lambda *_: test)
        return report.write(config, workdir)


@pytest.fixture
def browse(written):
    """browse(**options of the browser's context) -> the report's page, which must neither complain nor fetch."""
    chromium = shutil.which("chromium")
    if not chromium:
        reason = "chromium is not installed; the report's page is tested in it"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    complaints, fetched = [], []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])

        def open_page(**options):
            tab = browser.new_page(**options)
            tab.set_default_timeout(10_000)
            tab.on("console", lambda message: complaints.append(message.text))
            tab.on("pageerror", lambda error: complaints.append(str(error)))
            tab.on("request", lambda request: fetched.append(request.url))
            tab.goto(written.as_uri())
            return tab

        yield open_page
        browser.close()
    assert not complaints
    assert [url for url in fetched if not url.startswith(("file:", "data:"))] == []


def test_neighbours_become_queries(browse):
    tab = browse()

    def row(selector):
        return tab.locator(selector).first.get_attribute("data-row")

    def query():
        return row("#query")

    first = query()
    assert first == row("#starts button") and tab.url.endswith(f"#query={first}")
    assert tab.locator("#neighbours .neighbour").count() == 8
    assert tab.locator("#back").is_disabled()

    label = f"<i>/{first}.jpg, {tab.locator('#query h3').text_content()}"
    assert label in tab.locator("#starts button").first.get_attribute("aria-label")
    assert tab.locator("#query canvas").get_attribute("aria-label") == f"Query, {label}"
    assert tab.locator("#query h3").text_content() == make_names().of_class(int(first) // 10)
    assert tab.locator("section b:not(.legend b), section i").count() == 0

    clicked = row("#neighbours button:nth-child(3)")
    tab.locator("#neighbours button").nth(2).click()
    assert query() == clicked != first and tab.url.endswith(f"#query={clicked}")
    assert {tab.locator(".neighbour.right .badge").first.inner_text(), "✗"} == {"✓", "✗"}

    second = row("#neighbours button:nth-child(2)")
    tab.locator("#neighbours button").first.focus()
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("Enter")
    assert query() == second
    tab.keyboard.press("ArrowDown")  # the keyboard stays among the neighbours: from the first to the one below it
    assert tab.evaluate("[...document.activeElement.parentElement.children].indexOf(document.activeElement)") == 4

    tab.locator("#back").click()
    tab.wait_for_function(f"document.getElementById('query').dataset.row === '{clicked}'")
    tab.go_back()
    assert query() == first and tab.locator("#back").is_disabled()

    tab.goto(tab.url.split("#")[0] + f"#query={second}")
    tab.reload()
    assert query() == second


def test_map_by_keyboard_and_by_mouse(browse):
    tab = browse()
    tab.locator("#plot").focus()
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowUp")
    name = tab.locator("#map-readout span").inner_text()
    assert name.startswith("<i>/") and tab.locator("#tip canvas").is_visible()
    tab.keyboard.press("Enter")
    assert name.split(",")[0] == f"<i>/{tab.locator('#query').get_attribute('data-row')}.jpg"

    tab.locator("#plot").scroll_into_view_if_needed()
    box = tab.locator("#plot").bounding_box()
    for x in np.linspace(0.2, 0.8, 40):
        tab.mouse.move(box["x"] + x * box["width"], box["y"] + 0.5 * box["height"])
        if tab.locator("#tip").is_visible():
            break
    pointed = tab.locator("#map-readout span").inner_text()
    tab.mouse.down()
    tab.mouse.up()
    assert pointed.split(",")[0] == f"<i>/{tab.locator('#query').get_attribute('data-row')}.jpg"


def test_curves_are_read_by_keyboard(browse):
    tab = browse()
    chart = tab.locator(".chart").first
    assert chart.locator(".at").inner_text() == "step 600"
    chart.locator("svg[tabindex]").focus()
    tab.keyboard.press("ArrowLeft")
    assert chart.locator(".at").inner_text() == "step 580"
    circles = tab.locator("#points-plot circle")
    assert circles.count() == 2 + 6 + 6 * 4  # the key's, and two real and two synthetic ones of a class


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone(browse, scheme):
    tab = browse(viewport={"width": 360, "height": 740}, color_scheme=scheme, reduced_motion="reduce")
    assert tab.evaluate("document.documentElement.scrollWidth") == 360
    red = tab.evaluate("Number(/\\d+/.exec(getComputedStyle(document.body).backgroundColor)[0])")
    assert red > 200 if scheme == "light" else red < 60


def test_rare_characters_of_a_querys_name_are_drawn(tmp_path):
    """matplotlib warns of a character that a font lacks, and warnings are errors here."""
    rare = Names({0: "\N{ARROW POINTING RIGHTWARDS THEN CURVING UPWARDS}"}, ())
    images = np.zeros((1, 2, 4, 4, 3), np.uint8)
    labels, similarity = np.zeros((1, 2), int), np.ones((1, 1))
    figures.draw_neighbours(tmp_path / "x.png", images, labels, np.zeros(1, int), similarity, rare)
    assert (tmp_path / "x.png").is_file()
