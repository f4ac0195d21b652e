"""Eight host devices, strict promotion, and small data sets and configs shared by the tests."""

import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")

import numpy as np
import PIL.Image
import pytest
import scipy.io


def write_cars(folder, photographs_per_class=3, classes=(1, 2, 3, 4, 98, 99, 100, 196)):
    """A tiny Cars196 in the original archive's layout; each photograph has its class's grey level."""
    (folder / "car_ims").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for label in classes:
        for _ in range(photographs_per_class):
            name = f"car_ims/{len(rows) + 1:06d}.jpg"
            image = np.full((48, 64, 3), label, np.uint8) + rng.integers(0, 40, (48, 64, 3), dtype=np.uint8)
            PIL.Image.fromarray(image).save(folder / name, quality=95)
            rows.append((name, 4, 2, 60, 46, label, 0))
    write_annotations(folder, rows)
    return rows


def write_annotations(folder, rows):
    fields = ("relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test")
    annotations = np.zeros((1, len(rows)), dtype=[(field, "O") for field in fields])
    for i, row in enumerate(rows):
        annotations[0, i] = tuple(row)
    scipy.io.savemat(folder / "cars_annos.mat", {"annotations": annotations})


@pytest.fixture
def cars(tmp_path):
    folder = tmp_path / "cars"
    write_cars(folder)
    return folder


@pytest.fixture
def tiny(cars, tmp_path):
    """A config that trains in seconds: 5 training classes of tiny photographs, a tiny ConvNet."""
    from configs import car_symm_npair

    config = car_symm_npair.get_config()
    config.data.dir, config.data.cache_dir = str(cars), str(tmp_path / "cache")
    config.data.image_size = 16
    config.batch_size, config.num_steps, config.checkpoint_every, config.log_every = 8, 6, 3, 1
    config.model.name, config.model.pretrained, config.model.dim = "convnet", "", 8
    config.model.options = type(config)({"widths": (8, 8)})
    config.losses = ({"name": "npair", "synthesis": "symmetric", "l2_normalize": True, "scale": 8.0},)
    config.optimizer.learning_rate = 1e-2
    return config


@pytest.fixture
def one_device(monkeypatch):
    """Makes the program see one of the eight devices."""
    pmap = jax.pmap
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    monkeypatch.setattr(jax, "pmap", lambda f, **options: pmap(f, **options, devices=jax.devices()[:1]))
