"""Retrieval metrics as pure functions of embeddings and labels, computed in blocks of rows."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from symm_jax.similarity import normalize, product


def recall_at_k(
    embeddings: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    ks: Sequence[int] = (1, 2, 4, 8),
    *,
    block_size: int = 1024,
) -> dict[int, float]:
    """Recall@k: the share of queries with an image of their own class among the k nearest others (cosine).

    Every image is a query against all others. No top-k is needed: a query is answered within k exactly when
    fewer than k images of other classes come before its best image of the same class, so one pass over the
    similarities serves every k. Memory is block_size x n.

    An image of another class that ties with the best of the same class counts as before it, so that embeddings
    collapsed to one point score 0, not 1. Images that are alone in their class are no queries, but stay in the
    gallery.

    Args:
      embeddings: (n, dim) floating, of any length (normalised here; a zero row is similar to nothing).
      labels: (n,) integer.
      ks: the k's, each >= 1.
      block_size: queries at a time.

    Returns:
      {k: share in [0, 1]}.

    Raises:
      ValueError: shapes do not fit, a k below 1, an embedding that is not finite, or no class with two images.

    Example:
      >>> import numpy as np
      >>> x = np.array([[1.0, 0.0], [0.9, 0.1], [0.8, 0.3], [0.0, 1.0]])
      >>> recall_at_k(x, np.array([0, 0, 1, 1]), ks=(1, 3))
      {1: 0.75, 3: 1.0}
    """
    embeddings, labels = np.asarray(embeddings), np.asarray(labels)
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise ValueError(f"embeddings must be (n, dim) and labels (n,), got {embeddings.shape} and {labels.shape}")
    if not np.isfinite(embeddings.astype(np.float32)).all():
        raise ValueError("embeddings hold NaN or infinity: the network that made them has diverged")
    if any(k < 1 for k in ks):
        raise ValueError(f"every k must be at least 1, got {tuple(ks)}")
    ahead = np.asarray(_negatives_ahead(embeddings, labels, min(block_size, len(labels))))
    ahead = ahead[ahead >= 0]
    if not len(ahead):
        raise ValueError("no class has two images, so there is no query")
    return {int(k): float(np.mean(ahead < k)) for k in ks}


@functools.partial(jax.jit, static_argnames="block_size")
def _negatives_ahead(embeddings: jax.Array, labels: jax.Array, block_size: int) -> jax.Array:
    """(n,) int32: how many of other classes are as near as the nearest of the same class; -1 when there is none."""
    n = len(labels)
    gallery = normalize(embeddings)

    def block(rows):
        # Rows past the end repeat the last one; their answers are cut off below.
        rows = jnp.minimum(rows, n - 1)
        similarity = product(gallery[rows], gallery)
        same = labels[rows, None] == labels[None, :]
        other = jnp.arange(n)[None, :] != rows[:, None]
        best = jnp.max(jnp.where(same & other, similarity, -jnp.inf), axis=1, keepdims=True)
        ahead = jnp.sum(~same & (similarity >= best), axis=1)
        return jnp.where(best[:, 0] > -jnp.inf, ahead, -1)

    blocks = -(-n // block_size)
    return jax.lax.map(block, jnp.arange(blocks * block_size).reshape(blocks, block_size)).reshape(-1)[:n]
