"""Ranks by sorting all images for every query, in float64 loops."""

import numpy as np

from symm_jax.metrics import tiles


def slow_ranks(queries, query_labels, gallery=None, gallery_labels=None):
    """Ranks by sorting all images for every query. A negative ranks before the positives it ties with."""
    alone = gallery is None
    gallery, gallery_labels = (queries, query_labels) if alone else (gallery, gallery_labels)
    unit = [
        x / np.maximum(np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True), 1e-30) for x in (queries, gallery)
    ]
    found = []
    for i, similarity in enumerate(unit[0] @ unit[1].T):
        others = [j for j in range(len(gallery)) if not (alone and i == j)]
        right = [gallery_labels[j] == query_labels[i] for j in others]
        keys = [(tiles.TIE * is_right - similarity[j], is_right) for j, is_right in zip(others, right, strict=True)]
        hits = np.array([is_right for _, is_right in sorted(keys)], bool)
        total = hits.sum()
        if not total:
            found.append((0, -1, np.nan, np.nan))
            continue
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        found.append((total, np.argmax(hits), hits[:total].mean(), (precision * hits)[:total].mean()))
    return [np.array(column) for column in zip(*found, strict=True)]


def assert_ranks(actual, expected):
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
