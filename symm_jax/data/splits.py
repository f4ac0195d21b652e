"""Describes, checks and fingerprints the decoded splits of a data set."""

import hashlib
from collections.abc import Sequence

import numpy as np

from symm_jax.data import datasets
from symm_jax.data.arrays import Arrays
from symm_jax.errors import InputError


def load_evaluation(source: datasets.Source, image_size: int, ks: Sequence[int]) -> tuple[Arrays, Arrays | None]:
    """The test images and the validation images, at the size that the network sees.

    Args:
      source: the data set.
      image_size: side in pixels.
      ks: the numbers of neighbours to be measured.

    Returns:
      The test images, and the images of held-out training classes; None if no class is held out.

    Raises:
      InputError: a split cannot be evaluated, or the largest of `ks` is too large.
    """
    test = datasets.load(source, "test", image_size)
    validation = datasets.load(source, "validation", image_size) if source.validation_classes else None
    require_evaluable(test, validation, ks)
    return test, validation


def require_evaluable(test: Arrays, validation: Arrays | None, ks: Sequence[int]) -> None:
    """Raises InputError when retrieval cannot be measured on a split, or the largest of `ks` is too large."""
    for name, split in {"test": test, "validation": validation}.items():
        if split is not None:
            _require_positives(name, split)
    others = len(test.labels) - 1 if test.query is None else int(np.sum(~test.query))
    if max(ks) > others:
        raise InputError(
            f"{tuple(ks)}: a test image can be compared with only {others:,} others. Lower the largest k.",
            argument="recall_ks",
        )


def describe(arrays: Arrays, singleton: str = "are not used as queries") -> str:
    """The numbers of images, classes and queries of a split, as a sentence.

    Args:
      arrays: the split.
      singleton: what happens to images of singleton classes, the end of the sentence.
    """
    classes, counts = np.unique(arrays.labels, return_counts=True)
    words = f"{len(arrays.labels):,} images of {len(classes):,} classes"
    if arrays.query is not None:
        return f"{words}: {arrays.query.sum():,} queries, {np.sum(~arrays.query):,} in the gallery"
    return words + (f"; {np.sum(counts == 1):,} alone in their class {singleton}" if counts.min() == 1 else "")


def fingerprint(split: str, arrays: Arrays) -> dict[str, str]:
    """Short descriptions that change when the counts, labels, shapes or images of a split change."""
    digest = hashlib.sha256(arrays.labels.tobytes() + arrays.short_side_ratio.tobytes()).hexdigest()
    found = {
        f"{split} split": f"{len(arrays.labels):,} images of {len(np.unique(arrays.labels)):,} classes ({digest[:12]})"
    }
    if arrays.digests is not None:
        found[f"{split} images' digest"] = hashlib.sha256(arrays.digests.tobytes()).hexdigest()[:12]
    return found


def _require_positives(name: str, split: Arrays) -> None:
    counts = np.unique(split.labels, return_counts=True)[1]
    if len(counts) < 2 or counts.max() < 2:
        raise InputError(
            f"the {name} split has {len(split.labels)} images of {len(counts)} classes, and evaluation needs two "
            "classes, and one class with two images. Add pictures to the data folder.",
            argument="dir",
        )
    if split.query is not None and not np.isin(split.labels[split.query], split.labels[~split.query]).any():
        raise InputError(
            f"the {name} split has no query whose class is in its gallery. Check the data folder for missing files.",
            argument="dir",
        )
