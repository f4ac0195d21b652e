"""Embeds and searches a batch of queries at a time."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from symm_jax.search import Index, exact

SIZES = (1, 4, 16)  # of batches, so that few programs are compiled


class Query(NamedTuple):
    """A picture to search by, decoded, or a row of the index.

    square: (side, side, 3) uint8, or None for the embedding that the index has of `row`.
    row: the row of a picture of the index, which is left out of its own results; or None.
    k: the number of results; 0 embeds only.
    label: the class of the results; None for all.
    """

    square: np.ndarray | None = None
    row: int | None = None
    k: int = 0
    label: str | None = None


class Answer(NamedTuple):
    """embedding: (dim,) float32 of unit length; rows and similarities of the results, best first."""

    embedding: np.ndarray
    rows: list[int]
    similarities: list[float]


class Engine:
    """An index and the network that embedded it."""

    def __init__(self, index: Index, embedder: Any):
        """`embedder` has image_size, and embed: (n, side, side, 3) uint8 -> (n, dim) float32 of unit length."""
        self._index, self._embedder = index, embedder
        classes: dict[str, list[int]] = {}
        for row, label in enumerate(index.labels):
            classes.setdefault(label, []).append(row)
        self.rows_of = {label: np.array(classes[label]) for label in sorted(classes)}

    def compile(self) -> None:
        """Compiles the network for every size of batch."""
        side = self._embedder.image_size
        for size in SIZES:
            self._embedder.embed(np.zeros((size, side, side, 3), np.uint8))

    def answer(self, queries: Sequence[Query]) -> list[Answer]:
        """The answers to at most SIZES[-1] queries, each as if it was asked alone but for rounding."""
        embeddings = np.zeros((len(queries), self._index.embeddings.shape[1]), np.float32)
        pictures = {i: query.square for i, query in enumerate(queries) if query.square is not None}
        if pictures:
            size = next(size for size in SIZES if size >= len(pictures))
            squares = np.zeros((size, *next(iter(pictures.values())).shape), np.uint8)
            squares[: len(pictures)] = np.stack([*pictures.values()])
            embeddings[[*pictures]] = self._embedder.embed(squares)[: len(pictures)]
        for i, query in enumerate(queries):
            if query.square is None:
                vector = np.asarray(self._index.embeddings[query.row], np.float32)
                embeddings[i] = vector / max(float(np.linalg.norm(vector)), 1e-12)
        answers = [Answer(embedding, [], []) for embedding in embeddings]
        for label in {query.label for query in queries if query.k}:
            group = [i for i, query in enumerate(queries) if query.k and query.label == label]
            most = max(queries[i].k + (queries[i].row is not None) for i in group)
            similarities, rows = self._nearest(embeddings[group], label, most)
            for i, values, found in zip(group, similarities.tolist(), rows.tolist(), strict=True):
                pairs = [pair for pair in zip(found, values, strict=True) if pair[0] != queries[i].row]
                pairs = pairs[: queries[i].k]
                answers[i] = Answer(embeddings[i], [row for row, _ in pairs], [value for _, value in pairs])
        return answers

    def _nearest(self, embeddings: np.ndarray, label: str | None, k: int) -> tuple[np.ndarray, np.ndarray]:
        if label is None:
            return self._index.search(embeddings, min(k, len(self._index)))
        among = self.rows_of[label]
        similarities, at = exact.nearest(self._index.embeddings[among], embeddings, min(k, len(among)))
        return similarities, among[at]
