"""Decoded arrays: written once, reused, complete or absent, and decoded again when their source changes."""

import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from symm_jax import errors, files
from symm_jax.data import datasets, pairs


def test_decoded_arrays_are_reused_and_follow_their_source(cars, data_source):
    source = data_source("cars196", cars)
    first = datasets.load(source, "train", 20)
    again = datasets.load(source, "train", 20)
    assert first.images.filename == again.images.filename
    PIL.Image.new("RGB", (64, 48), "white").save(cars / "car_ims/000001.jpg")
    changed = datasets.load(source, "train", 20)
    assert changed.images.filename != first.images.filename
    assert (changed.images.min((1, 2, 3)) > 250).sum() == 1


def test_a_corrupt_photograph_is_named_and_leaves_no_arrays(cars, data_source, tmp_path):
    path = cars / "car_ims/000002.jpg"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(errors.InputError, match="car_ims/000002.jpg cannot be decoded"):
        datasets.load(data_source("cars196", cars), "train", 20)
    made = [p.name for p in (tmp_path / "cache").glob("*/arrays/*") if not p.name.startswith(".")]
    assert made == []


def test_all_damaged_photographs_are_named(cars, data_source, monkeypatch):
    monkeypatch.setattr(datasets, "_MAX_LISTED", 3)
    for number in (1, 3, 5, 9):
        path = cars / f"car_ims/{number:06d}.jpg"
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(errors.InputError, match=r"(?s)(image car_ims/00000[135].jpg cannot.*){3}\n  and 1 more"):
        datasets.load(data_source("cars196", cars), "train", 20)


def test_a_folder_is_complete_or_absent(tmp_path):
    (tmp_path / ".made.partial-0123abcd").mkdir()
    with pytest.raises(RuntimeError), files.new_directory(tmp_path / "made") as temporary:
        (temporary / "x").touch()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with files.new_directory(tmp_path / "made") as temporary:
        (temporary / "x").touch()
    assert [p.name for p in tmp_path.rglob("*")] == ["made", "x"]


@pytest.mark.parametrize(("seed", "name"), [(-1, "validation2-16px"), (3, "validation2-seed3-16px")])
def test_the_validation_split_has_the_held_out_images_of_train(cars, data_source, seed, name):
    source = data_source("cars196", cars, validation_classes=2, validation_seed=seed)
    train, validation = (datasets.load(source, split, 16) for split in ("train", "validation"))
    _, rows = pairs.hold_out(train.labels, 2, seed)
    assert len(set(validation.labels)) == 2
    assert (set(validation.labels) == {3, 97}) == (seed == -1)  # of the training classes 0, 1, 2, 3, 97
    np.testing.assert_array_equal(validation.images, train.images[rows])
    np.testing.assert_array_equal(validation.labels, train.labels[rows])
    assert f"/arrays/{name}-box-" in validation.images.filename.as_posix()


def test_two_processes_may_build_at_once(cars, tmp_path):
    code = (
        "import sys; from symm_jax.data import datasets; "
        "print(datasets.load(datasets.Source('cars196', *sys.argv[1:]), 'train', 16).images.sum())"
    )
    command = [sys.executable, "-c", code, str(cars), str(tmp_path / "cache")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    sums = [process.communicate(timeout=120)[0].split()[-1] for process in running]
    assert [p.returncode for p in running] == [0, 0]
    assert sums[0] == sums[1]


def test_training_starts_without_what_only_reports_need_and_nothing_imports_tensorflow():
    """In a new process: first what workers and training import, then every module of every wing."""
    code = (
        "import importlib, pkgutil, sys, symm_jax, symm_jax.data.arrays, symm_jax.data.records\n"
        "assert not {'jax', 'tensorflow_datasets'} & {*sys.modules}\n"
        "import symm_jax.app.modes\n"
        "assert not {'sklearn', 'scipy.stats', 'matplotlib.figure'} & {*sys.modules}\n"
        "names = [m.name for m in pkgutil.walk_packages(symm_jax.__path__, 'symm_jax.')]\n"
        "for name in names: importlib.import_module(name)\n"
        "wings = {name.split('.')[1] for name in names}\n"
        "assert wings >= {'app', 'training', 'evaluation', 'report', 'run', 'data', 'models', 'losses', 'metrics'}\n"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
