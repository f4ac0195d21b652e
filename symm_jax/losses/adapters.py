"""Batch losses take images, and pair losses take anchors and positives: one kind for what calls both."""

import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from symm_jax import dtypes


def takes_batch(function: Callable) -> bool:
    """Whether a loss takes (embeddings, labels), as batch losses do, and not (anchor, positive, labels)."""
    parameters = inspect.signature(function).parameters.values()
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters) == 2


def on_pairs(function: Callable) -> Callable:
    """Turns a batch loss into one of (anchor, positive, labels), with the same options.

    With a synthesis of points, the batch loss gets the pairs, (n, 2, dim) and labels (n,). Otherwise it gets their
    images, see `take_images`.
    """

    def loss(anchor, positive, labels, *, synthesis=None, **options):
        if synthesis is not None:
            options["synthesis"] = synthesis
        if callable(synthesis):
            return function(jnp.stack([anchor, positive], axis=1), labels, **options)
        return function(*take_images(anchor, positive, labels), **options)

    return loss


def take_images(anchor: ArrayLike, positive: ArrayLike, labels: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """The images of n rows in turn: the first anchor, the first positive, the second anchor, and so on.

    Args:
      anchor: (n, dim).
      positive: (n, dim).
      labels: (n,) for pairs of one class, or (n, 2) for images of any classes.

    Returns:
      Embeddings (2 n, dim) and labels (2 n,).
    """
    labels = dtypes.to_device(labels, "labels")
    labels = labels.reshape(-1) if labels.ndim == 2 else jnp.repeat(labels, 2)
    return jnp.stack([anchor, positive], axis=1).reshape(len(labels), -1), labels
