"""Exact search for the nearest embeddings, in blocks over a memory map."""

import numpy as np

from symm_jax.errors import InputError

_BLOCK = 65536  # rows that are compared at a time


def nearest(embeddings: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest rows, by inner product.

    Args:
      embeddings: (m, dim) float32 or float16, also a memory map.
      queries: (n, dim) float32.
      k: the number of results, 1 to m.

    Returns:
      The similarities, (n, k) float32, best first, and the rows, (n, k) int64. Of equal similarities, the one with the
      smaller row comes first.

    Raises:
      InputError: the dimensions differ, or `k` is larger than m.
    """
    if queries.ndim != 2 or queries.shape[1] != embeddings.shape[1]:
        raise InputError(f"queries must be (n, {embeddings.shape[1]}), got {queries.shape}")
    if not 1 <= k <= len(embeddings):
        raise InputError(f"must be from 1 to {len(embeddings):,}, the number of embeddings, got {k:,}", argument="k")
    values, rows = np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)
    for start in range(0, len(embeddings), _BLOCK):
        block = np.asarray(embeddings[start : start + _BLOCK], np.float32)
        values = np.concatenate([values, queries @ block.T], axis=1)
        here = np.broadcast_to(np.arange(start, start + len(block)), (len(queries), len(block)))
        rows = np.concatenate([rows, here], axis=1)
        order = np.argsort(-values, axis=1, kind="stable")[:, :k]
        values, rows = np.take_along_axis(values, order, 1), np.take_along_axis(rows, order, 1)
    return values, rows
