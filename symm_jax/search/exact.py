"""Exact search for the nearest embeddings, in blocks over a memory map.

A scan in float32 finds the candidates: each block is converted in the cache, multiplied with the queries, and compared
with the k-th best similarity that each query has so far. Its rounding depends on the shapes of the products. The
candidates therefore include every row that rounding could have hidden, and their similarities are computed again in
float64, each by the same operations. So a result depends on the query and the rows alone, and equal rows tie.
"""

import concurrent.futures
import functools
import threading
from collections.abc import Sequence

import cv2
import numpy as np
import threadpoolctl

from symm_jax.errors import InputError

_BLOCK = 512  # rows that are compared at a time: 1 MB of 512 dimensions in float32
_QUERIES = 1024  # queries of one scan
_PAIRS = 4096  # similarities that are computed again at a time
_MIN_FOR_THREADS = 2**25  # multiplications
_LENGTH = 2.0  # an upper bound of the norms of rows, which are 1 apart from rounding

_alone = threading.Lock()  # one search uses all cores, and the number of BLAS's threads is that of the process


def nearest(embeddings: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest rows, by inner product. All cores scan, each its own blocks.

    Results do not depend on the number of queries or cores. A similarity is the inner product of the stored values and
    the query in float64, rounded to float32.

    Args:
      embeddings: (m, dim) float32 or float16, rows of unit length, also a memory map.
      queries: (n, dim) float32.
      k: the number of results, 1 to m.

    Returns:
      The similarities, (n, k) float32, best first, and the rows, (n, k) int64. Of equal similarities, the one with the
      smaller row comes first.

    Raises:
      InputError: the dimensions differ, a query is not finite, or `k` is larger than m.

    Example:
      >>> similarities, rows = nearest(np.eye(4, dtype=np.float16), np.array([[0.6, 0, 0.8, 0]], np.float32), k=3)
      >>> rows
      array([[2, 0, 1]])
    """
    queries, embeddings = checked(embeddings, queries, k), np.asarray(embeddings)
    values, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    for start in range(0, len(queries), _QUERIES):
        part = slice(start, start + _QUERIES)
        values[part], rows[part] = _nearest(embeddings, queries[part], k)
    return values, rows


def checked(embeddings: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """The queries as (n, dim) float32. Raises InputError for arguments that `nearest` does not take."""
    queries = np.ascontiguousarray(queries, np.float32)
    if queries.ndim != 2 or queries.shape[1] != embeddings.shape[1]:
        raise InputError(f"queries must be (n, {embeddings.shape[1]}), got {queries.shape}")
    if not 1 <= k <= len(embeddings):
        raise InputError(f"must be from 1 to {len(embeddings):,}, the number of embeddings, got {k:,}", argument="k")
    if not np.isfinite(queries).all():
        raise InputError("queries must be finite")
    return queries


def _nearest(embeddings: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """`nearest`, for queries that are scanned together."""
    dim = queries.shape[1]
    # The rounding error of an inner product in float32, in any order of its sums, and of its result.
    error = (dim + 2) * 2.0**-24 * _LENGTH * np.linalg.norm(queries.astype(np.float64), axis=1)
    starts = iter(range(0, len(embeddings), _BLOCK))  # the threads share it

    def scan(_: int) -> _Candidates:
        found = _Candidates(k, error)
        converted = np.empty((_BLOCK, dim), np.float32)
        for start in starts:
            block = _to_float32(embeddings[start : start + _BLOCK], converted)
            found.add(queries @ block.T, start)
        return found

    threads = _threads() if embeddings.size * len(queries) >= _MIN_FOR_THREADS else 1
    if threads == 1:
        scans = [scan(0)]
    else:
        with (
            _alone,
            _blas().limit(limits=1, user_api="blas"),
            concurrent.futures.ThreadPoolExecutor(threads) as pool,
        ):
            scans = list(pool.map(scan, range(threads)))
    query, row = _Candidates.merged(scans)
    found = similarities(embeddings, queries, query, row)
    order = np.lexsort((row, -found, query))
    firsts = np.searchsorted(query[order], np.arange(len(queries)))
    chosen = order[firsts[:, None] + np.arange(k)]
    return found[chosen], row[chosen]


class _Candidates:
    """The entries that can be among the k best of their query, with their similarities of the scan."""

    def __init__(self, k: int, error: np.ndarray):
        self._k, self._error = k, error
        self._least = np.full(len(error), -np.inf, np.float32)  # what is below is not among the k best
        self._query, self._row = np.empty(0, np.int64), np.empty(0, np.int64)
        self._value = np.empty(0, np.float32)
        self._room = 0  # entries that are kept before they are looked through

    def add(self, values: np.ndarray, start: int) -> None:
        """Adds a block: the similarities of all queries, (n, b), to the rows from `start` on."""
        if not len(self._row) and self._k <= values.shape[1]:
            best = np.partition(values, -self._k, axis=1)[:, -self._k]
            self._least = (best - 2 * self._error).astype(np.float32)
        found = np.flatnonzero(values >= self._least[:, None])  # few
        if not len(found):
            return
        query, column = np.divmod(found, values.shape[1])
        self._extend(query, column + start, values.ravel()[found])
        if len(self._row) > self._room:
            self._prune()
            self._room = 2 * len(self._row)

    @classmethod
    def merged(cls, parts: "Sequence[_Candidates]") -> tuple[np.ndarray, np.ndarray]:
        """The queries and rows of the entries that can be among the k best of all parts."""
        whole = cls(parts[0]._k, parts[0]._error)
        for part in parts:
            whole._extend(part._query, part._row, part._value)
        whole._prune()
        return whole._query, whole._row

    def _extend(self, query: np.ndarray, row: np.ndarray, value: np.ndarray) -> None:
        self._query, self._row = np.concatenate([self._query, query]), np.concatenate([self._row, row])
        self._value = np.concatenate([self._value, value])

    def _prune(self) -> None:
        """Raises the bound of each query to its k-th best value, less what rounding hides, and drops what is below."""
        order = np.lexsort((-self._value, self._query))
        firsts = np.searchsorted(self._query[order], np.arange(len(self._error) + 1))
        full = np.flatnonzero(np.diff(firsts) >= self._k)
        kth = self._value[order[firsts[full] + self._k - 1]]
        # Both the k-th best and the entry that is compared with it may be off by the error.
        self._least[full] = np.maximum(self._least[full], kth - 2 * self._error[full])
        kept = self._value >= self._least[self._query]
        self._query, self._row, self._value = self._query[kept], self._row[kept], self._value[kept]


def similarities(embeddings: np.ndarray, queries: np.ndarray, query: np.ndarray, row: np.ndarray) -> np.ndarray:
    """The similarity of each pair, (p,) float32, as `nearest` gives it.

    Args:
      embeddings: (m, dim) float32 or float16.
      queries: (n, dim) float32.
      query: the number of each pair's query, (p,).
      row: the number of each pair's row, (p,).
    """
    found = np.empty(len(row), np.float32)
    for start in range(0, len(row), _PAIRS):
        part = slice(start, start + _PAIRS)
        products = embeddings[row[part]].astype(np.float64)  # exact, in float64
        products *= queries[query[part]]
        found[part] = products.sum(axis=1)
    return found


def _to_float32(block: np.ndarray, out: np.ndarray) -> np.ndarray:
    """A block in float32, written to the first rows of `out` where it is converted."""
    if block.dtype == np.float16:
        # Five times as fast as NumPy. OpenCV's stubs lack the number as second argument.
        return cv2.add(block, 0, dst=out[: len(block)], dtype=cv2.CV_32F)  # pyright: ignore
    return np.asarray(block, np.float32)


@functools.cache
def _threads() -> int:
    import joblib  # imported here: it is slow

    return joblib.cpu_count()  # the number respects the limits of this process


@functools.cache
def _blas() -> threadpoolctl.ThreadpoolController:
    return threadpoolctl.ThreadpoolController()  # finding the libraries takes milliseconds
