"""Every layout of a data set gives the same splits, counts are compared with the protocol, and faults are named."""

import numpy as np
import photographs
import pytest
import scipy.io

from symm_jax import errors, metrics
from symm_jax.data import datasets, sources, splits
from symm_jax.evaluation import protocol

CARS = {
    "original": (photographs.cars_original, {}),
    "original, photographs in a tgz": (photographs.cars_original, {"car_ims.tgz": ("car_ims", ())}),
    "devkit": (photographs.cars_devkit, {}),
    "devkit, published archives": (
        photographs.cars_devkit,
        {"cars_train.tgz": ("cars_train", ()), "cars_test.tgz": ("cars_test", ()), "car_devkit.tgz": ("devkit", ())},
    ),
    "by classes": (photographs.cars_by_classes, {}),
    "by classes, zip": (photographs.cars_by_classes, {"archive.zip": ("", ())}),
    "original, one tar": (photographs.cars_original, {"all.tar": ("", ())}),
}


def known(folder):
    return [path.name for path in (folder / "cars").iterdir() if sources.published(path.name)]


@pytest.mark.parametrize("layout", CARS)
def test_every_layout_of_cars_gives_the_same_split(layout, tmp_path, data_source, capsys):
    write, archives = CARS[layout]
    write(tmp_path / "cars")
    for archive, (root, keep) in archives.items():
        photographs.pack(tmp_path / "cars", archive, root, keep)
    source = data_source("cars196", tmp_path / "cars")
    train, test = datasets.load(source, "train", 20), datasets.load(source, "test", 16)
    assert np.unique(train.labels, return_counts=True)[1].tolist() == [3] * 5
    assert sorted(set(train.labels)) == [0, 1, 2, 3, 97]
    assert sorted(set(test.labels)) == [98, 99, 195]
    assert train.images.shape == (15, 20, 20, 3) and test.images.dtype == np.uint8
    # Boxes are 56 x 44 pixels: a margin is a larger fraction of the shorter side.
    np.testing.assert_allclose(train.short_side_ratio, np.tile(np.float32([1, 44 / 56]), (15, 1)))
    # The grey level of each photograph is its class number, plus 0 .. 39.
    np.testing.assert_allclose(test.images.mean((1, 2, 3)), test.labels + 1 + 19.5, atol=3)
    said = capsys.readouterr().err
    assert "15 images of 5 classes in its train split, the protocol 8,054 images of 98 classes" in said
    assert "9 images of 3 classes in its test split, the protocol 8,131 images of 98 classes" in said
    assert said.count("is not the published file of that name") == len(known(tmp_path))


def test_a_single_archive_may_be_the_folder(tmp_path, data_source):
    photographs.cub(tmp_path / "cub")
    photographs.pack(tmp_path / "cub", "CUB_200_2011.tgz")
    source = data_source("cub200_2011", tmp_path / "cub/CUB_200_2011.tgz")
    assert datasets.load(source, "test", 16).images.shape == (4, 16, 16, 3)


@pytest.mark.parametrize("archive", [None, "CUB_200_2011.tgz"])
def test_cub(archive, tmp_path, data_source):
    photographs.cub(tmp_path / "cub")
    if archive:
        photographs.pack(tmp_path / "cub", archive)
    whole = data_source("cub200_2011", tmp_path / "cub", crop=False)
    train, test = datasets.load(whole, "train", 16), datasets.load(whole, "test", 16)
    assert sorted(set(train.labels)) == [0, 1, 99]
    assert sorted(set(test.labels)) == [100, 101]
    np.testing.assert_allclose(train.short_side_ratio, np.tile(np.float32([1, 48 / 64]), (6, 1)))
    cropped = datasets.load(data_source("cub200_2011", tmp_path / "cub"), "train", 16)
    np.testing.assert_allclose(cropped.short_side_ratio, np.tile(np.float32([1, 44 / 56]), (6, 1)))


@pytest.mark.parametrize("archive", [None, "Stanford_Online_Products.zip"])
def test_sop(archive, tmp_path, data_source, capsys):
    photographs.sop(tmp_path / "sop")
    if archive:
        photographs.pack(tmp_path / "sop", archive)
    source = data_source("sop", tmp_path / "sop")
    train, test = datasets.load(source, "train", 16), datasets.load(source, "test", 16)
    assert train.labels.max() == 11_317 and test.labels.min() == 11_318 and test.labels.max() == 22_633
    assert "the protocol 60,502 images of 11,316 classes" in capsys.readouterr().err


@pytest.mark.parametrize("archive", [None, "img.zip"])
def test_inshop_searches_its_gallery_with_its_queries(archive, tmp_path, data_source, capsys):
    photographs.inshop(tmp_path / "inshop")
    if archive:
        photographs.pack(tmp_path / "inshop", archive, "img")
    source = data_source("inshop", tmp_path / "inshop")
    train, test = datasets.load(source, "train", 16), datasets.load(source, "test", 16)
    assert train.query is None and set(train.labels) == {1, 3}  # of the sorted items 1, 2, 5, 7, 9
    assert sorted(test.labels[test.query]) == [0, 2, 4]
    assert np.sum(~test.query) == 6
    said = capsys.readouterr().err
    assert "3 of them queries in its test split, the protocol 26,830 images of 3,985 classes, 14,218 of them" in said
    assert splits.describe(test) == "9 images of 3 classes: 3 queries, 6 in the gallery"

    embeddings = np.random.default_rng(0).normal(size=(9, 4))
    measured = protocol.retrieval(embeddings, test, (1, 2))
    sides = {"gallery": embeddings[~test.query], "gallery_labels": test.labels[~test.query]}
    assert measured == metrics.retrieval(embeddings[test.query], test.labels[test.query], (1, 2), **sides)
    assert measured != metrics.retrieval(embeddings, test.labels, (1, 2))


def test_inshop_rejects_more_neighbours_than_its_gallery_has(tmp_path, data_source):
    photographs.inshop(tmp_path / "inshop")
    source = data_source("inshop", tmp_path / "inshop")
    assert splits.load_evaluation(source, 16, (1, 6))[0].query.sum() == 3
    with pytest.raises(errors.InputError, match="compared with only 6 others"):
        splits.load_evaluation(source, 16, (1, 7))


def break_cars(cars, fault):
    annotations = cars / "cars_annos.mat"
    row = ("car_ims/000001.jpg", 1, 1, 9, 9, 1, 0)
    if fault == "no folder":
        cars.rename(cars.with_name("elsewhere"))
    if fault == "no annotations":
        annotations.unlink()
    if fault == "garbage":
        annotations.write_bytes(b"<html>moved</html>" * 50)
    if fault == "other file":
        scipy.io.savemat(annotations, {"names": 1})
    if fault == "no images":
        (cars / "car_ims").rename(cars / "ims")
    if fault == "class 197":
        photographs.write_annotations(cars, [(*row[:5], 197, 0)])
    if fault == "class 1.5":
        photographs.write_annotations(cars, [(*row[:5], 1.5, 0)])
    if fault == "empty box":
        photographs.write_annotations(cars, [(row[0], 9, *row[2:]), row])
    if fault == "outside":
        photographs.write_annotations(cars, [("../secret.jpg", *row[1:])])
    if fault == "outside its box":
        photographs.write_annotations(cars, [(row[0], 100, 100, 200, 200, 1, 0), (row[0][:-5] + "2.jpg", *row[1:])])
    if fault == "dangling link":
        (cars / "car_ims/000001.jpg").unlink()
        (cars / "car_ims/000001.jpg").symlink_to(cars / "absent")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no folder", "does not exist. It should hold `cars_annos.mat`"),
        ("no annotations", "does not hold the data set. It should hold `cars_annos.mat`"),
        ("garbage", "cars_annos.mat cannot be read as a MATLAB file"),
        ("other file", "no complete struct array 'annotations'"),
        ("no images", "has none of the 15 photographs of cars196's train split, such as car_ims/000001.jpg"),
        ("class 197", "car_ims/000001.jpg has class 197"),
        ("class 1.5", r"annotations\(1\): '1.5' is not an integer"),
        ("empty box", r"impossible box \(9, 1, 9, 9\)"),
        ("outside", "'../secret.jpg' is not a relative file path"),
        ("dangling link", "000001.jpg is a link to a file that does not exist"),
    ],
)
def test_faults_of_the_source_are_named_before_anything_is_built(cars, data_source, tmp_path, fault, message):
    break_cars(cars, fault)
    with pytest.raises(errors.InputError, match=message):
        datasets.load(data_source("cars196", cars), "train", 20)
    assert not (tmp_path / "cache").exists()


def test_missing_photographs_are_counted(cars, data_source, capsys):
    (cars / "car_ims/000003.jpg").unlink()
    assert len(datasets.load(data_source("cars196", cars), "train", 16).labels) == 14
    said = capsys.readouterr().err
    assert (
        "has 14 of 15 annotated photographs of cars196's train split. The first missing one is car_ims/000003.jpg"
        in said
    )
    assert "14 images of 5 classes in its train split" in said


def test_a_class_in_both_splits_is_rejected(tmp_path, data_source):
    photographs.sop(tmp_path / "sop")
    table = tmp_path / "sop/Stanford_Online_Products/Ebay_test.txt"
    table.write_text(table.read_text().replace(" 11319 ", " 2 "))
    with pytest.raises(errors.InputError, match="class 2 is in train and in test"):
        datasets.load(data_source("sop", tmp_path / "sop"), "train", 16)


def test_unknown_data_set_is_named(tmp_path, data_source):
    with pytest.raises(errors.InputError, match="did you mean 'cars196'"):
        datasets.load(data_source("cars169", tmp_path), "train", 8)


def test_archives_of_other_kinds_are_pointed_out(tmp_path, data_source):
    (tmp_path / "cub").mkdir()
    (tmp_path / "cub/CUB_200_2011.7z").touch()
    with pytest.raises(errors.InputError, match=r"Unpack CUB_200_2011.7z yourself: only .tar, .tar.gz, .tgz, .zip"):
        datasets.load(data_source("cub200_2011", tmp_path / "cub"), "train", 16)
