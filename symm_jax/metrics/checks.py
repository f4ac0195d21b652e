"""Types and checks of embeddings and labels, for all metrics."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from symm_jax import dtypes

Embeddings = Float[Array | np.ndarray, "n dim"]
Labels = Integer[Array | np.ndarray, " n"] | Sequence[int]
Gallery = Float[Array | np.ndarray, "m dim"]
GalleryLabels = Integer[Array | np.ndarray, " m"] | Sequence[int]


def require_labelled(
    embeddings: Any,
    labels: Any,
    name: str = "embeddings",
    labels_name: str = "labels",
    one_class_suffices: bool = False,
) -> None:
    """Raises ValueError unless embeddings (n, dim) are finite, and labels (n,) are integers of two classes or more.

    Args:
      embeddings: (n, dim) floating.
      labels: (n,) integer.
      name: what the embeddings are called in messages.
      labels_name: what the labels are called in messages.
      one_class_suffices: accept labels of one class.
    """
    embeddings, labels = np.asarray(embeddings), dtypes.to_labels(labels, labels_name)
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise ValueError(f"{name} must be (n, dim) and {labels_name} (n,), got {embeddings.shape} and {labels.shape}")
    if not jnp.issubdtype(embeddings.dtype, jnp.floating):
        raise ValueError(
            f"{name} must be floating, got {embeddings.dtype}; convert them, such as with astype('float32')"
        )
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{len(bad):,} of {len(labels):,} {name} contain NaN or infinity, the first is number {bad[0]}: the "
            "network that made them has diverged, or its float16 has overflowed"
        )
    dtypes.require_float32_range(embeddings, name)
    if not one_class_suffices and len(np.unique(labels)) < 2:
        raise ValueError(f"{labels_name} contain fewer than two classes, so there are no negatives")
