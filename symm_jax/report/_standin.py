"""Neighbours of test images, in numpy."""

import numpy as np

_BLOCK = 512  # rows at a time


def negatives_ahead(embeddings: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many images of other classes are at least as similar (cosine) as an image's nearest of its own class.

    Args:
      embeddings: (n, dim) floating.
      labels: (n,) integer.

    Returns:
      (n,) int, -1 for an image that is alone in its class.
    """
    unit = _unit(embeddings)
    ahead = np.empty(len(unit), int)
    for start in range(0, len(unit), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(unit)))
        similarity = unit[rows] @ unit.T
        same = labels[rows, None] == labels
        others = same.copy()
        others[np.arange(len(rows)), rows] = False
        best = np.max(similarity, axis=1, where=others, initial=-np.inf)
        ahead[rows] = np.where(others.any(1), np.sum(~same & (similarity >= best[:, None]), axis=1), -1)
    return ahead


def nearest(embeddings: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    """The k images most similar (cosine) to each of some, most similar first, itself left out.

    Args:
      embeddings: (n, dim) floating.
      rows: (m,) integer.
      k: at least 1; at most n - 1 are returned.

    Returns:
      (m, min(k, n - 1)) int.
    """
    unit = _unit(embeddings)
    rows, k = np.asarray(rows, int), min(k, len(unit) - 1)
    found = np.empty((len(rows), k), int)
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        similarity = unit[block] @ unit.T
        similarity[np.arange(len(block)), block] = -np.inf
        near = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(similarity, near, 1), axis=1, kind="stable")
        found[start : start + _BLOCK] = np.take_along_axis(near, order, 1)
    return found


def _unit(embeddings: np.ndarray) -> np.ndarray:
    x = np.asarray(embeddings, np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(np.float32).tiny)
