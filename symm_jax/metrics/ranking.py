"""The ranks of the positives of each query. Every retrieval metric follows from them.

A positive is a gallery image of the query's class; a negative is one of another class. Where classes are small, the
negatives before each positive are counted (counting.py). Where they are large, the nearest images are sorted
(sorting.py). The ranks are the same. Both work on tiles of the similarity matrix (tiles.py).

Each device holds all embeddings (n x dim x 4 bytes: 124 MB for the 60,502 x 512 of Stanford Online Products) and the
similarities of a block of queries: on a CPU to the largest class, elsewhere to the whole gallery; to sort, twice to the
whole gallery. Its other memory is constant.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float32, Int32, Integer

from symm_jax import dtypes
from symm_jax.metrics import counting, sorting, tiles
from symm_jax.metrics.checks import Embeddings, Gallery, GalleryLabels, Labels
from symm_jax.similarity import product

_MOST_COUNTED = 16  # positives of a query. With more of them, a sort takes less time than counting.


class Ranks(NamedTuple):
    """The ranks of the positives of n queries: numpy arrays (n,), in the order of the queries.

    positives: int32, R: the number of gallery images of the query's class, without the query itself.
    negatives_ahead: int32, the number of negatives that rank before the nearest positive; -1 if R is 0.
    r_precision: float64, the fraction of positives among the first R images; NaN if R is 0.
    average_precision: float64, the mean of the precision over the first R ranks, where the precision is 0 at the rank
      of a negative; NaN if R is 0.
    """

    positives: np.ndarray
    negatives_ahead: np.ndarray
    r_precision: np.ndarray
    average_precision: np.ndarray


def rank(
    queries: Embeddings,
    query_labels: Labels,
    gallery: Gallery | None = None,
    gallery_labels: GalleryLabels | None = None,
    *,
    nearest_only: bool = False,
    block_size: int | None = None,
) -> Ranks:
    """Ranks the positives of every query among the gallery by cosine.

    A negative that ties with a positive, to within tiles.TIE, ranks before the positive.

    Args:
      queries: (n, dim) floating, finite, of any norm.
      query_labels: (n,) integer.
      gallery: (m, dim) floating, finite. None: the queries are the gallery, and no query finds itself.
      gallery_labels: (m,) integer.
      nearest_only: count for the nearest positive only, which is faster. The precisions are then NaN.
      block_size: number of queries and of gallery images in a tile. None: what suits the platform.

    Returns:
      Ranks, in the order of the queries.
    """
    symmetric = gallery is None
    side, other = _sort_by_class(query_labels, query_labels if symmetric else gallery_labels)
    num_positives = np.bincount(other.labels, minlength=side.labels.max() + 1)[side.labels] - int(symmetric)
    grid = tiles.create_grid(queries, side, None if symmetric else gallery, other, block_size)
    n, block = len(num_positives), grid.block
    most = np.pad(num_positives, (0, -n % block)).reshape(-1, block).max(axis=1)  # of each tile; they rise
    if nearest_only:
        most = np.minimum(most, 1)
    counted = int(np.sum(most <= _MOST_COUNTED))
    parts = []
    if counted:
        parts.append(counting.count(grid, num_positives[: counted * block], most[:counted]))
    if counted < len(most):
        parts.append(sorting.sort(grid, num_positives[counted * block :], counted))
    ahead, hits, precision = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    negatives_ahead = np.where(num_positives > 0, ahead, -1)
    known = np.where((num_positives > 0) & (not nearest_only), num_positives, np.nan)
    original_order = np.argsort(side.order)
    columns = num_positives.astype(np.int32), negatives_ahead.astype(np.int32), hits / known, precision / known
    return Ranks(*(column[original_order] for column in columns))


def find_neighbours(
    embeddings: Embeddings,
    rows: Integer[np.ndarray, " q"],
    k: int,
    *,
    among: Bool[np.ndarray, " n"] | None = None,
    block_size: int = 256,
) -> tuple[Int32[np.ndarray, "q k"], Float32[np.ndarray, "q k"]]:
    """Finds the k nearest other images of the images `rows`, by cosine, nearest first.

    Args:
      embeddings: (n, dim) floating, finite, of any norm.
      rows: (q,) integer, the images that are queries.
      k: number of neighbours. If fewer other images are possible neighbours, k is reduced to their number.
      among: (n,) bool, the possible neighbours. None: all images.
      block_size: number of queries in a block.

    Returns:
      (q, k) int32 images and (q, k) float32 cosines.
    """
    gallery = jnp.asarray(tiles.unit_rows(embeddings))
    rows = np.asarray(rows)
    among = np.ones(len(gallery), bool) if among is None else np.asarray(among)
    k = min(k, int(among.sum()) - int(among[rows].any()))
    if not len(rows):
        return np.empty((0, k), np.int32), np.empty((0, k), np.float32)
    find = functools.partial(_neighbours, k=k)
    found = [find(gallery, among, rows[start : start + block_size]) for start in range(0, len(rows), block_size)]
    images, cosines = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return images, cosines


@functools.partial(jax.jit, static_argnames="k")
def _neighbours(gallery, among, rows, k):
    similarity = jnp.where(among[None, :], product(gallery[rows], gallery), -jnp.inf)
    similarity = similarity.at[jnp.arange(len(rows)), rows].set(-jnp.inf)
    cosines, images = jax.lax.top_k(similarity, k)
    return images, cosines


def _sort_by_class(query_labels: Any, gallery_labels: Any) -> tuple[tiles.Side, tiles.Side]:
    """Sorts queries and gallery by class, the smallest classes first: the classes of a tile then have similar sizes."""
    query_labels, gallery_labels = dtypes.to_labels(query_labels), dtypes.to_labels(gallery_labels, "gallery_labels")
    classes, codes = np.unique(np.concatenate([gallery_labels, query_labels]), return_inverse=True)
    sizes = np.bincount(codes[: len(gallery_labels)], minlength=len(classes))
    numbers = np.empty(len(classes), np.int32)
    numbers[np.argsort(sizes, kind="stable")] = np.arange(len(classes))

    def sort(codes):
        order = np.argsort(numbers[codes], kind="stable")
        return tiles.Side(order, numbers[codes][order])

    return sort(codes[len(gallery_labels) :]), sort(codes[: len(gallery_labels)])
