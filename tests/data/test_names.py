"""Names of classes and pictures: where they are from, and that they never cost a second decoding."""

import json

import numpy as np
import photographs
import pytest

from symm_jax import files
from symm_jax.data import arrays, datasets, glyphs, manifest, names

HOSTILE = "<b>x&"


@pytest.fixture
def fruit(tmp_path, data_source):
    """A folder of classes, one of them with subfolders."""
    for grey, path in enumerate(
        ("Granny-Smith/1.jpg", "Granny-Smith/2.jpg", f"{HOSTILE}/top/3.jpg", f"{HOSTILE}/4.jpg")
    ):
        photographs.photograph(tmp_path / "fruit/test" / path, grey)
    for name in "abcd":
        photographs.photograph(tmp_path / f"fruit/train/{name[0]}/{name}.jpg", ord(name))
    return data_source("folder", tmp_path / "fruit")


def test_a_folder_names_its_classes_and_pictures(fruit):
    test = datasets.load(fruit, "test", 8)
    named = {test.names.of_picture(row): test.names.of_class(label) for row, label in enumerate(test.labels)}
    assert named == {
        "test/Granny-Smith/1.jpg": "Granny-Smith",
        "test/Granny-Smith/2.jpg": "Granny-Smith",
        f"test/{HOSTILE}/top/3.jpg": HOSTILE,
        f"test/{HOSTILE}/4.jpg": HOSTILE,
    }
    assert datasets.load(fruit, "test", 8).names == test.names
    assert (
        names.NUMBERS.of_class(test.labels[0]) == f"class {test.labels[0]}" and names.NUMBERS.of_picture(3) == "image 3"
    )


@pytest.mark.parametrize("change", ["of before", "cut", "swapped", "listed wrongly"])
def test_names_that_are_missing_or_damaged_are_made_again_without_decoding(fruit, change, monkeypatch):
    first = datasets.load(fruit, "test", 8)
    folder = first.images.filename.parent
    listed = json.loads((folder / manifest.NAME).read_text())
    if change == "of before":
        (folder / "names.json").unlink()
        (folder / manifest.NAME).write_text(json.dumps({"arrays": listed["arrays"]}))
    if change == "cut":
        (folder / "names.json").write_bytes((folder / "names.json").read_bytes()[:20])
    if change == "swapped":
        (folder / "names.json").write_text('{"classes": {}, "pictures": []}')
    if change == "listed wrongly":
        (folder / manifest.NAME).write_text(json.dumps(listed | {"texts": [1]}))
    monkeypatch.setattr(arrays, "_decode_all", None)
    assert datasets.load(fruit, "test", 8).names == first.names
    assert json.loads((folder / manifest.NAME).read_text()) == listed


def test_where_names_cannot_be_stored_numbers_or_names_are_given(fruit, monkeypatch):
    first = datasets.load(fruit, "test", 8)
    (first.images.filename.parent / "names.json").unlink()

    def refuse(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(files, "write_text", refuse)
    assert datasets.load(fruit, "test", 8).names == first.names
    monkeypatch.setattr(names.os, "access", lambda *_: False)
    assert datasets.load(fruit, "test", 8).names == names.NUMBERS


def test_names_of_cars_are_those_of_the_annotations(cars, data_source):
    test = datasets.load(data_source("cars196", cars), "test", 8)
    assert test.names.classes == {label: f"Make Model {label + 1} 2012" for label in (98, 99, 195)}
    assert set(test.names.pictures) == {f"car_ims/{number:06d}.jpg" for number in range(16, 25)}


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["images/001.Albatross/a_1.jpg", "images/002.Gull/b_1.jpg"], ["001.Albatross", "002.Gull"]),
        (["bicycle_final/111_0.JPG", "bicycle_final/111_1.JPG", "bicycle_final/222_0.JPG"], ["111", "111", "222"]),
        (["img/MEN/Denim/id_1/01_1.jpg", "img/MEN/Denim/id_2/01_1.jpg"], ["id_1", "id_2"]),
        (["car_ims/1.jpg", "car_ims/2.jpg"], ["class 0", "class 1"]),
    ],
    ids=["CUB", "SOP", "In-Shop", "no names"],
)
def test_classes_are_named_by_what_their_paths_share(paths, expected):
    labels = [sorted(set(expected)).index(name) for name in expected]
    found = names.of_photographs([{"label": k, "filename": path} for k, path in zip(labels, paths, strict=True)], {})
    assert [found.of_class(label) for label in labels] == expected


def test_glyphs_are_named_by_character_and_font(monkeypatch):
    drawn = []
    monkeypatch.setattr(glyphs, "render_in_face", lambda character, face, *_: drawn.append(face))
    glyphs.render("R", 24, np.random.default_rng([5, 7, 3]))
    found = names.of_glyphs([{"label": 7, "filename": b"U+0052/0003.png"}], seed=5)
    assert found == names.Names({7: "R (U+0052)"}, (f"U+0052/0003.png, {drawn[0]}",))
