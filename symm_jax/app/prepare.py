"""--mode=prepare: downloads what a config needs, decodes it, and draws the first batch of training."""

from pathlib import Path

import jax
import ml_collections
import numpy as np

from symm_jax import report
from symm_jax.app import fetch
from symm_jax.data import datasets, pairs, splits
from symm_jax.data.arrays import Arrays
from symm_jax.run import paths
from symm_jax.run import workdir as workdirs
from symm_jax.training import batches, step
from symm_jax.training.recipe import Recipe, create_plan
from symm_jax.training.train import training_rows

_PAIRS_DRAWN = 24


def prepare(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Prepares a run: data set, decoded arrays and weights. Prints counts and draws augmented images.

    The sheet WORKDIR/figures/pairs.png shows the first batch of training as the network will see it: pairs, or single
    images of a shuffled epoch.

    Raises:
      InputError: something cannot be downloaded, is damaged, or cannot be trained on with this config.
    """
    plan = create_plan(config)  # mistakes in the config are found before anything is downloaded
    workdirs.create(workdir)
    fetch.fetch_missing({workdir: config})
    source = plan.source
    arrays = datasets.load(source, "train", plan.stored_side)
    validation = datasets.load(source, "validation", plan.recipe.image_size) if source.validation_classes else None
    test = datasets.load(source, "test", plan.recipe.image_size)
    per_class = plan.images_per_class
    singleton = "are trained on like the others" if per_class == 1 else "are not in any pair"
    print(f"train     {splits.describe(arrays, singleton)}")
    for name, split in {"held out": validation, "test": test}.items():
        if split is not None:
            print(f"{name:9} {splits.describe(split)}")
    path = paths.pairs_figure(workdir)
    path.parent.mkdir(exist_ok=True)
    rows, table = training_rows(plan, arrays)
    if per_class > 2 and (left_out := len(np.unique(arrays.labels[rows])) - len(table.count)):
        print(f"left out  {left_out:,} classes with fewer than {per_class} images")
    num_pairs = min(plan.num_pairs, pairs.most_pairs(table, per_class))
    report.draw_batch(path, *first_images(plan.recipe, arrays, table, num_pairs, per_class), arrays.names)
    print(f"{'images' if per_class == 1 else 'pairs':9} {path}")
    splits.require_evaluable(test, validation, plan.recall_ks)
    pairs.require_classes(table, plan.num_pairs, per_class)


def first_images(
    recipe: Recipe, arrays: Arrays, table: pairs.ClassTable, num_pairs: int, images_per_class: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """The augmented images of the first step of training, and their classes (n,).

    Returns:
      (n, 2, side, side, 3) uint8, pairs; or (n, 1, side, side, 3), images of a shuffled epoch.
    """
    (batch,) = batches.generate(arrays, table, recipe.key, 0, 1, num_pairs, 1, images_per_class=images_per_class)
    batch = jax.tree.map(lambda x: x[0, :_PAIRS_DRAWN], batch)
    augmented = step.augment_batch(recipe, batch, step=0, first=0)
    images = np.rint(np.clip(augmented, 0, 255)).astype(np.uint8)
    return images.reshape(batch.labels.size, -1, *images.shape[2:]), batch.labels.reshape(-1)
