"""Clustering metrics: k-means on embeddings, compared with the classes."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from symm_jax import dtypes
from symm_jax.metrics.checks import Embeddings, Labels, require_labelled
from symm_jax.similarity import normalize


def clustering(embeddings: Embeddings, labels: Labels, *, seed: int = 0) -> dict[str, float]:
    """Computes NMI and pairwise F1 of k-means, with one cluster per class, on normalised embeddings.

    k-means is that of scikit-learn: k-means++, one start, at most 100 iterations. The result varies a little with the
    seed and with the number of threads.

    Args:
      embeddings: (n, dim) floating, finite.
      labels: (n,) integer.
      seed: seed of k-means++.

    Returns:
      {"nmi": ..., "f1": ...}, each in [0, 1].

    Raises:
      ValueError: as `recall_at_k`.
    """
    import sklearn.cluster  # imported here: it takes a second, and training does not need it

    require_labelled(embeddings, labels)
    points = np.asarray(normalize(jnp.asarray(embeddings, jnp.float32)))
    # scikit-learn warns of fewer distinct points than clusters. The metrics show that.
    distinct = len(np.unique(points, axis=0))
    num_clusters = min(len(np.unique(labels)), distinct)
    means = sklearn.cluster.KMeans(
        num_clusters,
        n_init=1,  # pyright: ignore[reportArgumentType]  # scikit-learn documents int, its stubs infer str
        max_iter=100,
        random_state=seed,
    )
    assignments = means.fit_predict(points)
    return {"nmi": normalized_mutual_information(labels, assignments), "f1": pairwise_f1(labels, assignments)}


def normalized_mutual_information(labels: Labels, assignments: Labels) -> float:
    """NMI: mutual information of two partitions, divided by the arithmetic mean of their entropies, in [0, 1].

    Args:
      labels: (n,) integer, n >= 1.
      assignments: (n,) integer, the cluster of each image.

    Returns:
      NMI. Equal partitions give 1, also if both have one part.

    Raises:
      ValueError: the shapes differ, n = 0, or they are not integers that int64 holds.

    Example:
      >>> round(normalized_mutual_information([0, 0, 1, 1], [5, 5, 7, 6]), 4)
      0.8
    """
    import sklearn.metrics

    return float(sklearn.metrics.normalized_mutual_info_score(*_check_partitions(labels, assignments)))


def pairwise_f1(labels: Labels, assignments: Labels) -> float:
    """Pairwise F1, in [0, 1]. A pair of images in one cluster is a prediction that both are of one class.

    Args:
      labels: (n,) integer, n >= 1.
      assignments: (n,) integer, the cluster of each image.

    Returns:
      2 x pairs in one class and one cluster / (pairs in one class + pairs in one cluster); 1 if there are no pairs.

    Raises:
      ValueError: the shapes differ, n = 0, or they are not integers that int64 holds.

    Example:
      >>> round(pairwise_f1([0, 0, 1, 1], [5, 5, 7, 6]), 4)
      0.6667
    """
    import sklearn.metrics.cluster

    counts = sklearn.metrics.cluster.pair_confusion_matrix(*_check_partitions(labels, assignments))
    both, either = counts[1, 1], 2 * counts[1, 1] + counts[0, 1] + counts[1, 0]
    return float(2 * both / either) if either else 1.0


def _check_partitions(labels: Any, assignments: Any) -> tuple[np.ndarray, np.ndarray]:
    labels, assignments = dtypes.to_labels(labels), dtypes.to_labels(assignments, "assignments")
    if labels.shape != assignments.shape or labels.ndim != 1 or not len(labels):
        raise ValueError(f"labels and assignments must be (n,) with n >= 1, got {labels.shape} and {assignments.shape}")
    return labels, assignments
