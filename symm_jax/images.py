"""The decoded images that a config trains on, is tested on, and chooses a checkpoint on."""

import hashlib

import ml_collections
import numpy as np

from symm_jax.data import augment, datasets
from symm_jax.data.arrays import Arrays
from symm_jax.errors import InputError


def load_train(config: ml_collections.ConfigDict) -> Arrays:
    """The decoded training images of a config's data set."""
    a = config.augment
    side = augment.stored_side(config.data.image_size, enlarge=a.enlarge, max_margin=a.max_margin)
    return datasets.load(config.data, "train", side)


def load_test(config: ml_collections.ConfigDict) -> Arrays:
    """The decoded test images of a config's data set, at the size that the network sees."""
    return datasets.load(config.data, "test", config.data.image_size)


def load_validation(config: ml_collections.ConfigDict) -> Arrays | None:
    """Likewise, the images of the training classes held out to choose a checkpoint on; None when there are none."""
    return datasets.load(config.data, "validation", config.data.image_size) if config.data.validation_classes else None


def load_evaluation(config: ml_collections.ConfigDict) -> tuple[Arrays, Arrays | None]:
    """The test images and those held out of training, if any.

    Raises:
      InputError: there is nothing to tell apart among them, or a k of recall_ks is too large.
    """
    test, validation = load_test(config), load_validation(config)
    require_answers(config, test, validation)
    return test, validation


def require_answers(config: ml_collections.ConfigDict, test: Arrays, validation: Arrays | None) -> None:
    """Raises InputError when there is nothing to tell apart in a split, or a k of recall_ks is too large."""
    for name, split in {"test": test, "validation": validation}.items():
        if split is not None:
            _require_answers(name, split)
    others = len(test.labels) - 1 if test.query is None else int(np.sum(~test.query))
    if max(config.recall_ks) > others:
        raise InputError(
            f"config.recall_ks = {tuple(config.recall_ks)}: a test image has {others:,} others to be compared with; "
            "lower the largest k"
        )


def fingerprints(split: str, arrays: Arrays) -> dict[str, str]:
    """What tells a split from another: its counts, classes and shapes, and the images themselves."""
    digest = hashlib.sha256(arrays.labels.tobytes() + arrays.shorter.tobytes()).hexdigest()
    found = {
        f"{split} split": f"{len(arrays.labels):,} images of {len(np.unique(arrays.labels)):,} classes ({digest[:12]})"
    }
    if arrays.digests is not None:
        found[f"{split} images' digest"] = hashlib.sha256(arrays.digests.tobytes()).hexdigest()[:12]
    return found


def _require_answers(name: str, split: Arrays) -> None:
    counts = np.unique(split.labels, return_counts=True)[1]
    if len(counts) < 2 or counts.max() < 2:
        raise InputError(
            f"the {name} split has {len(split.labels)} images of {len(counts)} classes; evaluation needs two classes, "
            "and a class with two images"
        )
    if split.query is not None and not np.isin(split.labels[split.query], split.labels[~split.query]).any():
        raise InputError(f"the {name} split has no query whose class is in its gallery")
