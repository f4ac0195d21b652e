"""The ranks of queries with few positives, by counting: no sort, and no top-k of whole rows.

The cosines of the positives are found first, in the columns of the query's class. Then the negatives that are at least
as near are counted, for each positive. The time grows with the number of positives of a query. The two forms differ in
how they multiply:

- On a CPU, one pass over tiles of the similarity matrix counts. If queries and gallery are the same set, the matrix is
  symmetric, and a tile above its diagonal counts for both halves.
- Elsewhere, the queries of a tile are multiplied with the whole gallery at once. Positives and negatives come from the
  same product, so equal embeddings tie, whatever the order in which a device adds. Few large products also suit a GPU.

Integers are added over the devices, so the result does not depend on the number of devices.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from symm_jax import devices
from symm_jax.metrics import tiles
from symm_jax.similarity import product

_CHUNK = 1024  # tiles between two updates of the progress bar


def count(grid: tiles.Grid, num_positives: np.ndarray, most: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ranks the positives of the queries of the first tiles.

    Args:
      grid: of queries and gallery.
      num_positives: (rows,) int, the number of positives of each query of these tiles, without padding.
      most: (tiles,) int, the number of positives to count for in each tile.

    Returns:
      (rows,) int32, the negatives before the nearest positive; (rows,) float64 sums over the positives within the first
      R ranks, where R is their number: of 1, and of the precision at their rank.
    """
    if devices.platform() == "cpu":
        cosines = find_positives(grid, len(most), max(1, int(most.max())))
        counts = count_negatives(grid, cosines - jnp.float32(tiles.TIE), most)
    else:
        counts = count_by_rows(grid, most)
    counts = counts[:, : len(num_positives)]
    hits, precision = np.zeros((2, len(num_positives)))
    for number, negatives in enumerate(counts[: most.max()], 1):
        within = number + negatives <= num_positives
        hits += within
        precision += within * number / (number + negatives)
    return counts[0], hits, precision


class _Windows(NamedTuple):
    """The columns in which the positives of the queries lie.

    low (tiles, parts): the first column of the window of each part of a tile.
    part: number of rows of a part; width: number of columns of a window.
    """

    low: np.ndarray
    part: int
    width: int


def _find_windows(grid: tiles.Grid, num_tiles: int) -> _Windows:
    """The windows of the first `num_tiles` tiles of queries."""
    block = grid.block
    part = tiles.ROWS if block % tiles.ROWS == 0 else block
    # Rows are sorted by class, so all positives of a part are in one window of columns. Padding has an empty window.
    classes = np.where(grid.row_labels < 0, grid.row_labels.max(), grid.row_labels)[: num_tiles * block]
    known = grid.column_labels[grid.column_labels >= 0]
    low = np.searchsorted(known, classes[::part])
    high = np.searchsorted(known, classes[part - 1 :: part], side="right")
    width = max(int((high - low).max()), 1)
    low = np.minimum(low, len(grid.column_labels) - width).reshape(-1, block // part)
    return _Windows(low.astype(np.int32), part, width)


def _largest_positives(grid, similarity, i, first_column, low, part, width, count):
    """The cosines of the positives of tile i, nearest first.

    Args:
      grid: of queries and gallery.
      similarity: (block, columns), of the queries of tile i and the columns from `first_column` on.
      i: number of the tile.
      first_column: number of a column.
      low: (parts,), see `_Windows`.
      part: see `_Windows`.
      width: see `_Windows`.
      count: the number of positives to return.

    Returns:
      (count, block) float32, falling. inf: the query has no such positive.
    """
    block = len(similarity)

    def find_in_part(_, start):
        row, column = start
        cosines = jax.lax.dynamic_slice(similarity, (row, column - first_column), (part, width))
        row += i * block
        row_labels = tiles.slice_rows(grid.row_labels, row, part)[:, None]
        column_labels = tiles.slice_rows(grid.column_labels, column, width)[None]
        positive = row_labels == column_labels
        if grid.columns is None:
            positive &= row + tiles.arange(part)[:, None] != column + tiles.arange(width)[None]
        cosines = jnp.where(positive, cosines, -jnp.inf)
        if count == 1:
            largest = jnp.max(cosines, axis=1, keepdims=True)
        else:
            largest = jax.lax.top_k(cosines, min(count, width))[0]
        return None, jnp.where(largest == -jnp.inf, jnp.inf, largest)

    found = jax.lax.scan(find_in_part, None, (tiles.arange(0, block, part), low))[1]
    found = found.reshape(block, -1).T
    return jnp.pad(found, ((0, count - len(found)), (0, 0)), constant_values=jnp.inf)


def count_by_rows(grid: tiles.Grid, most: np.ndarray) -> np.ndarray:
    """Counts, for each positive of the queries of the first tiles, the negatives that are at least as near.

    Args:
      grid: of queries and gallery.
      most: (tiles,) int, the number of positives to count for, in each tile. Other counts are undefined.

    Returns:
      (largest of most, at least 1; rows) int32.
    """
    mesh, limit = tiles.mesh_of(grid), max(1, int(most.max()))
    windows = _find_windows(grid, len(most))
    numbers = np.arange(len(most), dtype=np.int32)
    counts = []
    with tiles.progress(len(most), "compare", "tile") as bar:
        for start in range(0, len(most), mesh.size):
            some = np.resize(numbers[start : start + mesh.size], mesh.size)  # one tile per device
            tile = some, windows.low[some], most[some].astype(np.int32)
            found = _count_rows(grid._replace(block=None), *tile, mesh, grid.block, windows.part, windows.width, limit)
            counts.append(found)
            if start:
                counts[-2] = np.asarray(counts[-2])  # the device works on the next tile
            bar.update(mesh.size)
    return np.concatenate([np.asarray(c) for c in counts], axis=1)[:, : len(most) * grid.block]


@functools.partial(jax.jit, static_argnames=("mesh", "block", "part", "width", "limit"))
def _count_rows(grid, numbers, lows, wanted, mesh, block, part, width, limit):
    columns = grid.rows if grid.columns is None else grid.columns

    def count_tile(numbers, lows, wanted):
        i = numbers[0]
        similarity = product(tiles.slice_rows(grid.rows, i * block, block), columns)
        cosines = _largest_positives(grid, similarity, i, tiles.ZERO, lows[0], part, width, limit)
        least = cosines - jnp.float32(tiles.TIE)
        row_labels = tiles.slice_rows(grid.row_labels, i * block, block)[:, None]
        negative = (row_labels != grid.column_labels[None]) & (grid.column_labels >= 0)[None]

        def count_one(number, counts):
            reached = (similarity >= tiles.slice_rows(least, number, 1).T) & negative
            found = jnp.sum(reached, axis=1, dtype=jnp.int32)[None]
            return jax.lax.dynamic_update_slice(counts, found, (number, tiles.ZERO))

        counts = jax.lax.pcast(jnp.zeros((limit, block), jnp.int32), devices.AXIS, to="varying")
        if limit == 1:
            return count_one(tiles.ZERO, counts)
        return tiles.for_range(jnp.maximum(wanted[0], 1), count_one, counts)

    split = PartitionSpec(devices.AXIS)
    return jax.shard_map(count_tile, mesh=mesh, in_specs=split, out_specs=PartitionSpec(None, devices.AXIS))(
        numbers, lows, wanted
    )


def find_positives(grid: tiles.Grid, num_tiles: int, count: int) -> jax.Array:
    """Finds the cosines of the positives of the queries of the first `num_tiles` tiles, nearest first.

    The cosines come from the same tiles as the cosines of negatives, so that equal embeddings tie.

    Args:
      grid: of queries and gallery.
      num_tiles: number of tiles of queries.
      count: the number of positives to return.

    Returns:
      (count, num_tiles * block) float32, falling. inf: the query has no such positive.
    """
    block = grid.block
    low, part, width = _find_windows(grid, num_tiles)
    first_tile = low.min(axis=1) // block
    span = int(((low.max(axis=1) + width - 1) // block - first_tile).max()) + 1
    first_tile = np.minimum(first_tile, len(grid.column_labels) // block - span).astype(np.int32)
    return _positives_of_rows(
        grid._replace(block=None), first_tile, low, tiles.mesh_of(grid), block, part, width, span, count
    )


@functools.partial(jax.jit, static_argnames=("mesh", "block", "part", "width", "span", "count"))
def _positives_of_rows(grid, first_tiles, lows, mesh, block, part, width, span, count):
    def find_in_rows(i, best):
        first_tile = first_tiles[i]
        window_tiles = jax.lax.map(lambda t: tiles.multiply(grid, i, first_tile + t, block), tiles.arange(span))
        similarity = jnp.moveaxis(window_tiles, 0, 1).reshape(block, span * block)
        found = _largest_positives(grid, similarity, i, first_tile * block, lows[i], part, width, count)
        return jax.lax.dynamic_update_slice(best, found, (tiles.ZERO, i * block))

    none = jnp.zeros((count, len(first_tiles) * block), jnp.float32)
    return tiles.fold_over_devices(mesh, len(first_tiles), find_in_rows, none)


def count_negatives(grid: tiles.Grid, least: jax.Array, wanted: np.ndarray) -> np.ndarray:
    """Counts, for each of the cosines `least`, the columns of other classes whose cosine is at least as large.

    Args:
      grid: of queries and gallery.
      least: (count, rows) float32, several cosines per query of the first len(wanted) tiles.
      wanted: (tiles of rows,) int, the number of cosines to count for, in each tile. Other counts are undefined.

    Returns:
      (count, rows) int32.
    """
    height, width = len(wanted), len(grid.column_labels) // grid.block
    pairs = np.indices((height, width), np.int32).reshape(2, -1)
    if grid.columns is None:
        pairs = pairs[:, pairs[0] <= pairs[1]]  # a tile above the diagonal counts for both halves
    chunk = min(_CHUNK, pairs.shape[1])
    arguments = grid._replace(block=None), least, wanted.astype(np.int32)
    total = np.zeros(least.shape, np.int32)
    with tiles.progress(pairs.shape[1], "compare", "tile") as bar:
        for start in range(0, pairs.shape[1], chunk):
            some = pairs[:, start : start + chunk]
            number = some.shape[1]
            some = np.pad(some, ((0, 0), (0, chunk - number)))  # one program for all chunks
            total += np.asarray(_count_tiles(*arguments, *some, np.int32(number), tiles.mesh_of(grid), grid.block))
            bar.update(number)
    return total


@functools.partial(jax.jit, static_argnames=("mesh", "block"))
def _count_tiles(grid, least, wanted, tile_rows, tile_columns, number_of_tiles, mesh, block):
    symmetric = grid.columns is None

    def add(ahead, tile, number, reached, axis):
        """Adds the entries that reach cosine `number` of the queries of a tile."""
        counts = jnp.sum(reached, axis=axis, dtype=jnp.int32)[None]
        start = (number, tile * block)
        return jax.lax.dynamic_update_slice(ahead, jax.lax.dynamic_slice(ahead, start, (1, block)) + counts, start)

    def read_least(tile, number):
        return jax.lax.dynamic_slice(least, (number, tile * block), (1, block))

    def add_others(ahead, similarity, tile, limit):
        """Adds for the cosines 1, 2, ... of the queries that are the columns of `similarity`."""

        def add_one(number, ahead):
            return add(ahead, tile, number, similarity >= read_least(tile, number), 0)

        return jax.lax.fori_loop(jnp.int32(1), limit, add_one, ahead)

    def step(index, ahead):
        i, j = tile_rows[index], tile_columns[index]
        similarity = tiles.multiply(grid, i, j, block)
        row_labels = tiles.slice_rows(grid.row_labels, i * block, block)[:, None]
        column_labels = tiles.slice_rows(grid.column_labels, j * block, block)[None]
        negative = (row_labels != column_labels) & (row_labels >= 0) & (column_labels >= 0)
        other_half = symmetric & (i != j) & (j < len(wanted))
        # The first cosine, often the only one, takes one fused pass. The others read a masked copy.
        ahead = add(ahead, i, tiles.ZERO, (similarity >= read_least(i, tiles.ZERO).T) & negative, 1)
        if symmetric:
            ahead = add(ahead, j, tiles.ZERO, (similarity >= read_least(j, tiles.ZERO)) & negative & other_half, 0)
        if len(least) > 1:
            similarity = jnp.where(negative, similarity, -jnp.inf)
            ahead = add_others(ahead, similarity.T, i, wanted[i])
            if symmetric:
                ahead = add_others(ahead, similarity, j, jnp.where(other_half, wanted[j], tiles.ZERO))
        return ahead

    return tiles.fold_over_devices(mesh, number_of_tiles, step, jnp.zeros(least.shape, jnp.int32))
