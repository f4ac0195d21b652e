"""Retrieval metrics: pure functions of embeddings and labels."""

import numbers
from collections.abc import Sequence

import numpy as np

from symm_jax.metrics import ranking
from symm_jax.metrics.checks import Embeddings, Gallery, GalleryLabels, Labels, require_labelled


def recall_at_k(
    embeddings: Embeddings,
    labels: Labels,
    ks: Sequence[int] = (1, 2, 4, 8),
    *,
    gallery: Gallery | None = None,
    gallery_labels: GalleryLabels | None = None,
) -> dict[int, float]:
    """Recall@k: the fraction of queries with an image of their class among the k nearest images, by cosine.

    Without `gallery`, every image is a query and is compared with all other images. With `gallery`, every image is
    compared with the gallery (In-Shop's protocol).

    A negative that ties with the nearest positive, to within 1.2e-7, ranks before it. Embeddings that collapse to one
    point therefore score 0, not 1. An image with no other image of its class to find is not used as a query. It stays
    in the gallery.

    Args:
      embeddings: (n, dim) floating, of any norm. They are normalised here, in float64, and rounded to float32; a zero
        row has similarity 0 to all images.
      labels: (n,) integer, of up to 64 bits.
      ks: the values of k, each from 1 to the number of images that a query is compared with.
      gallery: (m, dim) floating, or None.
      gallery_labels: (m,) integer, with `gallery`.

    Returns:
      {k: fraction in [0, 1]}.

    Raises:
      ValueError: a shape or dtype is wrong, a k is out of range, an embedding is not finite or beyond float32, there
        are fewer than two classes, or there is no query.

    Example:
      >>> import numpy as np
      >>> x = np.array([[1.0, 0.0], [0.9, 0.1], [0.8, 0.3], [0.0, 1.0]])
      >>> recall_at_k(x, np.array([0, 0, 1, 1]), ks=(1, 3))
      {1: 0.75, 3: 1.0}
    """
    _check_ks(ks, len(embeddings) - 1 if gallery is None else len(gallery))
    ranks = _rank(embeddings, labels, gallery, gallery_labels, nearest_only=True)
    return _recall(ranks, ks)


def map_at_r(
    embeddings: Embeddings,
    labels: Labels,
    *,
    gallery: Gallery | None = None,
    gallery_labels: GalleryLabels | None = None,
) -> float:
    """MAP@R (Musgrave et al., A Metric Learning Reality Check, 2020, section 3.3), in [0, 1].

    For a query with R positives, the mean of P(i) over the ranks i = 1 to R. P(i) is the precision of the first i
    images if image i is a positive, and 0 otherwise. The result is the mean over the queries. Arguments, ties, queries
    and errors are those of `recall_at_k`.

    Example:
      >>> import numpy as np
      >>> x = np.array([[1.0, 0.0], [0.9, 0.1], [0.8, 0.3], [0.0, 1.0]])
      >>> map_at_r(x, np.array([0, 0, 1, 1]))
      0.75
    """
    return _mean(_rank(embeddings, labels, gallery, gallery_labels).average_precision)


def r_precision(
    embeddings: Embeddings,
    labels: Labels,
    *,
    gallery: Gallery | None = None,
    gallery_labels: GalleryLabels | None = None,
) -> float:
    """R-precision: the fraction of positives among the first R images of a query with R positives, in [0, 1].

    The result is the mean over the queries. Arguments, ties, queries and errors are those of `recall_at_k`.
    """
    return _mean(_rank(embeddings, labels, gallery, gallery_labels).r_precision)


def retrieval(
    embeddings: Embeddings,
    labels: Labels,
    ks: Sequence[int] = (1, 2, 4, 8),
    *,
    gallery: Gallery | None = None,
    gallery_labels: GalleryLabels | None = None,
) -> dict[str, float]:
    """Computes Recall@k, MAP@R and R-precision in one pass.

    Arguments and errors are those of `recall_at_k`.

    Returns:
      {"recall@K": ..., "map@r": ..., "r_precision": ...}, with one "recall@K" per k; each in [0, 1].
    """
    _check_ks(ks, len(embeddings) - 1 if gallery is None else len(gallery))
    ranks = _rank(embeddings, labels, gallery, gallery_labels)
    recall = {f"recall@{k}": share for k, share in _recall(ranks, ks).items()}
    return recall | {"map@r": _mean(ranks.average_precision), "r_precision": _mean(ranks.r_precision)}


def _rank(embeddings, labels, gallery, gallery_labels, *, nearest_only: bool = False) -> ranking.Ranks:
    require_labelled(embeddings, labels, "embeddings", "labels", one_class_suffices=gallery is not None)
    if not len(embeddings):
        raise ValueError("there is no query: embeddings are empty")
    if gallery is None and gallery_labels is not None:
        raise ValueError("gallery_labels need a gallery; got gallery_labels without a gallery")
    if gallery is not None:
        require_labelled(gallery, gallery_labels, "gallery", "gallery_labels")
        if np.shape(gallery)[1] != np.shape(embeddings)[1]:
            raise ValueError(
                f"embeddings have {np.shape(embeddings)[1]} dimensions, the gallery {np.shape(gallery)[1]}"
            )
    ranks = ranking.rank(embeddings, labels, gallery, gallery_labels, nearest_only=nearest_only)
    if not (ranks.positives > 0).any():
        raise ValueError("there is no query: no image has another image of its class to find")
    return ranks


def _recall(ranks: ranking.Ranks, ks: Sequence[int]) -> dict[int, float]:
    ahead = ranks.negatives_ahead[ranks.positives > 0]
    return {int(k): float(np.mean(ahead < k)) for k in ks}


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values))  # NaN: the image is not a query


def _check_ks(ks: Sequence[int], others: int) -> None:
    if not isinstance(ks, Sequence):
        raise ValueError(f"ks must be a sequence of integers such as (1, 2, 4, 8), got {ks!r}")
    for k in ks:
        if not (isinstance(k, numbers.Real) and 1 <= k <= others and k == int(k)):
            raise ValueError(
                f"k = {k}: a query is compared with {others:,} images, so k must be an integer from 1 to {others:,}"
            )
