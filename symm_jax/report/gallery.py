"""Which test images a page shows: all of a small set; of a large set the hardest failures, what is near, a sample."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from symm_jax.metrics import ranking

NEIGHBOURS = 8  # of a query
_SIDE, _MOST = 96, 6000  # the side of thumbnails that `Limits` is for; the most images of any side


class Limits(NamedTuple):
    """How many images a page may hold. `walk` must leave room for the neighbours of one of those it starts from."""

    all_of: int = 1500  # a test set up to this size is shown whole
    mapped: int = 1500  # of one shown whole, on the map
    failures: int = 40
    fair: int = 40  # of the sample, to be queries
    walk: int = 900  # reached from failures and fair ones, themselves included
    sample: int = 600  # drawn at random, for the map


LIMITS = Limits()


def limits_for(side: int) -> Limits:
    """The limits for thumbnails of `side` pixels. A page of the same size holds more small ones."""
    whole = int(LIMITS.all_of * (_SIDE / side) ** 2)
    return LIMITS._replace(all_of=max(LIMITS.all_of, min(whole, _MOST)))


class Gallery(NamedTuple):
    """Images of a test set, named by their rows in it.

    rows: (m,) int, the images shown, ascending.
    ahead: (m,) int, how many of other classes come before an image's first of its own; -1 when it has none.
    neighbours: (m, k) int, its nearest others of the whole test set, most similar first, k = min(8, n - 1).
    similarity: (m, k) float32, their cosines with it.
    open: (m,) bool, whether all its neighbours are shown too, so that it can be a query.
    starts: (s,) int, the queries to begin with: failures, hardest first; if there are none, queries answered well.
    sample: (t,) int, ascending, the images on the map: a random sample of the test set, all of a small one.
    failed: number of queries of the whole test set whose nearest neighbour is wrong.
    queries: number of queries that have a right answer.
    against: number of images that a query is compared with.
    """

    rows: np.ndarray
    ahead: np.ndarray
    neighbours: np.ndarray
    similarity: np.ndarray
    open: np.ndarray
    starts: np.ndarray
    sample: np.ndarray
    failed: int
    queries: int
    against: int


def select(
    embeddings: np.ndarray,
    labels: np.ndarray,
    query: np.ndarray | None = None,
    *,
    limits: Limits = LIMITS,
    also: Sequence[int] = (),
    seed: int = 0,
) -> Gallery:
    """Selects the images of a page.

    Args:
      embeddings: (n, dim) finite floating, n >= 2.
      labels: (n,) integer.
      query: (n,) bool, which images are queries; the others are the gallery that is searched, also for neighbours
        of each other. None: every image is a query in all others.
      limits: how many.
      also: rows to show in any case.
      seed: of the sample.
    """
    n = len(labels)
    among = np.ones(n, bool) if query is None else ~query
    ahead = np.empty(n, np.int32)
    ahead[among] = ranking.rank(embeddings[among], labels[among], nearest_only=True).negatives_ahead
    if query is not None:
        sides = embeddings[query], labels[query], embeddings[among], labels[among]
        ahead[query] = ranking.rank(*sides, nearest_only=True).negatives_ahead
    asked = np.arange(n) if query is None else np.flatnonzero(query)
    starts = asked[hardest(ahead[asked], limits.failures)]

    near = functools.partial(ranking.neighbours, embeddings, k=NEIGHBOURS, among=among)
    whole = n <= limits.all_of
    sample = np.random.default_rng(seed).permutation(n)[: limits.mapped if whole else limits.sample]
    if whole:
        rows = np.arange(n)
    else:
        # The sample gives queries too: with failures alone any run would look bad.
        first = np.array(list(dict.fromkeys([*starts.tolist(), *sample[: limits.fair].tolist()])))
        reached = walk(first, lambda level: near(level)[0], limits.walk)
        rows = np.unique(np.concatenate([reached, sample, np.asarray(also, int)]))

    neighbours, similarity = near(rows)
    return Gallery(
        rows=rows,
        ahead=ahead[rows],
        neighbours=neighbours,
        similarity=similarity,
        open=np.asarray(np.isin(neighbours, rows).all(axis=1)),
        starts=starts,
        sample=np.sort(sample),
        failed=int(np.sum(ahead[asked] > 0)),
        queries=int(np.sum(ahead[asked] >= 0)),
        against=int(among.sum()) - int(query is None),
    )


def hardest(ahead: np.ndarray, count: int) -> np.ndarray:
    """The rows of at most `count` failures, most negatives ahead first; without failures, of answered queries."""
    order = np.argsort(-ahead, kind="stable")
    failures = order[ahead[order] > 0]
    return failures[:count] if len(failures) else order[:count]


def walk(starts: np.ndarray, neighbours: Callable[[np.ndarray], np.ndarray], limit: int) -> np.ndarray:
    """Rows reached breadth first, taking an image's neighbours all or, where they would pass the limit, not at all.

    Args:
      starts: (s,) int, where to begin, s <= limit.
      neighbours: rows (m,) -> rows (m, k).
      limit: the most rows to return.

    Returns:
      (m,) int, in the order in which they were reached, `starts` first.
    """
    found = dict.fromkeys(starts.tolist())
    level = starts
    while len(level) and len(found) < limit:
        following = []
        for near in neighbours(level).tolist():
            new = [row for row in near if row not in found]
            if len(found) + len(new) <= limit:
                found |= dict.fromkeys(new)
                following += new
        level = np.array(following, int)
    return np.array(list(found), int)
