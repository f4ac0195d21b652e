"""--mode=prepare: fetches what a config needs, builds and decodes it, and draws what training will see."""

from pathlib import Path

import jax
import ml_collections
import numpy as np

from symm_jax import evaluate, images, report, train
from symm_jax.data import datasets, download, pairs, sources
from symm_jax.data.arrays import Arrays

_PAIRS_DRAWN = 24


def prepare(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Makes everything ready for training: data set, decoded arrays, weights; prints counts, draws augmented pairs.

    The sheet of pairs, WORKDIR/figures/pairs.png, shows the first batch of training as the network will see it.

    Raises:
      InputError: something cannot be fetched, or is damaged.
    """
    datasets.fetch(config.data)
    arrays = images.load_train(config)
    splits = {"train": arrays, "held out": images.load_validation(config), "test": images.load_test(config)}
    for split, decoded in splits.items():
        if decoded is not None:
            print(f"{split:9} {evaluate.describe(decoded)}")
    path = workdir / "figures" / "pairs.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    report.draw_pairs(path, *first_pairs(config, arrays))
    print(f"pairs     {path}")
    fetch_weights(config.model)


def first_pairs(config: ml_collections.ConfigDict, arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Augmented pairs (n, 2, side, side, 3) uint8 and labels (n,) of the first step of training."""
    recipe = train.create_recipe(config)
    rows, _ = pairs.hold_out(arrays.labels, config.data.validation_classes)
    table = pairs.class_table(arrays.labels, rows)
    num_pairs = min(config.batch_size // 2, len(table.count))
    (batch,) = train.batches(arrays, table, recipe.key, 0, 1, num_pairs, 1)
    batch = jax.tree.map(lambda x: x[0, :_PAIRS_DRAWN], batch)
    augmented = train.augment_batch(recipe, batch, step=0, first=0)
    return np.rint(np.clip(augmented, 0, 255)).astype(np.uint8), batch.labels


def fetch_weights(model: ml_collections.ConfigDict) -> None:
    """Downloads the pretrained weights of `config.model` to where it expects them, if they have a known address."""
    path = Path(model.pretrained).expanduser()
    for remote in sources.remotes(model.name, model.mirrors, field="config.model.mirrors"):
        if model.pretrained and not path.exists() and path.name == remote.name:
            download.fetch(remote, path.parent)
