"""Augmentation: where it crops, and that an image's result depends on its key alone."""

import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import photographs
import PIL.Image

from symm_jax.data import augment, datasets


def test_augmentation_crops_where_it_should():
    # The ramp shows which columns are kept: no flip, no window, a margin of exactly 5 % of the shorter side.
    ramp = np.tile(np.arange(100, dtype=np.uint8)[None, None, :, None], (2, 100, 1, 3))
    options = {"image_size": 50, "enlarge": 1.0, "min_margin": 0.05, "max_margin": 0.05, "mirror": False}
    short_side_ratio = np.float32([[1, 1], [1, 0.5]])  # the second was twice as wide: half the fraction of its width
    out = jax.jit(functools.partial(augment.augment, **options))(
        jax.random.split(jax.random.key(0), 2), ramp, short_side_ratio
    )
    for image, margin in zip(out, (5.0, 2.5), strict=True):
        assert image.shape == (50, 50, 3)
        np.testing.assert_allclose(
            image[25, 10:40, 0], margin - 0.5 + (100 - 2 * margin) / 50 * (np.arange(10, 40) + 0.5), atol=0.1
        )


def test_augmentation_flips_half_and_depends_on_each_images_key_alone():
    keys = jax.random.split(jax.random.key(1), 64)
    images = jnp.tile(jnp.arange(40, dtype=jnp.uint8)[None, None, :, None], (64, 40, 1, 3))
    run = jax.jit(functools.partial(augment.augment, image_size=32))
    out = run(keys, images, jnp.ones((64, 2)))
    flipped = np.asarray(out[:, 16, 0, 0] > out[:, 16, -1, 0])
    assert 16 <= flipped.sum() <= 48
    assert len(np.unique(out[:, 16, 16, 0].round(2))) > 32
    alone = run(keys[5:6], images[5:6], jnp.ones((1, 2)))
    np.testing.assert_allclose(alone[0], out[5], atol=1e-3)
    with jax.enable_x64(True):  # draws the same windows
        wide = jax.jit(functools.partial(augment.augment, image_size=32))(keys, images, jnp.ones((64, 2), jnp.float32))
    np.testing.assert_allclose(wide, out, atol=1e-3)


def drawing():
    """A scene (300, 400, 3) with edges in all directions, and the box of a disc in it."""
    image = np.full((300, 400, 3), 220, np.uint8)
    cv2.circle(image, (210, 140), 90, (200, 60, 30), -1, cv2.LINE_AA)
    cv2.line(image, (120, 50), (300, 230), (20, 20, 20), 5, cv2.LINE_AA)
    cv2.putText(image, "Rg", (150, 170), cv2.FONT_HERSHEY_SIMPLEX, 2.5, (30, 90, 200), 6, cv2.LINE_AA)
    return image, (110, 40, 310, 240)


def test_box_and_augmentation_agree_with_opencv(tmp_path, data_source):
    """From the photograph on disk to the network's input, compared with OpenCV's crop, resize, window and flip."""
    photographs.cars_original(tmp_path / "cars", classes=(1, 2, 99, 100), photographs_per_class=2)
    image, (x1, y1, x2, y2) = drawing()
    PIL.Image.fromarray(image).save(tmp_path / "cars/car_ims/000001.jpg", quality=98)
    rows = [(f"car_ims/{i + 1:06d}.jpg", *photographs.CARS_BOX, c, 0) for i, c in enumerate((1, 1, 2, 2, 99, 99, 100))]
    photographs.write_annotations(tmp_path / "cars", [(rows[0][0], x1, y1, x2, y2, 1, 0), *rows[1:]])
    size, resized = 64, 72
    side = augment.stored_side(size, enlarge=1.125, max_margin=0.05)
    arrays = datasets.load(data_source("cars196", tmp_path / "cars"), "train", side)
    stored = arrays.images[[int(np.argmax(arrays.images.std((1, 2, 3))))]]

    keys = jax.random.split(jax.random.key(0), 12)
    options = {"image_size": size, "min_margin": 0.05, "max_margin": 0.05}
    augmented = jax.jit(functools.partial(augment.augment, **options))(
        keys, np.repeat(stored, 12, 0), np.ones((12, 2), np.float32)
    )
    margin = round(0.05 * (x2 - x1))
    box = image[y1 + margin : y2 - margin, x1 + margin : x2 - margin]
    enlarged = cv2.resize(box, (resized, resized), interpolation=cv2.INTER_AREA).astype(float)
    windows_at = [(t, l, flip) for t in range(9) for l in range(9) for flip in (False, True)]
    windows = np.stack([enlarged[t : t + size, l : l + size][:, :: -1 if flip else 1] for t, l, flip in windows_at])
    found = set()
    for result in np.asarray(augmented):
        differences = np.abs(windows - result).mean((1, 2, 3))
        best = np.argmin(differences)
        assert differences[best] < 2  # grey levels
        assert np.sort(differences)[1] > differences[best] + 0.3  # no other window fits
        found.add(windows_at[best])
    assert len(found) > 8 and {flip for _, _, flip in found} == {False, True}
