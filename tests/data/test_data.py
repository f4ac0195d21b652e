"""Data sets from source to arrays, their faults, pair sampling and augmentation."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from symm_jax import errors, files
from symm_jax.data import arrays, augment, datasets, pairs


def test_decoded_arrays_are_reused_and_follow_their_source(cars, data_source):
    config = data_source("cars196", cars)
    first = datasets.load(config, "train", 20)
    again = datasets.load(config, "train", 20)
    assert first.images.filename == again.images.filename
    PIL.Image.new("RGB", (64, 48), "white").save(cars / "car_ims/000001.jpg")
    changed = datasets.load(config, "train", 20)
    assert changed.images.filename != first.images.filename
    assert (changed.images.min((1, 2, 3)) > 250).sum() == 1


def test_a_corrupt_photograph_is_named_and_nothing_half_made_stays(cars, data_source, tmp_path):
    path = cars / "car_ims/000002.jpg"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(errors.InputError, match="car_ims/000002.jpg cannot be decoded"):
        datasets.load(data_source("cars196", cars), "train", 20)
    made = [p.name for p in (tmp_path / "cache").glob("*/arrays/*") if not p.name.startswith(".")]
    assert made == []


def test_all_damaged_photographs_are_named(cars, data_source, monkeypatch):
    monkeypatch.setattr(arrays, "_NAMED", 3)
    for number in (1, 3, 5, 9):
        path = cars / f"car_ims/{number:06d}.jpg"
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(errors.InputError, match=r"(?s)(image car_ims/00000[135].jpg cannot.*){3}\n  and 1 more"):
        datasets.load(data_source("cars196", cars), "train", 20)


def test_damaged_arrays_are_named(cars, data_source):
    path = datasets.load(data_source("cars196", cars), "train", 20).images.filename
    with open(path, "r+b") as file:
        file.truncate(500)
    with pytest.raises(errors.InputError, match="damaged.*delete it"):
        datasets.load(data_source("cars196", cars), "train", 20)


def test_a_folder_is_whole_or_absent(tmp_path):
    (tmp_path / "made.partial-old").mkdir()
    with pytest.raises(RuntimeError), files.new_directory(tmp_path / "made") as aside:
        (aside / "x").touch()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with files.new_directory(tmp_path / "made") as aside:
        (aside / "x").touch()
    assert [p.name for p in tmp_path.rglob("*")] == ["made", "x"]


def test_nothing_imports_tensorflow():
    code = "import sys, symm_jax.evaluate; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


LABELS = np.repeat(np.arange(9), [1, 2, 3, 4, 5, 6, 7, 1, 9])
ALL = np.arange(len(LABELS))


def test_pairs_are_of_distinct_classes_and_different_images():
    table = pairs.class_table(LABELS, ALL)
    drawn = pairs.sample_steps(jax.random.key(3), 10, 200, table, 5)
    labels = LABELS[drawn]
    assert (labels[..., 0] == labels[..., 1]).all()
    assert (drawn[..., 0] != drawn[..., 1]).all()
    assert all(len(set(row)) == 5 for row in labels[..., 0])
    assert set(drawn.ravel()) == set(np.flatnonzero((LABELS != 0) & (LABELS != 7)))  # all that can be, are drawn


def test_pairs_are_a_function_of_key_and_step():
    table, key = pairs.class_table(LABELS, ALL), jax.random.key(3)
    whole = pairs.sample_steps(key, 0, 6, table, 5)
    np.testing.assert_array_equal(whole[4:], pairs.sample_steps(key, 4, 2, table, 5))
    assert not np.array_equal(whole[0], whole[1])
    assert not np.array_equal(whole, pairs.sample_steps(jax.random.key(4), 0, 6, table, 5))


def test_too_few_classes_are_named():
    with pytest.raises(errors.InputError, match=r"8 pairs need 8 classes .* has 7; lower it to at most 14"):
        pairs.require_classes(pairs.class_table(LABELS, ALL), 8)


def test_held_out_classes_are_the_last_and_never_drawn():
    shuffled = np.random.default_rng(0).permutation(LABELS)
    kept, held_out = pairs.hold_out(shuffled, 3)
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, held_out])), ALL)
    assert set(shuffled[kept]) == set(range(6))
    assert set(shuffled[held_out]) == {6, 7, 8}
    drawn = pairs.sample_steps(jax.random.key(3), 0, 100, pairs.class_table(shuffled, kept), 5)
    assert set(shuffled[drawn.ravel()]) == set(range(1, 6))  # class 0 has one image
    kept, held_out = pairs.hold_out(shuffled, 0)
    assert len(kept) == len(LABELS) and not len(held_out)
    with pytest.raises(errors.InputError, match="validation_classes = 8: the training set has 9 classes"):
        pairs.hold_out(shuffled, 8)


def test_the_validation_split_is_the_held_out_part_of_train(cars, data_source):
    settings = data_source("cars196", cars, validation_classes=2)
    train, validation = (datasets.load(settings, split, 16) for split in ("train", "validation"))
    _, rows = pairs.hold_out(train.labels, 2)
    assert set(validation.labels) == {3, 97}
    np.testing.assert_array_equal(validation.images, train.images[rows])
    np.testing.assert_array_equal(validation.labels, train.labels[rows])


def test_augmentation_crops_where_it_should():
    # A ramp tells which columns were kept: no mirror, no window, a margin of exactly 5 % of the short_side_ratio side.
    ramp = np.tile(np.arange(100, dtype=np.uint8)[None, None, :, None], (2, 100, 1, 3))
    options = {"image_size": 50, "enlarge": 1.0, "min_margin": 0.05, "max_margin": 0.05, "mirror": False}
    short_side_ratio = np.float32([[1, 1], [1, 0.5]])  # the second was twice as wide: half the share of its width
    out = jax.jit(functools.partial(augment.augment, **options))(
        jax.random.split(jax.random.key(0), 2), ramp, short_side_ratio
    )
    for image, margin in zip(out, (5.0, 2.5), strict=True):
        assert image.shape == (50, 50, 3)
        np.testing.assert_allclose(
            image[25, 10:40, 0], margin - 0.5 + (100 - 2 * margin) / 50 * (np.arange(10, 40) + 0.5), atol=0.1
        )


def test_augmentation_mirrors_half_and_depends_on_each_images_key_alone():
    keys = jax.random.split(jax.random.key(1), 64)
    images = jnp.tile(jnp.arange(40, dtype=jnp.uint8)[None, None, :, None], (64, 40, 1, 3))
    run = jax.jit(functools.partial(augment.augment, image_size=32))
    out = run(keys, images, jnp.ones((64, 2)))
    mirrored = np.asarray(out[:, 16, 0, 0] > out[:, 16, -1, 0])
    assert 16 <= mirrored.sum() <= 48
    assert len(np.unique(out[:, 16, 16, 0].round(2))) > 32
    alone = run(keys[5:6], images[5:6], jnp.ones((1, 2)))
    np.testing.assert_allclose(alone[0], out[5], atol=1e-3)


def test_two_processes_may_build_at_once(cars, tmp_path):
    code = (
        "from configs import default; from symm_jax.data import datasets; c = default.get_config().data; "
        f"c.dir = {str(cars)!r}; c.cache_dir = {str(tmp_path / 'cache')!r}; "
        "print(datasets.load(c, 'train', 16).images.sum())"
    )
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    sums = [process.communicate(timeout=120)[0].split()[-1] for process in running]
    assert [p.returncode for p in running] == [0, 0]
    assert sums[0] == sums[1]
