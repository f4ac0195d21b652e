"""Planted duplicates and label errors are found, and nothing else; the page and the lines of JSON show them."""

import hashlib
import json
import re

import cv2
import numpy as np
import PIL.Image
import pytest

from symm_jax.app.duplicates import duplicates
from symm_jax.app.use_flags import Use
from symm_jax.search import Index, index, thumbnails
from symm_jax.search import duplicates as search

DIM = 16


def scene(path, seed, side=120, quality=90):
    """Smooth random shapes, as photographs have them."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)).save(
        path, "JPEG", quality=quality
    )


@pytest.fixture
def made(tmp_path):
    """An index of two classes of eight pictures, with duplicates, a label error, and odd names."""
    photos, rng = tmp_path / "photos", np.random.default_rng(0)
    vectors = {}

    def add(name, vector, seed, **options):
        scene(photos / name, seed, **options)
        vectors[name] = vector + 0.3 * rng.normal(size=DIM) / DIM**0.5

    a, b = 3 * np.eye(DIM)[:2] / 2
    for i in range(8):
        add(f"a/{i}.jpg", a + np.eye(DIM)[3 + i], i)
        add(f"b/{i}.jpg", b + np.eye(DIM)[3 + i], 20 + i)
    add("a/<b>&.jpg", b, 40)  # looks like class b
    add("b/0 smaller.jpg", 0, 20, side=90, quality=60)
    vectors["b/0 smaller.jpg"] = vectors["b/0.jpg"] + 0.01
    add("b/close.jpg", 0, 60)  # the network cannot tell it from b/1.jpg, and the eye can
    vectors["b/close.jpg"] = vectors["b/1.jpg"] + 0.01
    for copy in ("a/7 copy.jpg", "b/7 copy.jpg"):
        add(copy, 0, 7)
        vectors[copy] = vectors["a/7.jpg"]
    names = sorted(vectors)
    x = np.stack([vectors[name] for name in names])
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    rows = []
    for name in names:
        file = photos / name
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        rows.append(index.Row(name, file.stat().st_size, 1, digest, name.split("/")[0]))
    (tmp_path / "index").mkdir()
    about = {"images": str(photos), "dim": DIM, "dtype": "float32", "weights": {"sha256": "w"}}
    index.write(tmp_path / "index", about, rows, [x])
    return Index(tmp_path / "index")


def named(opened, rows):
    return [opened.rows[row].path for row in rows]


def test_planted_duplicates_and_label_errors_are_found(made):
    found = search.find(made)
    assert [(named(made, s.rows), s.identical, s.conflict) for s in found.sets] == [
        (["a/7 copy.jpg", "a/7.jpg", "b/7 copy.jpg"], 3, True),
        (["b/0 smaller.jpg", "b/0.jpg"], 0, False),
    ]
    assert found.sets[0].similarity == pytest.approx([1, 1, 1]) and found.unread == 0
    assert named(made, [each.row for each in found.suspects]) == ["a/<b>&.jpg", "b/7 copy.jpg"]
    suspect = found.suspects[0]
    x = np.asarray(made.embeddings, float)
    cosines = x @ x[suspect.row]
    order = [row for row in np.argsort(-cosines) if row != suspect.row]
    assert suspect.neighbours == order[:5] and suspect.label == "b"
    own = max(cosines[row] for row in order if made.rows[row].label == "a")
    assert suspect.margin == pytest.approx(cosines[order[4]] - own, abs=1e-6) and suspect.margin > 0
    assert search.find(made, k=len(made)).suspects == []  # there are not so many neighbours


def test_identical_files_are_counted_beside_similar_ones(made, tmp_path, capsys):
    copied = next(row for row, found in enumerate(made.rows) if found.path == "b/0.jpg")
    (made.images / "b/0 copy.jpg").write_bytes((made.images / "b/0.jpg").read_bytes())
    rows = [*made.rows, made.rows[copied]._replace(path="b/0 copy.jpg")]
    x = np.asarray(made.embeddings)
    index.write(tmp_path / "index", made.about, rows, [x, x[copied : copied + 1]])
    more = Index(tmp_path / "index")
    assert [(s.identical, len(s.rows)) for s in search.find(more).sets] == [(3, 3), (2, 3)]
    duplicates(Use(index=more.folder, json=True))
    assert '{"kind": "mixed", "conflict": false' in capsys.readouterr().out
    assert "3 pictures, the same shot, 2 of them identical files" in (more.folder / "duplicates.html").read_text()


def test_lines_of_json_and_the_table(made, capsys):
    assert duplicates(Use(index=made.folder, json=True)) == []
    printed = capsys.readouterr()
    lines = [json.loads(line) for line in printed.out.splitlines()]
    assert [line["kind"] for line in lines] == ["identical", "near", "label", "label"]
    assert {p["class"] for p in lines[0]["pictures"]} == {"a", "b"} and lines[0]["conflict"]
    assert lines[1]["pictures"][0]["path"] == str(made.images / "b/0 smaller.jpg")
    assert lines[2]["path"].endswith("a/<b>&.jpg") and lines[2]["neighbours_class"] == "b"
    assert len(lines[2]["neighbours"]) == 5 and "page" in printed.err
    assert duplicates(Use(index=made.folder)) == []
    out = capsys.readouterr().out
    assert (
        "sets of pictures of the same shot: 2, with pictures: 5; with identical files: 1, in several classes: 1" in out
    )
    assert "probable label errors: 2," in out and "a/<b>&.jpg" in out and "b/0 smaller.jpg" in out


def test_the_page(made, monkeypatch):
    (made.images / "b/0.jpg").unlink()
    scene(made.images / "a/7.jpg", 99)
    duplicates(Use(index=made.folder))
    page = (made.folder / "duplicates.html").read_text()
    used, defined = ({*re.findall(pattern, page)} for pattern in (r"var\((--[\w-]+)", r"(--[\w-]+):"))
    assert used and used <= defined  # the style is whole
    assert "a/&lt;b&gt;&amp;.jpg" in page and "<b>&.jpg" not in page and "%3Cb%3E%26.jpg" in page
    gone = page.count('path">a/7.jpg<') + page.count('path">b/0.jpg<')  # without a link
    assert page.count("gone or changed</div>") == gone >= 1 and page.count("data:image/webp") == 15 - gone
    assert (
        "gone or changed, and not compared by look: 1." in page and "b/0 smaller.jpg" in page and "<script" not in page
    )
    assert "http://" not in page and "https://" not in page and 'href="file:///' in page
    monkeypatch.setattr("symm_jax.app.duplicates._MAX_GROUPS", 0)
    duplicates(Use(index=made.folder))
    assert (made.folder / "duplicates.html").read_text().count(" more are not shown here.") == 2


def test_pictures_that_are_gone_are_known_by_their_digest(made, tmp_path, capsys):
    made.images.rename(tmp_path / "elsewhere")
    found = search.find(made)
    assert [s.identical for s in found.sets] == [3] and found.unread == 4
    assert "photos does not exist" in capsys.readouterr().err
    assert all(square is None for _, square in thumbnails.read_again(made, [0, 1], 8, "x"))


def test_small_indexes(tmp_path):
    for count in (1, 2):
        folder = tmp_path / str(count)
        folder.mkdir()
        rows = [index.Row(f"{i}.jpg", 1, 1, "same", "") for i in range(count)]
        about = {"images": str(tmp_path), "dim": 2, "dtype": "float16", "weights": {"sha256": "w"}}
        index.write(folder, about, rows, [np.ones((count, 2)) / 2**0.5])
        found = search.find(Index(folder))
        assert len(found.sets) == count - 1 and not found.suspects


def test_more_copies_than_neighbours(made):
    """Itself is not among the nearest of a picture with many copies, and the copies are one set."""
    n = 14
    rows = [index.Row(f"{i:02}.jpg", 1, 1, "same", "c") for i in range(n)]
    index.write(made.folder, dict(made.about) | {"dim": 2}, rows, [np.eye(2)[[0] * n]])
    found = search.find(Index(made.folder))
    assert [s.rows for s in found.sets] == [list(range(n))]
