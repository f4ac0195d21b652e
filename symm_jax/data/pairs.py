"""Samples the images of a batch: a pure function of (key, step), so that a resumed run gets the same batches.

There are two ways. With two or more images per class, a batch is pairs of images of one class. With one, it is the next
images of a shuffled epoch, two in a row, of any classes.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32

from symm_jax.errors import InputError

_STEPS = 128  # `sample_steps` computes multiples of this number of steps


class ClassTable(NamedTuple):
    """The images of each class that has enough of them: order[start[c] : start[c] + count[c]]."""

    order: np.ndarray
    start: np.ndarray
    count: np.ndarray  # pyright: ignore[reportIncompatibleMethodOverride]  hides tuple.count, which nobody calls


def hold_out(labels: np.ndarray, num_classes: int, seed: int = -1) -> tuple[np.ndarray, np.ndarray]:
    """Splits images by class into training images and validation images.

    Args:
      labels: (n,) integer.
      num_classes: number of validation classes.
      seed: seed with which the validation classes are drawn; -1 takes the last classes.

    Returns:
      Indices of the training images and of the validation images.

    Raises:
      InputError: fewer than two classes would be left for training.
    """
    classes = np.unique(labels)
    if num_classes and num_classes > len(classes) - 2:
        raise InputError(
            f"{num_classes}: the training set has {len(classes)} classes, and at least two must be left for training",
            argument="validation_classes",
        )
    if seed >= 0:
        classes = np.random.default_rng(seed).permutation(classes)
    held_out = np.isin(labels, classes[len(classes) - num_classes :])
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def class_table(labels: np.ndarray, rows: np.ndarray, images_per_class: int = 2) -> ClassTable:
    """Groups the images `rows` of (n,) labels by class. Classes with fewer images than `images_per_class` are left out.

    The original leaves out those with one image.
    """
    order = rows[np.argsort(labels[rows], kind="stable")].astype(np.int32)
    _, start, count = np.unique(labels[order], return_index=True, return_counts=True)
    keep = count >= images_per_class
    return ClassTable(order, start[keep].astype(np.int32), count[keep].astype(np.int32))


def number_classes(labels: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, int]:
    """Numbers the classes of the images `rows` of (n,) labels from 0, in their order.

    Returns:
      (n,) int32, -1 for images of other classes; and the number of classes.

    Example:
      >>> number_classes(np.array([7, 3, 9, 7]), np.array([0, 1]))
      (array([ 1,  0, -1,  1], dtype=int32), 2)
    """
    classes = np.unique(labels[rows])
    position = np.minimum(np.searchsorted(classes, labels), len(classes) - 1)
    return np.where(classes[position] == labels, position, -1).astype(np.int32), len(classes)


def most_pairs(table: ClassTable, images_per_class: int = 2) -> int:
    """The largest `num_pairs` of a batch."""
    return (len(table.order) if images_per_class == 1 else images_per_class * len(table.count)) // 2


def require_classes(table: ClassTable, num_pairs: int, images_per_class: int = 2) -> None:
    """Raises InputError when there are fewer images, or classes with `images_per_class` images, than a batch has."""
    most = most_pairs(table, images_per_class)
    if num_pairs <= most:
        return
    if images_per_class == 1:
        fact = f"{2 * num_pairs} images, and the training set has {len(table.order)}"
    else:
        fact = f"{2 * num_pairs} images need {2 * num_pairs // images_per_class} classes with {images_per_class} images"
        fact += f", and the training set has {len(table.count)}"
        if len(table.count) < 2:
            raise InputError(f"{fact}. Lower it.", argument="images_per_class")
    raise InputError(f"{fact}. Lower it to at most {2 * most}.", argument="batch_size")


def steps_per_epoch(table: ClassTable, num_pairs: int) -> int:
    """The batches of a shuffled epoch. Images that do not fill another batch are left out of the epoch."""
    return len(table.order) // (2 * num_pairs)


def sample(
    key: jax.Array, step: jax.typing.ArrayLike, table: ClassTable, num_pairs: int, images_per_class: int = 2
) -> Int32[Array, "{num_pairs} 2"]:
    """Draws classes without replacement, and different images of each; or takes the next images of a shuffled epoch.

    Step t is in epoch t // `steps_per_epoch`. Each epoch is another permutation of all images of the table.

    Args:
      key: typed PRNG key of the run.
      step: the step. It, or its epoch, is folded into the key.
      table: from `class_table`, with the same `images_per_class`.
      num_pairs: half the number of images in a batch.
      images_per_class: images of each class, even, and 2 * num_pairs is a multiple of it. 1: shuffled epochs.

    Returns:
      Indices of images: anchor, positive. The images of a class are in images_per_class / 2 rows one after the other.
      Of a shuffled epoch: the next 2 * num_pairs images, row by row.
    """
    if images_per_class == 1:
        epoch, batch = jnp.divmod(step, steps_per_epoch(table, num_pairs))
        shuffled = _shuffle(key, epoch, jnp.asarray(table.order))
        return jax.lax.dynamic_slice_in_dim(shuffled, 2 * num_pairs * batch, 2 * num_pairs).reshape(num_pairs, 2)
    order, start, count = (jnp.asarray(x) for x in table)
    class_key, first_key, other_key = jax.random.split(jax.random.fold_in(key, step), 3)
    num_classes = 2 * num_pairs // images_per_class
    classes = jax.random.permutation(class_key, len(start))[:num_classes]
    start, count = start[classes], count[classes]
    # int32 in every mode of JAX, so that the batches are the same with 64 bits enabled.
    first = jax.random.randint(first_key, (num_classes,), 0, count, jnp.int32)
    # A random distance from the first, below `count`, gives each of the count - 1 other images the same probability.
    distances = [jnp.zeros_like(first), *_distinct_distances(other_key, count, images_per_class - 1)]
    images = (first[:, None] + jnp.stack(distances, axis=1)) % count[:, None]
    return order[start[:, None] + images].reshape(num_pairs, 2)


def _distinct_distances(key: jax.Array, count: jax.Array, number: int) -> list[jax.Array]:
    """Draws `number` different integers from 1 to count - 1 for each class, in random order: (num_classes,) each."""
    drawn: list[jax.Array] = []
    for k in range(number):
        # One of the count - 1 - k integers that are left, by its position among them.
        one = jax.random.randint(jax.random.fold_in(key, k) if k else key, count.shape, 1, count - k, jnp.int32)
        for other in jnp.sort(jnp.stack(drawn), axis=0) if drawn else ():
            one += one >= other
        drawn.append(one)
    return drawn


def sample_steps(
    key: jax.Array, first_step: int, num_steps: int, table: ClassTable, num_pairs: int, images_per_class: int = 2
) -> Int32[np.ndarray, "{num_steps} {num_pairs} 2"]:
    """`sample` for steps first_step .. first_step + num_steps - 1. An epoch is shuffled once."""
    if images_per_class == 1:
        per_epoch = steps_per_epoch(table, num_pairs)
        first, last = first_step // per_epoch, (first_step + num_steps - 1) // per_epoch
        shuffled = (np.asarray(_shuffle(key, epoch, table.order)) for epoch in range(first, last + 1))
        rows = np.concatenate([x[: per_epoch * 2 * num_pairs] for x in shuffled]).reshape(-1, num_pairs, 2)
        return rows[first_step - first * per_epoch :][:num_steps]
    # Whole multiples of _STEPS, because each number of steps would be compiled again, which takes seconds.
    steps = first_step + np.arange(-(-num_steps // _STEPS) * _STEPS, dtype=np.int32)
    return np.asarray(_sample_each(key, steps, table, num_pairs, images_per_class))[:num_steps]


@functools.partial(jax.jit, static_argnames=("num_pairs", "images_per_class"))
def _sample_each(
    key: jax.Array, steps: jax.typing.ArrayLike, table: ClassTable, num_pairs: int, images_per_class: int
) -> jax.Array:
    return jax.vmap(lambda step: sample(key, step, table, num_pairs, images_per_class))(steps)


@jax.jit
def _shuffle(key: jax.Array, epoch: jax.typing.ArrayLike, order: jax.Array) -> jax.Array:
    """A permutation of the images `order`, another one in each epoch."""
    return jax.random.permutation(jax.random.fold_in(key, epoch), order)
