"""Your own pictures: layouts, the split by class, EXIF, and faults of a folder."""

import os

import numpy as np
import photographs
import PIL.Image
import pytest

from symm_jax import errors
from symm_jax.data import datasets


def folder(root, *classes, suffix=".jpg"):
    for i, name in enumerate(classes):
        for k in range(2):
            photographs.photograph(root / name / f"{k}{suffix}", 10 * i + k)


def test_a_folder_with_train_and_test(tmp_path, data_source):
    folder(tmp_path / "mine", "Train/a", "Train/b", "test/c", "test/d")
    config = data_source("folder", tmp_path / "mine")
    assert set(datasets.load(config, "train", 16).labels) == {0, 1}
    assert set(datasets.load(config, "test", 16).labels) == {2, 3}


def test_train_and_test_with_another_folder_are_not_classes(tmp_path, data_source):
    folder(tmp_path / "mine", "train/a", "train/b", "test/c", "test/d", "more/e", "old/f")
    with pytest.raises(errors.InputError, match="has the folders more, old, test, train. .* and no other folders"):
        datasets.load(data_source("folder", tmp_path / "mine"), "train", 16)


def test_a_folder_of_classes_is_split_by_seed(tmp_path, data_source, capsys):
    folder(tmp_path / "mine", "a", "B", "c", "D e", "é")
    (tmp_path / "mine/a/0.jpg").rename(tmp_path / "mine/a/0.JPEG")
    (tmp_path / "mine/notes.txt").write_text("mine")
    (tmp_path / "mine/a/.DS_Store").write_text("")
    splits = {}
    for seed in range(4):
        config = data_source("folder", tmp_path / "mine", split_seed=seed)
        train, test = datasets.load(config, "train", 16), datasets.load(config, "test", 16)
        assert len(train.labels) == 6 and len(test.labels) == 4
        assert set(train.labels) | set(test.labels) == set(range(5))
        splits[seed] = tuple(sorted(set(test.labels)))
    assert len(set(splits.values())) > 1
    assert "1 files are not pictures in the folder of a class, such as notes.txt" in capsys.readouterr().err
    photographs.pack(tmp_path / "mine", "photos.zip")
    config = data_source("folder", tmp_path / "mine", split_seed=0)
    assert tuple(sorted(set(datasets.load(config, "test", 16).labels))) == splits[0]


def test_a_folder_of_one_folder(tmp_path, data_source):
    folder(tmp_path / "mine", "photos/a", "photos/b", "photos/c", "photos/d")
    assert len(datasets.load(data_source("folder", tmp_path / "mine"), "train", 16).labels) == 4


def test_folders_apply_the_exif_orientation_and_benchmarks_do_not(tmp_path, data_source):
    folder(tmp_path / "mine", "train/a", "train/b", "test/c", "test/d")
    photographs.cars_original(tmp_path / "cars")
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:, :32] = 255  # white on the left, and on top once turned
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    for path in ("mine/train/a/0.jpg", "cars/car_ims/000001.jpg"):
        PIL.Image.fromarray(picture).save(tmp_path / path, exif=exif, quality=95)
    turned = datasets.load(data_source("folder", tmp_path / "mine"), "train", 16).images
    assert (turned[:, :7].min(axis=(1, 2, 3)) > 240).sum() == 1
    stored = datasets.load(data_source("cars196", tmp_path / "cars"), "train", 16).images
    assert (stored[:, :, :7].min(axis=(1, 2, 3)) > 240).sum() == 1


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ((), "does not exist. It should hold pictures"),
        (("a", "b", "c"), "pictures of 3 classes. Four are the minimum"),
        (("train/a", "train/b", "test/b"), "1 classes in train and in test, such as 'b'"),
        (("train/a", "train/b", "valid/c", "test/d"), "folders test, train, valid. It should hold train"),
        (("a",), "pictures of 1 classes. Four are the minimum"),
    ],
)
def test_faults_of_a_folder_are_named(classes, message, tmp_path, data_source):
    folder(tmp_path / "mine", *classes)
    with pytest.raises(errors.InputError, match=message):
        datasets.load(data_source("folder", tmp_path / "mine"), "train", 16)


def test_an_empty_name_is_not_the_current_folder(data_source):
    with pytest.raises(errors.InputError, match="dir: the name of the folder is empty"):
        datasets.load(data_source("folder", ""), "train", 16)


def test_a_folder_that_cannot_be_read_is_named(tmp_path, data_source, deny):
    folder(tmp_path / "mine", "a", "b", "c", "d", "e")
    deny("/c")
    with pytest.raises(errors.InputError, match=r"mine/c cannot be read \(Permission denied\)"):
        datasets.load(data_source("folder", tmp_path / "mine"), "train", 16)


def test_pipes_are_ignored(tmp_path, data_source):
    folder(tmp_path / "mine", "a", "b", "c", "d")
    os.mkfifo(tmp_path / "mine/a/pipe.jpg")
    assert len(datasets.load(data_source("folder", tmp_path / "mine"), "train", 16).labels) == 4
