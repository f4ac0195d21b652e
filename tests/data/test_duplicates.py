"""One picture in two classes, or in training and in test, stops a run; repeats and near-duplicates are reported."""

import io
import shutil

import cv2
import numpy as np
import photographs
import PIL.Image
import pytest

from symm_jax import errors
from symm_jax.app import fields
from symm_jax.data import datasets, duplicates


def encoded(pixels, **options):
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, **({"format": "jpeg", "quality": 90} | options))
    return file.getvalue()


def scene(seed, side=160):
    """Smooth random shapes, as photographs have them."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)


def examples(*rows):
    return [{"filename": name.encode(), "image": image, "label": label} for name, image, label in rows]


def test_pictures_are_compared_by_digest_and_by_look():
    a, b = encoded(scene(1)), encoded(scene(2))
    smaller = encoded(cv2.resize(scene(2), (90, 120), interpolation=cv2.INTER_AREA), quality=60)
    as_png = encoded(scene(1), format="png")
    flat, other_flat = encoded(np.full((40, 40, 3), 250, np.uint8)), encoded(np.full((60, 40, 3), 250, np.uint8))
    splits = {
        "train": examples(("1", a, 0), ("2", b, 1), ("3", b, 1), ("4", flat, 0), ("5", a, 1)),
        "test": examples(("6", smaller, 2), ("7", other_flat, 2), ("8", b"damaged", 3), ("9", as_png, 3), ("b", b, 2)),
    }
    found = duplicates.find(splits)
    assert found.conflicts == [["1 (train)", "5 (train)"], ["2 (train)", "3 (train)", "b (test)"]]
    assert found.repeats == []
    assert [pair[0] for pair in found.near] == ["6 (test)", "9 (test)"]
    del splits["test"][-1]
    assert duplicates.find(splits).repeats == [["2 (train)", "3 (train)"]]


@pytest.fixture
def pets(tmp_path):
    for i, name in enumerate("abcd"):
        for k in range(2):
            photographs.photograph(tmp_path / "pets" / name / f"{k}.jpg", 10 * i + k)
    return tmp_path / "pets"


def test_a_picture_in_two_classes_stops_until_it_is_accepted(pets, data_source, capsys):
    shutil.copy(pets / "a/0.jpg", pets / "d/copy.jpg")
    shutil.copy(pets / "b/0.jpg", pets / "b/copy.jpg")
    source = data_source("folder", pets)
    for _ in range(2):  # when the records are written, and when they are used again
        with pytest.raises(errors.InputError, match="1 pictures in more than one class") as caught:
            datasets.load(source, "test", 16)
    message = fields.describe(caught.value)
    assert (
        message.startswith("config.data.accept_duplicates: ") and "a/0.jpg (" in message and "d/copy.jpg (" in message
    )
    assert "--config.data.accept_duplicates=True" in message
    capsys.readouterr()
    assert len(datasets.load(source._replace(accept_duplicates=True), "train", 16).labels) > 0
    said = capsys.readouterr().err
    assert "They are accepted" in said and "1 pictures more than once in one class, such as b/0.jpg" in said


def test_records_of_before_are_compared_too(pets, data_source, tmp_path):
    shutil.copy(pets / "a/0.jpg", pets / "d/copy.jpg")
    source = data_source("folder", pets)
    datasets.load(source._replace(accept_duplicates=True), "train", 16)
    (listing,) = (tmp_path / "cache").rglob("duplicates.json")
    assert "d/copy.jpg" in listing.read_text()
    for damage in (listing.unlink, lambda: listing.write_text('{"conflicts": ')):
        damage()
        with pytest.raises(errors.InputError, match="in more than one class"):
            datasets.load(source, "train", 16)


def test_the_protocol_of_a_benchmark_is_fixed(cars, data_source, capsys):
    shutil.copy(cars / "car_ims/000001.jpg", cars / "car_ims/000024.jpg")  # classes 1 and 196
    assert len(datasets.load(data_source("cars196", cars), "train", 16).labels) == 15
    assert "1 pictures in more than one class, or in training and in test" in capsys.readouterr().err


def test_configs_of_before_accept_duplicates():
    from symm_jax.run import config_json

    assert config_json.LEGACY_DEFAULTS["data.accept_duplicates"] is True
    config = config_json.ml_collections.ConfigDict(config_json.unflatten_dict(config_json.LEGACY_DEFAULTS, sep="."))
    config.data.update({"name": "folder", "dir": "x", "cache_dir": "y"})
    assert datasets.Source.from_section(config.data).accept_duplicates
