"""Approximate search by usearch's graph (HNSW), for indexes that exact search takes too long to scan.

    usearch.index   the graph, with a float16 copy of the embeddings
    usearch.json    the digests of the graph and of the embeddings that it was made from, and its recall

Both are kept in the index folder. A graph of other embeddings, or a damaged one, is made again.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import tqdm

from symm_jax import files
from symm_jax.errors import InputError
from symm_jax.search import exact, index

GRAPH, ABOUT = "usearch.index", "usearch.json"
_VERSION = 1
_BLOCK = 4096  # embeddings that are added at a time
_SAMPLE, _K = 1000, 10  # embeddings that the recall is measured with, and their results
_SETTINGS = {"connectivity": 16, "expansion_add": 128, "expansion_search": 64}


class Approximate:
    """The graph of an index. Making one takes minutes for a million pictures; after that it is read from the folder.

    Attributes:
      is_new: whether it was made by this call.
      recall: the fraction of the `k` nearest that it finds, measured on stored embeddings, each without itself.
      k: the number of results that the recall is of.
    """

    def __init__(self, of: index.Index):
        """Opens the graph of an index, or makes it.

        Raises:
          InputError: usearch is not installed, or another process writes to the index folder.
        """
        library = _import()
        self._index, path = of, of.folder / GRAPH
        about = _read(of)
        self.is_new = about is None
        if about is None:
            with files.lock(of.folder / index.LOCK, busy=f"another process writes the index {of.folder}"):
                about = self._make(library, path)
        else:
            self._graph = library.Index.restore(str(path), view=True)  # a memory map
        self.recall, self.k = about["recall"], about["k"]

    def search(self, queries: np.ndarray, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """As `Index.search`: the same similarities and order, but some of the nearest rows may be missing.

        Raises:
          InputError: as `Index.search`.
        """
        queries = exact.checked(self._index.embeddings, queries, k)
        values, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        if not len(queries):
            return values, rows
        found = self._graph.search(queries, k)
        counts = np.atleast_1d(getattr(found, "counts", k))
        candidates = found.keys.reshape(len(queries), -1).astype(np.int64)
        for i, query in enumerate(queries[:, None]):
            if candidates.shape[1] < k or counts[i] < k:  # a graph that is not connected
                values[i : i + 1], rows[i : i + 1] = exact.nearest(self._index.embeddings, query, k)
                continue
            ours = exact.similarities(self._index.embeddings, query, np.zeros(k, np.int64), candidates[i])
            order = np.lexsort((candidates[i], -ours))
            values[i], rows[i] = ours[order], candidates[i][order]
        return values, rows

    def _make(self, library: Any, path: Path) -> dict[str, Any]:
        embeddings = self._index.embeddings
        self._graph = library.Index(ndim=embeddings.shape[1], metric="ip", dtype="f16", **_SETTINGS)
        with tqdm.tqdm(total=len(embeddings), desc="usearch", unit="image", leave=False, dynamic_ncols=True) as bar:
            for start in range(0, len(embeddings), _BLOCK):
                block = np.asarray(embeddings[start : start + _BLOCK])
                self._graph.add(np.arange(start, start + len(block)), block, log=False)
                bar.update(len(block))
        with files.new_file(path) as temporary:
            self._graph.save(str(temporary))
        recall, k = self._measure()
        about = {"version": _VERSION, "embeddings": _embeddings(self._index), "recall": recall, "k": k, **_SETTINGS}
        files.write_text(path.with_name(ABOUT), json.dumps(about | {"graph": index.digest(path)}, indent=2) + "\n")
        return about

    def _measure(self) -> tuple[float, int]:
        """The recall of a sample of the embeddings. A row as near as the k-th nearest counts as found."""
        embeddings = self._index.embeddings
        k = min(_K, len(embeddings) - 1)
        if not k:
            return 1.0, 0
        sample = np.linspace(0, len(embeddings) - 1, min(_SAMPLE, len(embeddings)), dtype=np.int64)
        queries = np.asarray(embeddings[sample], np.float32)
        expected, ours = (_without(sample, *search(queries, k + 1)) for search in (self._index.search, self.search))
        least = expected[:, k - 1 : k]
        return float(np.minimum((ours[:, :k] >= least).sum(axis=1), k).mean() / k), k


def _without(sample: np.ndarray, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The similarities, best first, without those of the rows of `sample` to themselves."""
    return -np.sort(np.where(rows == sample[:, None], np.inf, -values), axis=1)


def _read(of: index.Index) -> dict[str, Any] | None:
    """What usearch.json says; None where there is no graph of these embeddings."""
    try:
        about = files.read_json_object(of.folder / ABOUT)
        expected = {"version": _VERSION, "embeddings": _embeddings(of), "graph": index.digest(of.folder / GRAPH)}
        if any(about.get(key) != value for key, value in expected.items()):
            return None
        return about if isinstance(about["recall"], float) and isinstance(about["k"], int) else None
    except (OSError, ValueError, KeyError):
        return None


def _embeddings(of: index.Index) -> str:
    return of.about["files"][index.EMBEDDINGS]


def _import() -> Any:
    try:
        import usearch.index  # optional
    except ImportError as error:
        raise InputError(
            "it needs usearch, which is not installed: pip install 'symm_jax[usearch]'. Or search exactly: "
            "--index_kind=exact.",
            argument="index_kind",
        ) from error
    return usearch.index
