"""Clustering metrics: k-means on embeddings, compared with the classes."""

from typing import Any

import numpy as np
import sklearn.cluster
import sklearn.metrics
import sklearn.metrics.cluster

from symm_jax.metrics.checks import require_labelled
from symm_jax.similarity import normalize


def clustering(embeddings: Any, labels: Any, *, seed: int = 0) -> dict[str, float]:
    """NMI and pairwise F1 of k-means with one cluster per class, on normalised embeddings.

    k-means is scikit-learn's: k-means++, one start, at most 100 iterations. Another seed or another number of threads
    changes the result a little.

    Args:
      embeddings: (n, dim) floating, finite.
      labels: (n,) integer.
      seed: seed of k-means++.

    Returns:
      {"nmi": ..., "f1": ...}, each in [0, 1].

    Raises:
      ValueError: as `recall_at_k`.
    """
    require_labelled(embeddings, labels)
    points = np.asarray(normalize(np.asarray(embeddings, np.float32)))
    # scikit-learn warns where there are fewer distinct points than clusters. The metrics show it.
    distinct = len(np.unique(points, axis=0))
    means = sklearn.cluster.KMeans(min(len(np.unique(labels)), distinct), n_init=1, max_iter=100, random_state=seed)
    assignments = means.fit(points).labels_
    return {"nmi": normalized_mutual_information(labels, assignments), "f1": pairwise_f1(labels, assignments)}


def normalized_mutual_information(labels: Any, assignments: Any) -> float:
    """Mutual information of two partitions divided by the arithmetic mean of their entropies, in [0, 1].

    Args:
      labels: (n,) integer, n >= 1.
      assignments: (n,) integer, the cluster of each image.

    Returns:
      1 for equal partitions, also where both have one part.

    Raises:
      ValueError: the shapes differ, or n = 0.

    Example:
      >>> round(normalized_mutual_information([0, 0, 1, 1], [5, 5, 7, 6]), 4)
      0.8
    """
    return float(sklearn.metrics.normalized_mutual_info_score(*_partitions(labels, assignments)))


def pairwise_f1(labels: Any, assignments: Any) -> float:
    """F1 over all pairs of images: "they are of one class" is predicted by "they are in one cluster". In [0, 1].

    Args:
      labels: (n,) integer, n >= 1.
      assignments: (n,) integer, the cluster of each image.

    Returns:
      2 x pairs in both / (pairs in one class + pairs in one cluster); 1 when there is no pair in either.

    Raises:
      ValueError: the shapes differ, or n = 0.

    Example:
      >>> round(pairwise_f1([0, 0, 1, 1], [5, 5, 7, 6]), 4)
      0.6667
    """
    counts = sklearn.metrics.cluster.pair_confusion_matrix(*_partitions(labels, assignments))
    both, either = counts[1, 1], 2 * counts[1, 1] + counts[0, 1] + counts[1, 0]
    return float(2 * both / either) if either else 1.0


def _partitions(labels: Any, assignments: Any) -> tuple[np.ndarray, np.ndarray]:
    labels, assignments = np.asarray(labels), np.asarray(assignments)
    if labels.shape != assignments.shape or labels.ndim != 1 or not len(labels):
        raise ValueError(f"labels and assignments must be (n,) with n >= 1, got {labels.shape} and {assignments.shape}")
    return labels, assignments
