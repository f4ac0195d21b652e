"""Embeddings in two dimensions: the map of the test set, and the real and synthetic points of a few classes."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from symm_jax import similarity
from symm_jax import synthesis as syntheses

_FEWEST = 30  # points for t-SNE, whose neighbourhoods are of this size


class Map(NamedTuple):
    """positions: (n, 2) float64; method: how they were computed, in words."""

    positions: np.ndarray
    method: str


class Points(NamedTuple):
    """Real and synthetic points of n classes.

    positions: (n, points, 2) float32; the first two of a class are its anchor and positive.
    axis: (n, points - 2) int, 0 or 1: the real point nearest to each synthetic one.
    """

    positions: np.ndarray
    axis: np.ndarray


def lay_out(embeddings: np.ndarray, seed: int = 0) -> Map:
    """Lays out (n, dim) finite embeddings in the plane by their directions: near ones stay near."""
    unit = np.asarray(similarity.normalize(jax.numpy.asarray(embeddings, "float32")), np.float64)
    start = principal(unit)
    spread = start[:, 0].std()
    if len(unit) < _FEWEST or spread < 1e-6:
        return Map(start, "principal components")
    # Imported here: it takes a second.
    import sklearn.manifold
    import threadpoolctl

    perplexity = min(30.0, (len(unit) - 1) / 3)
    # The usual start is the principal plane, scaled so small that the gradients decide the distances.
    tsne = sklearn.manifold.TSNE(perplexity=perplexity, metric="cosine", init=start / spread * 1e-4, random_state=seed)
    with threadpoolctl.threadpool_limits(1):  # its waiting threads make it ten times slower on a busy machine
        return Map(tsne.fit_transform(unit.astype(np.float32)).astype(np.float64), "t-SNE")


def principal(x: np.ndarray) -> np.ndarray:
    """(n, dim) -> (n, 2): the first two principal components, zeros where there are fewer."""
    centred = x - x.mean(0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:2]
    plane = centred @ axes.T
    return np.pad(plane, ((0, 0), (0, 2 - plane.shape[1])))


def synthesise(anchor: np.ndarray, positive: np.ndarray, synthesis: Callable) -> Points:
    """The normalised points of each pair and the synthetic ones made of them, on their first two components.

    Args:
      anchor: (n, dim) embeddings, one of each of n classes.
      positive: (n, dim), of the same classes.
      synthesis: (anchor, positive) -> coefficients (n, points, 2).
    """
    a, p = (similarity.normalize(jax.numpy.asarray(x)) for x in (anchor, positive))
    points = np.asarray(syntheses.points(synthesis(a, p), a, p))
    positions = principal(points.reshape(-1, points.shape[-1])).reshape(*points.shape[:2], 2)
    distances = np.linalg.norm(points[:, 2:, None] - points[:, None, :2], axis=-1)
    return Points(positions, distances.argmin(-1))
