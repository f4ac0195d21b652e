"""Embeddings in two dimensions: the map of the test set, and the real and synthetic points of a few classes."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from symm_jax import similarity
from symm_jax import synthesis as syntheses

_FEWEST = 30  # points that t-SNE, with neighbourhoods of this order, has something to say about


class Map(NamedTuple):
    """places: (n, 2) float64; method: how they were found, in words."""

    places: np.ndarray
    method: str


class Points(NamedTuple):
    """Real and synthetic points of n classes.

    places: (n, points, 2) float32; the first two of a class are its anchor and positive.
    axis: (n, points - 2) int, 0 or 1: the real point nearest to each synthetic one.
    """

    places: np.ndarray
    axis: np.ndarray


def lay_out(embeddings: np.ndarray, seed: int = 0) -> Map:
    """Lays (n, dim) finite embeddings out in the plane, by their directions alone: near ones stay near."""
    unit = np.asarray(similarity.normalize(jax.numpy.asarray(embeddings, "float32")), np.float64)
    start = principal(unit)
    spread = start[:, 0].std()
    if len(unit) < _FEWEST or spread < 1e-6:
        return Map(start, "principal components")
    # Here, because it takes a second to import and evaluation alone does not need it.
    import sklearn.manifold
    import threadpoolctl

    perplexity = min(30.0, (len(unit) - 1) / 3)
    # The usual start: the principal plane, so small that the gradients alone decide distances.
    tsne = sklearn.manifold.TSNE(perplexity=perplexity, metric="cosine", init=start / spread * 1e-4, random_state=seed)
    with threadpoolctl.threadpool_limits(1):  # its threads spin while they wait: ten times slower on a busy machine
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
    anchor, positive = (similarity.normalize(jax.numpy.asarray(x)) for x in (anchor, positive))
    points = np.asarray(syntheses.points(synthesis(anchor, positive), anchor, positive))
    places = principal(points.reshape(-1, points.shape[-1])).reshape(*points.shape[:2], 2)
    distances = np.linalg.norm(points[:, 2:, None] - points[:, None, :2], axis=-1)
    return Points(places, distances.argmin(-1))
