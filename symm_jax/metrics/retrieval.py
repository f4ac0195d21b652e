"""Retrieval metrics: pure functions of embeddings and labels."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from symm_jax.metrics import ranking
from symm_jax.metrics.checks import require_labelled


def recall_at_k(
    embeddings: Any,
    labels: Any,
    ks: Sequence[int] = (1, 2, 4, 8),
    *,
    gallery: Any = None,
    gallery_labels: Any = None,
) -> dict[int, float]:
    """Recall@k: the share of queries with an image of their own class among the k nearest (cosine).

    Without `gallery` every image is a query against all others; with it, against the gallery (In-Shop's protocol).

    An image of another class that ties with the best of the same class, to within 1.2e-7, counts as before it, so
    that embeddings collapsed to one point score 0, not 1. Images without another of their class to find are no
    queries, but stay in the gallery.

    Args:
      embeddings: (n, dim) floating, of any length (normalised here; a zero row is similar to nothing).
      labels: (n,) integer.
      ks: the k's, each from 1 to the number of images that a query is compared with.
      gallery: (m, dim) floating, or None.
      gallery_labels: (m,) integer, with `gallery`.

    Returns:
      {k: share in [0, 1]}.

    Raises:
      ValueError: shapes do not fit, a k out of range, an embedding that is not finite, fewer than two classes, or
        no query.

    Example:
      >>> import numpy as np
      >>> x = np.array([[1.0, 0.0], [0.9, 0.1], [0.8, 0.3], [0.0, 1.0]])
      >>> recall_at_k(x, np.array([0, 0, 1, 1]), ks=(1, 3))
      {1: 0.75, 3: 1.0}
    """
    _check_ks(ks, len(embeddings) - 1 if gallery is None else len(gallery))
    ranks = _rank(embeddings, labels, gallery, gallery_labels, nearest_only=True)
    return _recall(ranks, ks)


def map_at_r(embeddings: Any, labels: Any, *, gallery: Any = None, gallery_labels: Any = None) -> float:
    """MAP@R (Musgrave et al., A Metric Learning Reality Check, 2020, section 3.3), in [0, 1].

    For a query with R positives, the mean over the first R places of the precision up to a place, 0 where the
    image there is of another class. Arguments, ties, queries and errors are those of `recall_at_k`.
    """
    return _mean(_rank(embeddings, labels, gallery, gallery_labels).average_precision)


def r_precision(embeddings: Any, labels: Any, *, gallery: Any = None, gallery_labels: Any = None) -> float:
    """R-precision: for a query with R positives, their share of the first R places; see `map_at_r`."""
    return _mean(_rank(embeddings, labels, gallery, gallery_labels).r_precision)


def retrieval(
    embeddings: Any,
    labels: Any,
    ks: Sequence[int] = (1, 2, 4, 8),
    *,
    gallery: Any = None,
    gallery_labels: Any = None,
) -> dict[str, float]:
    """Recall@k, MAP@R and R-precision in one pass, see there: {"recall@1": ..., "map@r": ..., "r_precision": ...}."""
    _check_ks(ks, len(embeddings) - 1 if gallery is None else len(gallery))
    ranks = _rank(embeddings, labels, gallery, gallery_labels)
    recall = {f"recall@{k}": share for k, share in _recall(ranks, ks).items()}
    return recall | {"map@r": _mean(ranks.average_precision), "r_precision": _mean(ranks.r_precision)}


def _rank(embeddings, labels, gallery, gallery_labels, *, nearest_only: bool = False) -> ranking.Ranks:
    require_labelled(embeddings, labels, "embeddings", "labels", one_class_suffices=gallery is not None)
    if gallery is None and gallery_labels is not None:
        raise ValueError("gallery_labels come without a gallery")
    if gallery is not None:
        require_labelled(gallery, gallery_labels, "gallery", "gallery_labels")
        if np.shape(gallery)[1] != np.shape(embeddings)[1]:
            raise ValueError(
                f"embeddings have {np.shape(embeddings)[1]} dimensions, the gallery {np.shape(gallery)[1]}"
            )
    ranks = ranking.rank(embeddings, labels, gallery, gallery_labels, nearest_only=nearest_only)
    if not (ranks.positives > 0).any():
        raise ValueError("there is no query: no image has another of its class to find")
    return ranks


def _recall(ranks: ranking.Ranks, ks: Sequence[int]) -> dict[int, float]:
    ahead = ranks.negatives_ahead[ranks.positives > 0]
    return {int(k): float(np.mean(ahead < k)) for k in ks}


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values))  # NaN marks images that are no queries


def _check_ks(ks: Sequence[int], others: int) -> None:
    if not isinstance(ks, Sequence):
        raise ValueError(f"ks must be a sequence of whole numbers such as (1, 2, 4, 8), got {ks!r}")
    for k in ks:
        if k != int(k) or not 1 <= k <= others:
            raise ValueError(
                f"k = {k}: a query is compared with {others:,} images, so k is a whole number from 1 to {others:,}"
            )
