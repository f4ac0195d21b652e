"""Where the images of a query's own class stand among all others: what every retrieval metric is made of.

Nothing is sorted and no top-k is taken. Positives, the images of the query's class, are few: their similarities come
first, class by class. One pass over tiles of the similarity matrix then counts, for each positive, the images of
other classes that are at least as near. Where query and gallery are one set the matrix is symmetric, and a tile
above its diagonal serves both halves.

Every device of this process takes its share of the blocks and tiles, and whole numbers are added up, so the result
does not depend on how many there are. Memory on each is that of all embeddings (n x dim x 4 bytes: 124 MB for the
60,502 x 512 of Stanford Online Products) and of a block of queries against the largest class, and otherwise fixed.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from symm_jax.devices import AXIS, replicated_sharding
from symm_jax.similarity import product

TIE = 2.0**-23  # cosines this close are ties: float32's step at 1, about what rounding leaves of a cosine
_POSITIVES_BLOCK = 256  # queries whose positives are sorted at once
_UNIT_ROWS = 1024  # rows normalised at once, so that they stay in the cache
_MAX_COUNTS = 2**25  # of (positive, query) pairs counted in one pass, 128 MiB


class Ranks(NamedTuple):
    """For each of n queries, numpy arrays (n,). Without a positive `negatives_ahead` is -1 and the precisions are NaN.

    positives: int32, R: images of its class in the gallery, without itself.
    negatives_ahead: int32, images of other classes that come before the nearest positive.
    r_precision: float64, share of positives among the first R.
    average_precision: float64, mean over the first R places of the precision there, 0 at places of other classes.
    """

    positives: np.ndarray
    negatives_ahead: np.ndarray
    r_precision: np.ndarray
    average_precision: np.ndarray


def rank(
    queries: jax.typing.ArrayLike,
    query_labels: jax.typing.ArrayLike,
    gallery: jax.typing.ArrayLike | None = None,
    gallery_labels: jax.typing.ArrayLike | None = None,
    *,
    nearest_only: bool = False,
    block_size: int = 512,
) -> Ranks:
    """Ranks the positives of every query among the gallery by cosine.

    An image of another class that ties with a positive, to within TIE, comes before it.

    Args:
      queries: (n, dim) finite, of any length.
      query_labels: (n,) integer.
      gallery: (m, dim); None when the queries are the gallery and each leaves itself out.
      gallery_labels: (m,) integer.
      nearest_only: count for the nearest positive alone, which is faster; the precisions are NaN then.
      block_size: queries and gallery images in a tile.

    Returns:
      Ranks, in the order of the queries.
    """
    symmetric = gallery is None
    side, other = _by_class(query_labels, query_labels if symmetric else gallery_labels)
    num_positives = np.bincount(other.labels, minlength=side.labels.max() + 1)[side.labels] - int(symmetric)
    n, most = len(num_positives), min(1, num_positives.max()) if nearest_only else num_positives.max()
    grid = _grid(queries, side, None if symmetric else gallery, other, block_size)
    negatives_ahead = np.full(n, -1, np.int32)
    hits, precision = np.zeros((2, n))
    chunk = max(1, min(most, _MAX_COUNTS // n))
    for first in range(0, most, chunk):
        count = min(chunk, most - first)
        cosines = _positives(grid, first, count)
        wanted = np.pad(np.clip(num_positives - first, 0, count), (0, -n % grid.block))
        ahead = np.asarray(_count(grid, cosines - TIE, wanted.reshape(-1, grid.block).max(axis=1)))[:, :n]
        if first == 0:
            negatives_ahead = np.where(num_positives > 0, ahead[0], -1)
        for place, negatives in enumerate(ahead, first + 1):
            within = place + negatives <= num_positives
            hits += within
            precision += within * place / (place + negatives)
    known = np.where((num_positives > 0) & (not nearest_only), num_positives, np.nan)
    back = np.argsort(side.order)
    columns = num_positives.astype(np.int32), negatives_ahead.astype(np.int32), hits / known, precision / known
    return Ranks(*(column[back] for column in columns))


def neighbours(
    embeddings: jax.typing.ArrayLike,
    rows: np.ndarray,
    k: int,
    *,
    among: np.ndarray | None = None,
    block_size: int = 256,
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest other images of the images `rows`, by cosine, nearest first.

    Args:
      embeddings: (n, dim) finite, of any length.
      rows: (q,) integer, images that are queries.
      k: neighbours; at most as many are given as there are others among those that may be.
      among: (n,) bool, the images that may be neighbours; None for all.
      block_size: queries at a time.

    Returns:
      (q, k) int32 images and (q, k) float32 cosines.
    """
    gallery = jnp.asarray(_unit(embeddings))
    rows = np.asarray(rows, np.int32)
    among = np.ones(len(gallery), bool) if among is None else np.asarray(among)
    find = functools.partial(_neighbours, k=min(k, among.sum() - int(among[rows].any())))
    found = [find(gallery, among, rows[start : start + block_size]) for start in range(0, len(rows), block_size)]
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


@functools.partial(jax.jit, static_argnames="k")
def _neighbours(gallery, among, rows, k):
    similarity = jnp.where(among[None, :], product(gallery[rows], gallery), -jnp.inf)
    similarity = similarity.at[jnp.arange(len(rows)), rows].set(-jnp.inf)
    cosines, images = jax.lax.top_k(similarity, k)
    return images, cosines


class _Side(NamedTuple):
    """order (n,): images sorted by class; labels (n,) int32: the classes numbered in that order, rising."""

    order: np.ndarray
    labels: np.ndarray


def _by_class(query_labels: Any, gallery_labels: Any) -> tuple[_Side, _Side]:
    """Sorts both sides by class, the smallest classes of the gallery first, so that a tile's classes are of a size."""
    query_labels, gallery_labels = np.asarray(query_labels), np.asarray(gallery_labels)
    classes, codes = np.unique(np.concatenate([gallery_labels, query_labels]), return_inverse=True)
    sizes = np.bincount(codes[: len(gallery_labels)], minlength=len(classes))
    place = np.empty(len(classes), np.int32)
    place[np.argsort(sizes, kind="stable")] = np.arange(len(classes))

    def sort(codes):
        order = np.argsort(place[codes], kind="stable")
        return _Side(order, place[codes][order])

    return sort(codes[len(gallery_labels) :]), sort(codes[: len(gallery_labels)])


class _Grid(NamedTuple):
    """The similarity matrix in tiles of block x block. Rows are queries and columns the gallery, filled up to whole
    tiles; both sorted by class, with label -1 for what fills up. `columns` is None where they are the rows. Embeddings
    are on every device."""

    rows: jax.Array
    row_labels: np.ndarray
    columns: jax.Array | None
    column_labels: np.ndarray
    block: int


def _grid(queries: Any, side: _Side, gallery: Any, other: _Side, block_size: int) -> _Grid:
    longest = max(len(side.labels), len(other.labels))
    block = min(block_size, -(-longest // _POSITIVES_BLOCK) * _POSITIVES_BLOCK)
    placement = replicated_sharding()

    def fill(x, **value):
        return np.pad(x, [(0, -len(x) % block)] + [(0, 0)] * (x.ndim - 1), **value)

    def embeddings(x, order):
        return jax.device_put(fill(_unit(x)[order]), placement)

    labels = (fill(s.labels, constant_values=-1) for s in (side, other))
    columns = None if gallery is None else embeddings(gallery, other.order)
    row_labels, column_labels = labels
    return _Grid(embeddings(queries, side.order), row_labels, columns, column_labels, block)


def _unit(x: Any) -> np.ndarray:
    """Rows of length 1 as float32; a zero row stays zero. By way of float64, so that equal directions become equal."""
    x = np.asarray(x)
    unit = np.empty(x.shape, np.float32)
    for start in range(0, len(x), _UNIT_ROWS):
        rows = x[start : start + _UNIT_ROWS].astype(np.float64)
        length = np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]
        unit[start : start + _UNIT_ROWS] = rows / np.where(length > 0, length, 1)
    return unit


def _positives(grid: _Grid, first: int, count: int) -> jax.Array:
    """Cosines of positives number first, first + 1, ... by nearness: (count, rows), falling; inf where there is none.

    They come from the same tiles as the cosines that they are compared with, so that equal embeddings tie.
    """
    block = grid.block
    part = _POSITIVES_BLOCK if block % _POSITIVES_BLOCK == 0 else block
    # Of rows sorted by class, all positives are in one window of columns. What fills up has an empty one.
    classes = np.where(grid.row_labels < 0, grid.row_labels.max(), grid.row_labels)
    known = grid.column_labels[grid.column_labels >= 0]
    low = np.searchsorted(known, classes[::part])
    high = np.searchsorted(known, classes[part - 1 :: part], side="right")
    width = max(int((high - low).max()), 1)
    low = np.minimum(low, len(grid.column_labels) - width).reshape(-1, block // part)
    first_tile = low.min(axis=1) // block
    num_tiles = int(((low.max(axis=1) + width - 1) // block - first_tile).max()) + 1
    first_tile = np.minimum(first_tile, len(grid.column_labels) // block - num_tiles)
    mesh = grid.rows.sharding.mesh
    grid = grid._replace(block=None)
    return _positives_of_rows(grid, first_tile, low, mesh, block, part, width, num_tiles, first, count)


@functools.partial(jax.jit, static_argnames=("mesh", "block", "part", "width", "num_tiles", "first", "count"))
def _positives_of_rows(grid, first_tiles, lows, mesh, block, part, width, num_tiles, first, count):
    symmetric = grid.columns is None
    columns = grid.rows if symmetric else grid.columns

    def of_rows(i, best):
        first_tile = first_tiles[i]
        queries = _slice(grid.rows, i * block, block)
        tiles = [product(queries, _slice(columns, (first_tile + t) * block, block)) for t in range(num_tiles)]
        similarity = jnp.concatenate(tiles, axis=1)

        def of_part(_, where):
            row, column = where
            window = (row, column - first_tile * block)
            cosines = jax.lax.dynamic_slice(similarity, window, (part, width))
            row += i * block
            ours, theirs = _slice(grid.row_labels, row, part)[:, None], _slice(grid.column_labels, column, width)[None]
            positive = ours == theirs
            if symmetric:
                positive &= row + jnp.arange(part)[:, None] != column + jnp.arange(width)[None]
            cosines = jnp.where(positive, cosines, -jnp.inf)
            if first + count == 1:
                largest = jnp.max(cosines, axis=1, keepdims=True)
            else:
                largest = jax.lax.top_k(cosines, min(first + count, width))[0][:, first:]
            return None, jnp.where(largest == -jnp.inf, jnp.inf, largest)

        found = jax.lax.scan(of_part, None, (jnp.arange(0, block, part), lows[i]))[1]
        found = found.reshape(block, -1).T
        found = jnp.pad(found, ((0, count - len(found)), (0, 0)), constant_values=jnp.inf)
        return jax.lax.dynamic_update_slice(best, found, (0, i * block))

    return _shared(mesh, len(first_tiles), of_rows, jnp.zeros((count, len(grid.rows)), jnp.float32))


def _count(grid: _Grid, least: jax.Array, wanted: np.ndarray) -> jax.Array:
    """How many columns of other classes reach each of the cosines `least` (count, rows): (count, rows) int32.

    `wanted` (tiles of rows,): how many of each row's cosines matter; the counts of others are of no meaning.
    """
    height, width = (len(labels) // grid.block for labels in (grid.row_labels, grid.column_labels))
    tiles = np.triu_indices(height) if grid.columns is None else np.indices((height, width)).reshape(2, -1)
    numbers = (x.astype(np.int32) for x in (wanted, *tiles))
    return _count_tiles(grid._replace(block=None), least, *numbers, grid.rows.sharding.mesh, grid.block)


@functools.partial(jax.jit, static_argnames=("mesh", "block"))
def _count_tiles(grid, least, wanted, tile_rows, tile_columns, mesh, block):
    symmetric = grid.columns is None
    columns = grid.rows if symmetric else grid.columns

    def add(ahead, tile, place, reached, axis):
        """Adds up the entries that reach the cosines number `place` of the queries of a tile."""
        counts = jnp.sum(reached, axis=axis, dtype=jnp.int32)[None]
        where = (place, tile * block)
        return jax.lax.dynamic_update_slice(ahead, jax.lax.dynamic_slice(ahead, where, (1, block)) + counts, where)

    def bar(tile, place):
        return jax.lax.dynamic_slice(least, (place, tile * block), (1, block))

    def add_others(ahead, similarity, tile, limit):
        """Does places 1, 2, ... of the queries that are the columns of `similarity`."""

        def one(place, ahead):
            return add(ahead, tile, place, similarity >= bar(tile, place), 0)

        return jax.lax.fori_loop(1, limit, one, ahead)

    def step(index, ahead):
        i, j = tile_rows[index], tile_columns[index]
        similarity = product(_slice(grid.rows, i * block, block), _slice(columns, j * block, block))
        ours = _slice(grid.row_labels, i * block, block)[:, None]
        theirs = _slice(grid.column_labels, j * block, block)[None]
        negative = (ours != theirs) & (ours >= 0) & (theirs >= 0)
        other_half = symmetric & (i != j)
        # The first place, which is often the only one, is one fused pass; the others read a masked copy each.
        ahead = add(ahead, i, 0, (similarity >= bar(i, 0).T) & negative, 1)
        if symmetric:
            ahead = add(ahead, j, 0, (similarity >= bar(j, 0)) & negative & other_half, 0)
        if len(least) > 1:
            similarity = jnp.where(negative, similarity, -jnp.inf)
            ahead = add_others(ahead, similarity.T, i, wanted[i])
            if symmetric:
                ahead = add_others(ahead, similarity, j, jnp.where(other_half, wanted[j], 0))
        return ahead

    return _shared(mesh, len(tile_rows), step, jnp.zeros(least.shape, jnp.int32))


def _shared(mesh: Mesh, num: int, step: Callable[[Any, jax.Array], jax.Array], zeros: jax.Array) -> jax.Array:
    """Folds step(piece, array) over the pieces 0 .. num - 1, from `zeros`, and adds up the arrays of all devices.

    Of D devices the one numbered d does the pieces d, d + D, ...
    """

    def fold():
        devices, device = jax.lax.axis_size(AXIS), jax.lax.axis_index(AXIS)
        mine = (num - device + devices - 1) // devices
        start = jax.lax.pcast(zeros, AXIS, to="varying")
        return jax.lax.psum(jax.lax.fori_loop(0, mine, lambda k, x: step(device + k * devices, x), start), AXIS)

    return jax.shard_map(fold, mesh=mesh, in_specs=(), out_specs=PartitionSpec())()


def _slice(x, start, size):
    return jax.lax.dynamic_slice_in_dim(x, start, size)
