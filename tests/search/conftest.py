"""A run on a folder of pictures, and its network."""

import json
import shutil

import jax
import numpy as np
import photographs
import pytest

import symm_jax
from symm_jax.run import best, checkpoints, config_json, paths
from symm_jax.training.recipe import create_recipe
from symm_jax.training.step import create_state

CLASSES = ("apple", "lemon", "melon", "pear")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run on a folder of pictures, with checkpoints of random weights at the steps 1 and 2."""
    from configs import folder_symm_npair

    root = tmp_path_factory.mktemp("search")
    for number in range(12):
        photographs.photograph(root / f"photos/{CLASSES[number % 4]}/{number}.jpg", 10 * number, (48, 40 + number))
    config = folder_symm_npair.get_config()
    config.data.dir, config.data.cache_dir = str(root / "photos"), str(root / "cache")
    config.data.image_size, config.eval_batch_size = 16, 4
    config.model.name, config.model.pretrained, config.model.dim = "convnet", "", 8
    config.model.options = type(config)({"widths": (8, 8)})
    recipe = create_recipe(config)
    (root / "run").mkdir()
    paths.config(root / "run").write_text(json.dumps(config_json.to_dict(config)))
    with checkpoints.Writer(root / "run", config_json.to_dict(config)) as writer:
        for step in (1, 2):
            state = create_state(recipe._replace(key=jax.random.key(step)))
            writer.save(step, state.params, state.opt_state)
    best.keep(root / "run", best.TEST, {"step": 1, "recall@1": 0.5}, "recall@1", np.zeros((6, 8), np.float32))
    return root / "run"


@pytest.fixture
def photos(workdir, tmp_path):
    return shutil.copytree(workdir.parent / "photos", tmp_path / "photos")


@pytest.fixture(scope="module")
def network(workdir):
    return symm_jax.load(workdir)
