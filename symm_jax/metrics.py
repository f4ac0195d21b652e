"""Retrieval and clustering metrics: pure functions of embeddings and labels, in blocks of constant memory."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse
import sklearn.cluster

from symm_jax import ranking
from symm_jax.similarity import normalize


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


def clustering(embeddings: Any, labels: Any, *, seed: int = 0) -> dict[str, float]:
    """NMI and pairwise F1 of k-means with as many clusters as classes, on normalised embeddings.

    k-means is scikit-learn's: k-means++, one start, at most 100 rounds. Another seed or another number of threads
    moves the result a little.

    Args:
      embeddings: (n, dim) floating, finite.
      labels: (n,) integer.
      seed: of k-means++.

    Returns:
      {"nmi": ..., "f1": ...}, each in [0, 1].

    Raises:
      ValueError: as `recall_at_k`.
    """
    _check(embeddings, labels)
    points = np.asarray(normalize(np.asarray(embeddings, np.float32)))
    # Embeddings collapsed to fewer points than clusters make scikit-learn warn; the metrics say it better.
    distinct = len(np.unique(points, axis=0))
    means = sklearn.cluster.KMeans(min(len(np.unique(labels)), distinct), n_init=1, max_iter=100, random_state=seed)
    assignments = means.fit(points).labels_
    return {"nmi": normalized_mutual_information(labels, assignments), "f1": pairwise_f1(labels, assignments)}


def normalized_mutual_information(labels: Any, assignments: Any) -> float:
    """Mutual information of two partitions over the arithmetic mean of their entropies, in [0, 1].

    Args:
      labels: (n,) integer, n >= 1.
      assignments: (n,) integer, the cluster of each image.

    Returns:
      1 for equal partitions, also where both are one cluster.

    Example:
      >>> round(normalized_mutual_information([0, 0, 1, 1], [5, 5, 7, 6]), 4)
      0.8
    """
    joint = _contingency(labels, assignments)
    total = joint.sum()
    rows, columns = (np.asarray(joint.sum(axis)).ravel() / total for axis in (1, 0))
    share = joint.data / total
    information = np.sum(share * np.log(share / (rows[joint.row] * columns[joint.col])))
    entropies = sum(-np.sum(p * np.log(p)) for p in (rows, columns))
    return float(np.clip(2 * information / entropies, 0, 1)) if entropies > 0 else 1.0


def pairwise_f1(labels: Any, assignments: Any) -> float:
    """F1 of "these two images are of one class", answered by "they are in one cluster", over all pairs; in [0, 1].

    Args:
      labels: (n,) integer, n >= 1.
      assignments: (n,) integer, the cluster of each image.

    Returns:
      2 x pairs in both / (pairs in one class + pairs in one cluster); 1 when there is no pair in either.

    Example:
      >>> round(pairwise_f1([0, 0, 1, 1], [5, 5, 7, 6]), 4)
      0.6667
    """
    joint = _contingency(labels, assignments)

    def pairs(counts):
        return float(np.sum(counts * (counts - 1.0)) / 2)

    either = sum(pairs(np.asarray(joint.sum(axis)).ravel()) for axis in (0, 1))
    return 2 * pairs(joint.data) / either if either else 1.0


def _contingency(labels: Any, assignments: Any) -> scipy.sparse.coo_array:
    """Images by class (rows) and cluster (columns), float64, without zeros."""
    labels, assignments = np.asarray(labels), np.asarray(assignments)
    if labels.shape != assignments.shape or labels.ndim != 1 or not len(labels):
        raise ValueError(f"labels and assignments must be (n,) with n >= 1, got {labels.shape} and {assignments.shape}")
    rows, columns = (np.unique(x, return_inverse=True)[1] for x in (labels, assignments))
    table = scipy.sparse.coo_array((np.ones(len(rows)), (rows, columns)))
    table.sum_duplicates()
    return table


def _rank(embeddings, labels, gallery, gallery_labels, *, nearest_only: bool = False) -> ranking.Ranks:
    _check(embeddings, labels, "embeddings", "labels", one_class_will_do=gallery is not None)
    if gallery is None and gallery_labels is not None:
        raise ValueError("gallery_labels come without a gallery")
    if gallery is not None:
        _check(gallery, gallery_labels, "gallery", "gallery_labels")
        if np.shape(gallery)[1] != np.shape(embeddings)[1]:
            raise ValueError(
                f"embeddings have {np.shape(embeddings)[1]} dimensions, the gallery {np.shape(gallery)[1]}"
            )
    ranks = ranking.rank(embeddings, labels, gallery, gallery_labels, nearest_only=nearest_only)
    if not (ranks.positives > 0).any():
        raise ValueError("there is no query: no image has another of its class to find")
    return ranks


def _recall(ranks: ranking.Ranks, ks: Sequence[int]) -> dict[int, float]:
    ahead = ranks.nearest[ranks.positives > 0]
    return {int(k): float(np.mean(ahead < k)) for k in ks}


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values))  # NaN marks images that are no queries


def _check(
    embeddings: Any, labels: Any, name: str = "embeddings", labels_name: str = "labels", one_class_will_do: bool = False
) -> None:
    embeddings, labels = np.asarray(embeddings), np.asarray(labels)
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise ValueError(f"{name} must be (n, dim) and {labels_name} (n,), got {embeddings.shape} and {labels.shape}")
    bad = np.flatnonzero(~np.isfinite(embeddings.astype(np.float32)).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{len(bad):,} of {len(labels):,} {name} hold NaN or infinity, first number {bad[0]}: the network that "
            "made them has diverged"
        )
    if not one_class_will_do and len(np.unique(labels)) < 2:
        raise ValueError(f"{labels_name} hold fewer than two classes: there is nothing to tell apart")


def _check_ks(ks: Sequence[int], others: int) -> None:
    if not isinstance(ks, Sequence):
        raise ValueError(f"ks must be a sequence of whole numbers such as (1, 2, 4, 8), got {ks!r}")
    for k in ks:
        if k != int(k) or not 1 <= k <= others:
            raise ValueError(
                f"k = {k}: a query is compared with {others:,} images, so k is a whole number from 1 to {others:,}"
            )
