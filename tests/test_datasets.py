"""Builders: every layout gives the same data set, counts are compared with the protocol, faults are named."""

import os
import shutil
import subprocess
import sys

import numpy as np
import photographs
import PIL.Image
import pytest
import scipy.io

from symm_jax import errors, evaluate, images, metrics
from symm_jax.data import arrays, datasets, sources
from symm_jax.data.cars196 import Cars196

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
def test_every_layout_of_cars_gives_the_same_split(layout, tmp_path, data_config, capsys):
    write, archives = CARS[layout]
    write(tmp_path / "cars")
    for archive, (root, keep) in archives.items():
        photographs.pack(tmp_path / "cars", archive, root, keep)
    config = data_config("cars196", tmp_path / "cars")
    train, test = datasets.load(config, "train", 20), datasets.load(config, "test", 16)
    assert np.unique(train.labels, return_counts=True)[1].tolist() == [3] * 5
    assert sorted(set(train.labels)) == [0, 1, 2, 3, 97]
    assert sorted(set(test.labels)) == [98, 99, 195]
    assert train.images.shape == (15, 20, 20, 3) and test.images.dtype == np.uint8
    # Boxes are 56 x 44 pixels: a margin of the shorter side is a larger share of the height.
    np.testing.assert_allclose(train.shorter, np.tile(np.float32([1, 44 / 56]), (15, 1)))
    # Each photograph has its class's grey level, plus 0 .. 39.
    np.testing.assert_allclose(test.images.mean((1, 2, 3)), test.labels + 1 + 19.5, atol=3)
    said = capsys.readouterr().err
    assert "15 images of 5 classes in its train split, the protocol 8,054 images of 98 classes" in said
    assert "9 images of 3 classes in its test split, the protocol 8,131 images of 98 classes" in said
    assert said.count("is not the published file of that name") == len(known(tmp_path))


def test_a_single_archive_may_be_the_folder(tmp_path, data_config):
    photographs.cub(tmp_path / "cub")
    photographs.pack(tmp_path / "cub", "CUB_200_2011.tgz")
    config = data_config("cub200_2011", tmp_path / "cub/CUB_200_2011.tgz")
    assert datasets.load(config, "test", 16).images.shape == (4, 16, 16, 3)


@pytest.mark.parametrize("archive", [None, "CUB_200_2011.tgz"])
def test_cub(archive, tmp_path, data_config):
    photographs.cub(tmp_path / "cub")
    if archive:
        photographs.pack(tmp_path / "cub", archive)
    whole = data_config("cub200_2011", tmp_path / "cub", crop=False)
    train, test = datasets.load(whole, "train", 16), datasets.load(whole, "test", 16)
    assert sorted(set(train.labels)) == [0, 1, 99]
    assert sorted(set(test.labels)) == [100, 101]
    np.testing.assert_allclose(train.shorter, np.tile(np.float32([1, 48 / 64]), (6, 1)))
    cropped = datasets.load(data_config("cub200_2011", tmp_path / "cub"), "train", 16)
    np.testing.assert_allclose(cropped.shorter, np.tile(np.float32([1, 44 / 56]), (6, 1)))


@pytest.mark.parametrize("archive", [None, "Stanford_Online_Products.zip"])
def test_sop(archive, tmp_path, data_config, capsys):
    photographs.sop(tmp_path / "sop")
    if archive:
        photographs.pack(tmp_path / "sop", archive)
    config = data_config("sop", tmp_path / "sop")
    train, test = datasets.load(config, "train", 16), datasets.load(config, "test", 16)
    assert train.labels.max() == 11_317 and test.labels.min() == 11_318 and test.labels.max() == 22_633
    assert "the protocol 60,502 images of 11,316 classes" in capsys.readouterr().err


@pytest.mark.parametrize("archive", [None, "img.zip"])
def test_inshop_searches_its_gallery_with_its_queries(archive, tmp_path, data_config, capsys):
    photographs.inshop(tmp_path / "inshop")
    if archive:
        photographs.pack(tmp_path / "inshop", archive, "img")
    config = data_config("inshop", tmp_path / "inshop")
    train, test = datasets.load(config, "train", 16), datasets.load(config, "test", 16)
    assert train.query is None and set(train.labels) == {1, 3}  # of the sorted items 1, 2, 5, 7, 9
    assert sorted(test.labels[test.query]) == [0, 2, 4]
    assert np.sum(~test.query) == 6
    said = capsys.readouterr().err
    assert "3 of them queries in its test split, the protocol 26,830 images of 3,985 classes, 14,218 of them" in said
    assert evaluate.describe(test) == "9 images of 3 classes: 3 queries, 6 in the gallery"

    embeddings = np.random.default_rng(0).normal(size=(9, 4))
    measured = evaluate.retrieval(embeddings, test, (1, 2))
    sides = {"gallery": embeddings[~test.query], "gallery_labels": test.labels[~test.query]}
    assert measured == metrics.retrieval(embeddings[test.query], test.labels[test.query], (1, 2), **sides)
    assert measured != metrics.retrieval(embeddings, test.labels, (1, 2))


def test_inshop_asks_no_more_neighbours_than_its_gallery_has(tmp_path, data_config):
    from configs import inshop_npair

    photographs.inshop(tmp_path / "inshop")
    config = inshop_npair.get_config()
    config.data = data_config("inshop", tmp_path / "inshop", image_size=16)
    config.recall_ks = (1, 6)
    assert images.load_evaluation(config)[0].query.sum() == 3
    config.recall_ks = (1, 7)
    with pytest.raises(errors.InputError, match="a test image has 6 others"):
        images.load_evaluation(config)


def folder(root, *classes, suffix=".jpg"):
    for i, name in enumerate(classes):
        for k in range(2):
            photographs.photograph(root / name / f"{k}{suffix}", 10 * i + k)


def test_a_folder_with_train_and_test(tmp_path, data_config):
    folder(tmp_path / "mine", "Train/a", "Train/b", "test/c", "test/d")
    config = data_config("folder", tmp_path / "mine")
    assert set(datasets.load(config, "train", 16).labels) == {0, 1}
    assert set(datasets.load(config, "test", 16).labels) == {2, 3}


def test_a_folder_of_classes_is_split_by_seed(tmp_path, data_config, capsys):
    folder(tmp_path / "mine", "a", "B", "c", "D e", "é")
    (tmp_path / "mine/a/0.jpg").rename(tmp_path / "mine/a/0.JPEG")
    (tmp_path / "mine/notes.txt").write_text("mine")
    (tmp_path / "mine/a/.DS_Store").write_text("")
    splits = {}
    for seed in range(4):
        config = data_config("folder", tmp_path / "mine", split_seed=seed)
        train, test = datasets.load(config, "train", 16), datasets.load(config, "test", 16)
        assert len(train.labels) == 6 and len(test.labels) == 4
        assert set(train.labels) | set(test.labels) == set(range(5))
        splits[seed] = tuple(sorted(set(test.labels)))
    assert len(set(splits.values())) > 1
    assert "1 of the files are no pictures of a class, such as notes.txt" in capsys.readouterr().err
    photographs.pack(tmp_path / "mine", "photos.zip")
    config = data_config("folder", tmp_path / "mine", split_seed=0)
    assert tuple(sorted(set(datasets.load(config, "test", 16).labels))) == splits[0]


def test_a_folder_of_one_folder(tmp_path, data_config):
    folder(tmp_path / "mine", "photos/a", "photos/b", "photos/c", "photos/d")
    assert len(datasets.load(data_config("folder", tmp_path / "mine"), "train", 16).labels) == 4


def test_folders_turn_pictures_as_exif_says_and_benchmarks_do_not(tmp_path, data_config):
    folder(tmp_path / "mine", "train/a", "train/b", "test/c", "test/d")
    photographs.cars_original(tmp_path / "cars")
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:, :32] = 255  # white on the left, and on top once turned
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    for path in ("mine/train/a/0.jpg", "cars/car_ims/000001.jpg"):
        PIL.Image.fromarray(picture).save(tmp_path / path, exif=exif, quality=95)
    turned = datasets.load(data_config("folder", tmp_path / "mine"), "train", 16).images
    assert (turned[:, :7].min(axis=(1, 2, 3)) > 240).sum() == 1
    stored = datasets.load(data_config("cars196", tmp_path / "cars"), "train", 16).images
    assert (stored[:, :, :7].min(axis=(1, 2, 3)) > 240).sum() == 1


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ((), "does not exist; it should hold pictures"),
        (("a", "b", "c"), "pictures of 3 classes; four are the least"),
        (("train/a", "train/b", "test/b"), "1 classes in train and in test, such as 'b'"),
        (("train/a", "train/b", "valid/c", "test/d"), "folders test, train, valid; expected train"),
        (("a",), "pictures of 1 classes; four are the least"),
    ],
)
def test_faults_of_a_folder_are_named(classes, message, tmp_path, data_config):
    folder(tmp_path / "mine", *classes)
    with pytest.raises(errors.InputError, match=message):
        datasets.load(data_config("folder", tmp_path / "mine"), "train", 16)


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
        (cars / "car_ims/x.jpg").symlink_to(cars / "absent")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no folder", "does not exist.*--mode=prepare"),
        ("no annotations", "holds no `cars_annos.mat`"),
        ("garbage", "cars_annos.mat cannot be read as a MATLAB file"),
        ("other file", "no whole struct array 'annotations'"),
        ("no images", "has none of the 15 photographs of cars196's train split, such as car_ims/000001.jpg"),
        ("class 197", "car_ims/000001.jpg has class 197"),
        ("class 1.5", r"annotations\(1\): '1.5' is not a whole number"),
        ("empty box", r"box \(9, 1, 9, 9\)"),
        ("outside", "'../secret.jpg' is not the name of a file"),
        ("dangling link", "x.jpg is a link that leads nowhere"),
    ],
)
def test_faults_of_the_source_are_named_before_anything_is_built(cars, data_config, tmp_path, fault, message):
    break_cars(cars, fault)
    with pytest.raises(errors.InputError, match=message):
        datasets.load(data_config("cars196", cars), "train", 20)
    assert not (tmp_path / "cache").exists()


def test_photographs_that_are_absent_are_counted(cars, data_config, capsys):
    (cars / "car_ims/000003.jpg").unlink()
    assert len(datasets.load(data_config("cars196", cars), "train", 16).labels) == 14
    said = capsys.readouterr().err
    assert "has 14 of 15 annotated photographs of cars196's train split; car_ims/000003.jpg is the first" in said
    assert "14 images of 5 classes in its train split" in said


def test_a_class_in_both_splits_is_refused(tmp_path, data_config):
    photographs.sop(tmp_path / "sop")
    table = tmp_path / "sop/Stanford_Online_Products/Ebay_test.txt"
    table.write_text(table.read_text().replace(" 11319 ", " 2 "))
    with pytest.raises(errors.InputError, match="class 2 is in train and in test"):
        datasets.load(data_config("sop", tmp_path / "sop"), "train", 16)


def test_unknown_data_set_is_named(tmp_path, data_config):
    with pytest.raises(errors.InputError, match="did you mean 'cars196'"):
        datasets.load(data_config("cars169", tmp_path), "train", 8)


def test_builders_work_as_tfds_has_it(cars, tmp_path):
    import tensorflow_datasets as tfds

    builder = Cars196(data_dir=tmp_path / "tfds")
    config = tfds.download.DownloadConfig(manual_dir=cars)
    builder.download_and_prepare(download_config=config, file_format="array_record")
    assert builder.info.splits["train"].num_examples == 15
    (example,) = [e for e in builder.as_data_source("test") if e["filename"] == b"car_ims/000016.jpg"]
    assert example["image"].shape == (48, 64, 3) and example["label"] == 98


def test_nothing_else_in_the_folder_counts(cars, data_config, tmp_path):
    config = data_config("cars196", cars, cache_dir=str(cars / "cache"))
    first = datasets.load(config, "train", 16)
    assert datasets.load(config, "train", 16).images.filename == first.images.filename


def test_a_damaged_photograph_in_an_archive_is_named_and_no_records_stay(cars, data_config, tmp_path):
    photographs.pack(cars, "all.zip")
    content = bytearray((cars / "all.zip").read_bytes())
    content[content.index(b"car_ims/000002.jpg") + 500] ^= 1
    (cars / "all.zip").write_bytes(content)
    with pytest.raises(errors.InputError, match="all.zip is no whole archive of its kind .*000002.jpg"):
        datasets.load(data_config("cars196", cars), "train", 16)
    assert not list((tmp_path / "cache").rglob("*.array_record*"))


def test_too_little_disk_is_named_before_anything_is_written(cars, data_config, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 100, 100))
    with pytest.raises(errors.InputError, match=r"cache_dir: .* needs .* MB for records and has 0 MB free"):
        datasets.load(data_config("cars196", cars), "train", 16)
    assert not list((tmp_path / "cache").rglob("*.array_record*"))


def test_many_images_are_decoded_by_workers_as_by_one(cars, data_config, monkeypatch):
    config = data_config("cars196", cars)
    alone = datasets.load(config, "train", 16)
    monkeypatch.setattr(arrays, "_ALONE", 1)
    monkeypatch.setattr(arrays, "_VERSION", "of-workers")
    monkeypatch.setattr(arrays, "_CHUNK", 5_000)
    together = datasets.load(config, "train", 16)
    assert together.images.filename != alone.images.filename
    for ours, theirs in zip(together[:3], alone[:3], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    path = cars / "car_ims/000002.jpg"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(errors.InputError, match="car_ims/000002.jpg cannot be decoded"):
        datasets.load(config, "train", 16)


def test_what_a_killed_process_left_is_removed(cars, data_config, tmp_path):
    config = data_config("cars196", cars)
    code = (
        "import os, sys; from configs import default; from symm_jax.data import builder, datasets; "
        "c = default.get_config().data; c.dir, c.cache_dir = sys.argv[1:]; "
        "builder.Tree.in_reading_order = lambda *_: os._exit(9); datasets.load(c, 'train', 16)"
    )
    killed = subprocess.run([sys.executable, "-c", code, config.dir, config.cache_dir], timeout=60, check=False)
    assert killed.returncode == 9 and list((tmp_path / "cache").rglob("incomplete.*"))
    assert len(datasets.load(config, "train", 16).labels) == 15
    assert not list((tmp_path / "cache").rglob("incomplete.*"))


def test_an_empty_name_of_a_folder_is_not_where_one_stands(data_config):
    with pytest.raises(errors.InputError, match="config.data.dir is empty"):
        datasets.load(data_config("folder", ""), "train", 16)


def test_a_folder_that_cannot_be_read_is_named(tmp_path, data_config, monkeypatch):
    folder(tmp_path / "mine", "a", "b", "c", "d", "e")
    scan = os.scandir

    def scandir(path):
        if str(path).endswith("/c"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(errors.InputError, match=r"mine/c cannot be read \(Permission denied\)"):
        datasets.load(data_config("folder", tmp_path / "mine"), "train", 16)


def test_pipes_are_not_waited_for(tmp_path, data_config):
    folder(tmp_path / "mine", "a", "b", "c", "d")
    os.mkfifo(tmp_path / "mine/a/pipe.jpg")
    assert len(datasets.load(data_config("folder", tmp_path / "mine"), "train", 16).labels) == 4


def test_a_cache_that_cannot_be_made_is_named(cars, data_config, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(errors.InputError, match="cache_dir: .* cannot be made"):
        datasets.load(data_config("cars196", cars, cache_dir=str(tmp_path / "file")), "train", 16)


def test_archives_of_other_kinds_are_pointed_out(tmp_path, data_config):
    (tmp_path / "cub").mkdir()
    (tmp_path / "cub/CUB_200_2011.7z").touch()
    with pytest.raises(errors.InputError, match=r"Unpack CUB_200_2011.7z yourself: only .tar, .tar.gz, .tgz, .zip"):
        datasets.load(data_config("cub200_2011", tmp_path / "cub"), "train", 16)


def test_workers_end_with_the_process_that_was_killed(tmp_path):
    code = (
        "import os; from pathlib import Path; from symm_jax.data import arrays; "
        "arrays._CHUNK = 1; arrays.decode.decode = None; n = [0]\n"
        "class Source(list):\n"
        "    def __getitem__(self, i):\n"
        "        if i == 8: os.kill(os.getpid(), 9)\n"
        "        return {'image': b'', 'label': 0, 'filename': 'x'}\n"
        f"arrays.load(Source(range(400)), Path({str(tmp_path)!r}), 'all', arrays.Options(8))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        process.communicate(timeout=20)  # ends when the last worker has closed its output
    assert process.returncode == -9
