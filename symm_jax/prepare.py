"""--mode=prepare: fetches what a config needs, builds and decodes it, and draws what training will see."""

from pathlib import Path

import jax
import ml_collections
import numpy as np

from symm_jax import evaluate, images, models, report, train, workdirs
from symm_jax.data import datasets, download, pairs, sources
from symm_jax.data.arrays import Arrays
from symm_jax.errors import InputError

_PAIRS_DRAWN = 24


def prepare(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Makes everything ready for training: data set, decoded arrays, weights; prints counts, draws augmented pairs.

    The sheet of pairs, WORKDIR/figures/pairs.png, shows the first batch of training as the network will see it.

    Raises:
      InputError: something cannot be fetched, is damaged, or is of no use to training with this config.
    """
    recipe = train.create_recipe(config)  # what is wrong with the config is said before anything is fetched
    workdirs.create(workdir)
    datasets.fetch(config.data)
    arrays = images.load_train(config)
    validation, test = images.load_validation(config), images.load_test(config)
    print(f"train     {evaluate.describe(arrays, 'make no pair')}")
    for split, decoded in {"held out": validation, "test": test}.items():
        if decoded is not None:
            print(f"{split:9} {evaluate.describe(decoded)}")
    path = workdir / "figures" / "pairs.png"
    path.parent.mkdir(exist_ok=True)
    rows, _ = pairs.hold_out(arrays.labels, config.data.validation_classes)
    table = pairs.class_table(arrays.labels, rows)
    num_pairs = config.batch_size // 2
    report.draw_pairs(path, *first_pairs(recipe, arrays, table, min(num_pairs, len(table.count))))
    print(f"pairs     {path}")
    fetch_weights(config.model)
    images.require_answers(config, test, validation)
    pairs.require_classes(table, num_pairs)


def first_pairs(
    recipe: train.Recipe, arrays: Arrays, table: pairs.ClassTable, num_pairs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Augmented pairs (n, 2, side, side, 3) uint8 and labels (n,) of the first step of training."""
    (batch,) = train.batches(arrays, table, recipe.key, 0, 1, num_pairs, 1)
    batch = jax.tree.map(lambda x: x[0, :_PAIRS_DRAWN], batch)
    augmented = train.augment_batch(recipe, batch, step=0, first=0)
    return np.rint(np.clip(augmented, 0, 255)).astype(np.uint8), batch.labels


def fetch_weights(model: ml_collections.ConfigDict) -> None:
    """Downloads the pretrained weights of `config.model` to where it expects them, unless they are there.

    Raises:
      InputError: they cannot be fetched, or `pretrained` is not called like what could be, or is a package that is
        not installed.
    """
    if model.pretrained == models.PACKAGE:
        models.packaged(model.name)
        return
    path = Path(model.pretrained).expanduser().resolve()
    if not model.pretrained or path.exists():
        return
    field = "config.model.mirrors"
    remotes = sources.remotes(model.name, model.mirrors, field=field)
    if len(remotes) == 1 and (model.mirrors or path.name == remotes[0].name):
        (known,) = sources.remotes(model.name) or remotes
        try:
            download.fetch(known._replace(name=path.name, urls=remotes[0].urls), path.parent, field=field)
        except InputError as error:
            raise InputError(f"{error}; or {models.FROM_SCRATCH}") from error
    else:
        raise InputError(
            f"config.model.pretrained: there is no file {path}, and nothing of that name to download; "
            f"{models.FROM_SCRATCH}"
        )
