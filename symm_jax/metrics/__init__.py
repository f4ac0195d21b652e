"""Retrieval and clustering metrics: pure functions of embeddings and labels, computed in blocks of constant memory."""

from symm_jax.metrics.clustering import clustering, normalized_mutual_information, pairwise_f1
from symm_jax.metrics.retrieval import map_at_r, r_precision, recall_at_k, retrieval

__all__ = [
    "clustering",
    "map_at_r",
    "normalized_mutual_information",
    "pairwise_f1",
    "r_precision",
    "recall_at_k",
    "retrieval",
]
