"""Finds pictures of an index that show the same shot, and pictures that are probably in the folder of a wrong class."""

import collections
import itertools
from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np
import scipy.sparse.csgraph
import tqdm

from symm_jax.data import duplicates as look
from symm_jax.search.decoding import batched
from symm_jax.search.index import Index
from symm_jax.search.thumbnails import read_again

NEIGHBOURS = 5  # that all carry another label
# Two pictures show the same shot if they are among each other's nearest, and their thumbnails differ by no more.
MIN_SIMILARITY, MAX_BITS, MAX_DIFFERENCE = 0.9, 8, 10.0
_NEAREST = 10  # neighbours among which the same shot is looked for
_QUERIES = 1024  # that are searched at a time
_SIDE = 72  # pixels of the squares that thumbnails are made of


class Set(NamedTuple):
    """Pictures that show the same shot: each looks the same as one of the others at least.

    rows: rows of the index, ascending.
    similarity: of each, the cosine similarity to the one of the others that is most similar.
    identical: how many of them have the same content as another one.
    conflict: whether they are in the folders of several classes.
    """

    rows: list[int]
    similarity: list[float]
    identical: int
    conflict: bool


class Suspect(NamedTuple):
    """A picture whose nearest neighbours all carry one other label.

    row: its row in the index.
    label: the label of its neighbours.
    margin: how much more similar the farthest of these neighbours is than the nearest picture of its own class.
    neighbours: rows of its nearest neighbours, best first.
    similarity: their cosine similarities.
    """

    row: int
    label: str
    margin: float
    neighbours: list[int]
    similarity: list[float]


class Found(NamedTuple):
    """What was found.

    sets: pictures in several classes first, then identical ones, then by similarity.
    suspects: probable label errors, the surest first.
    unread: number of pictures that are gone or changed, so that their look could not be compared.
    """

    sets: list[Set]
    suspects: list[Suspect]
    unread: int


def find(index: Index, k: int = NEIGHBOURS) -> Found:
    """Compares each picture of an index with its nearest neighbours, which exact search finds.

    Args:
      index: the index. The pictures that may be the same shot are read again.
      k: the number of neighbours that must agree on another label.
    """
    rows, similarity = _search(index, max(k, _NEAREST))
    sets, unread = _sets(index, rows, similarity)
    return Found(sets, _suspects(index, rows[:, :k], similarity[:, :k]) if rows.shape[1] >= k else [], unread)


def _search(index: Index, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest others of each picture, fewer in a small index: rows and similarities, (n, k) each."""
    n, k = len(index), min(k, len(index) - 1)
    rows, similarity = np.zeros((n, k), np.int64), np.zeros((n, k), np.float32)
    with tqdm.tqdm(
        total=n, desc="search", unit="image", leave=False, dynamic_ncols=True, disable=n <= _QUERIES
    ) as progress:
        for start in range(0, n, _QUERIES):
            queries = np.asarray(index.embeddings[start : start + _QUERIES], np.float32)
            found, near = index.search(queries, k + 1)
            itself = near == np.arange(start, start + len(queries))[:, None]
            itself[~itself.any(1), -1] = True  # among many of the same embedding it may not be found
            rows[start : start + len(queries)] = near[~itself].reshape(len(queries), k)
            similarity[start : start + len(queries)] = found[~itself].reshape(len(queries), k)
            progress.update(len(queries))
    return rows, similarity


def _sets(index: Index, rows: np.ndarray, similarity: np.ndarray) -> tuple[list[Set], int]:
    """The pictures that show the same shot, and how many could not be compared."""
    i, j = np.nonzero(similarity >= MIN_SIMILARITY)
    near = {(min(a, b), max(a, b)) for a, b in zip(i.tolist(), rows[i, j].tolist(), strict=True)}
    contents = [row.sha256 for row in index.rows]
    by_content = collections.defaultdict(list)
    for row, content in enumerate(contents):
        by_content[content].append(row)
    same = {pair for copies in by_content.values() for pair in itertools.pairwise(copies)}
    candidates = sorted(pair for pair in near if contents[pair[0]] != contents[pair[1]])
    confirmed, unread = _look_same(index, candidates)
    pairs = np.array(sorted(same | confirmed), np.int64).reshape(-1, 2)
    cosines = _similarities(index, pairs)
    best = np.full(len(index), -1.0)
    for side in pairs.T:
        np.maximum.at(best, side, cosines)
    links = scipy.sparse.coo_array((np.ones(len(pairs)), pairs.T), shape=(len(index), len(index)))
    _, group = scipy.sparse.csgraph.connected_components(links, directed=False)
    members = collections.defaultdict(list)
    for row in np.unique(pairs).tolist():
        members[group[row]].append(row)
    sets = [
        Set(
            found,
            best[found].tolist(),
            identical=sum(len(by_content[contents[row]]) > 1 for row in found),
            conflict=len({index.rows[row].label for row in found} - {""}) > 1,
        )
        for found in members.values()
    ]
    return sorted(sets, key=lambda s: (not s.conflict, -s.identical / len(s.rows), -min(s.similarity), s.rows)), unread


def _look_same(index: Index, candidates: list[tuple[int, int]]) -> tuple[set[tuple[int, int]], int]:
    """The pairs of different pictures that look the same, and how many pictures could not be read."""
    wanted = sorted({row for pair in candidates for row in pair})
    thumbnails, unread = {}, 0
    for row, square in read_again(index, wanted, _SIDE, "compare"):
        if square is None:
            unread += 1
        else:
            thumbnails[row] = look.shrink(cv2.cvtColor(square, cv2.COLOR_RGB2GRAY))
    there = [pair for pair in candidates if pair[0] in thumbnails and pair[1] in thumbnails]
    if not there:
        return set(), unread
    ours, theirs = (np.stack([thumbnails[pair[side]] for pair in there]) for side in (0, 1))
    bits, levels = look.differ(ours, theirs)
    alike = (bits <= MAX_BITS) & (levels <= MAX_DIFFERENCE)
    return set(itertools.compress(there, alike.tolist())), unread


def _similarities(index: Index, pairs: np.ndarray) -> np.ndarray:
    """The cosine similarity of each pair of rows (n, 2)."""
    blocks = [pairs[start : start + _QUERIES] for start in range(0, len(pairs), _QUERIES)]
    both = ((np.asarray(index.embeddings[side], np.float32) for side in block.T) for block in blocks)
    return np.array([cosine for a, b in both for cosine in np.einsum("nd,nd->n", a, b)])


def _suspects(index: Index, rows: np.ndarray, similarity: np.ndarray) -> list[Suspect]:
    """The pictures of classes with two or more whose neighbours (n, k) all carry one other label."""
    names, labels, counts = np.unique(np.array(index.labels), return_inverse=True, return_counts=True)
    theirs = labels[rows]
    agree = (theirs == theirs[:, :1]).all(1) & (theirs[:, 0] != labels) & (counts[labels] > 1)
    agree &= (names[labels] != "") & (names[theirs[:, 0]] != "")
    found = np.flatnonzero(agree).tolist()
    own = dict(_nearest_of_own_class(index, found, labels))
    suspects = [
        Suspect(
            row,
            str(names[theirs[row, 0]]),
            float(similarity[row, -1] - own[row]),
            rows[row].tolist(),
            similarity[row].tolist(),
        )
        for row in found
    ]
    return sorted(suspects, key=lambda suspect: (-suspect.margin, suspect.row))


def _nearest_of_own_class(index: Index, rows: Iterable[int], labels: np.ndarray) -> Iterable[tuple[int, float]]:
    """(row, similarity to the nearest other picture of its class). One class at a time is in memory."""
    by_class = collections.defaultdict(list)
    for row in rows:
        by_class[labels[row]].append(row)
    for label, ours in by_class.items():
        members = np.flatnonzero(labels == label)
        gallery = np.asarray(index.embeddings[members], np.float32)
        for block in batched(ours, _QUERIES):
            cosines = np.asarray(index.embeddings[block], np.float32) @ gallery.T
            cosines[np.array(block)[:, None] == members] = -np.inf
            yield from zip(block, cosines.max(1).tolist(), strict=True)
