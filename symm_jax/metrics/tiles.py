"""The similarity matrix of queries and gallery in tiles: cosines of positives, and counts of negatives.

Rows are queries and columns are gallery images, both sorted by class. Every device of this process processes a part of
the blocks and tiles. Integers are added over the devices, so the result does not depend on the number of devices.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from symm_jax.devices import AXIS, replicated_sharding
from symm_jax.similarity import product

_POSITIVES_BLOCK = 256  # queries whose positives are sorted at once
_UNIT_ROWS = 1024  # rows normalised at once; they stay in the caches


class Side(NamedTuple):
    """Queries or gallery. order (n,): images sorted by class; labels (n,) int32: the numbers of the classes, rising."""

    order: np.ndarray
    labels: np.ndarray


class Grid(NamedTuple):
    """The similarity matrix in tiles of block x block.

    Rows are queries and columns are gallery images, sorted by class and padded to full tiles. The label of padding is
    -1. `columns` is None if the queries are the gallery. Embeddings are on every device.
    """

    rows: jax.Array
    row_labels: np.ndarray
    columns: jax.Array | None
    column_labels: np.ndarray
    block: int


def create_grid(queries: Any, side: Side, gallery: Any, other: Side, block_size: int) -> Grid:
    """Creates the grid. `side` and `other` are the orders of queries and gallery. `gallery` None means the queries."""
    longest = max(len(side.labels), len(other.labels))
    block = min(block_size, -(-longest // _POSITIVES_BLOCK) * _POSITIVES_BLOCK)
    sharding = replicated_sharding()

    def pad(x, **value):
        return np.pad(x, [(0, -len(x) % block)] + [(0, 0)] * (x.ndim - 1), **value)

    def put(x, order):
        return jax.device_put(pad(unit_rows(x)[order]), sharding)

    labels = (pad(s.labels, constant_values=-1) for s in (side, other))
    columns = None if gallery is None else put(gallery, other.order)
    row_labels, column_labels = labels
    return Grid(put(queries, side.order), row_labels, columns, column_labels, block)


def unit_rows(x: Any) -> np.ndarray:
    """Scales rows to unit norm, as float32. A zero row stays zero. Float64 in between makes equal directions equal."""
    x = np.asarray(x)
    unit = np.empty(x.shape, np.float32)
    for start in range(0, len(x), _UNIT_ROWS):
        rows = x[start : start + _UNIT_ROWS].astype(np.float64)
        norm = np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]
        unit[start : start + _UNIT_ROWS] = rows / np.where(norm > 0, norm, 1)
    return unit


def find_positives(grid: Grid, first: int, count: int) -> jax.Array:
    """Finds the cosines of the positives of each query, nearest first.

    The cosines come from the same tiles as the cosines of negatives, so that equal embeddings tie.

    Args:
      grid: of queries and gallery.
      first: the number of positives to skip.
      count: the number of positives to return.

    Returns:
      (count, rows) float32, falling. inf: the query has no such positive.
    """
    block = grid.block
    part = _POSITIVES_BLOCK if block % _POSITIVES_BLOCK == 0 else block
    # Rows are sorted by class, so all positives of a part are in one window of columns. Padding has an empty window.
    classes = np.where(grid.row_labels < 0, grid.row_labels.max(), grid.row_labels)
    known = grid.column_labels[grid.column_labels >= 0]
    low = np.searchsorted(known, classes[::part])
    high = np.searchsorted(known, classes[part - 1 :: part], side="right")
    width = max(int((high - low).max()), 1)
    low = np.minimum(low, len(grid.column_labels) - width).reshape(-1, block // part)
    first_tile = low.min(axis=1) // block
    num_tiles = int(((low.max(axis=1) + width - 1) // block - first_tile).max()) + 1
    first_tile = np.minimum(first_tile, len(grid.column_labels) // block - num_tiles)
    mesh = _mesh(grid)
    return _positives_of_rows(
        grid._replace(block=None), first_tile, low, mesh, block, part, width, num_tiles, first, count
    )


@functools.partial(jax.jit, static_argnames=("mesh", "block", "part", "width", "num_tiles", "first", "count"))
def _positives_of_rows(grid, first_tiles, lows, mesh, block, part, width, num_tiles, first, count):
    symmetric = grid.columns is None
    columns = grid.rows if symmetric else grid.columns

    def find_in_rows(i, best):
        first_tile = first_tiles[i]
        queries = _slice(grid.rows, i * block, block)
        tiles = [product(queries, _slice(columns, (first_tile + t) * block, block)) for t in range(num_tiles)]
        similarity = jnp.concatenate(tiles, axis=1)

        def find_in_part(_, start):
            row, column = start
            window = (row, column - first_tile * block)
            cosines = jax.lax.dynamic_slice(similarity, window, (part, width))
            row += i * block
            row_labels = _slice(grid.row_labels, row, part)[:, None]
            column_labels = _slice(grid.column_labels, column, width)[None]
            positive = row_labels == column_labels
            if symmetric:
                positive &= row + jnp.arange(part)[:, None] != column + jnp.arange(width)[None]
            cosines = jnp.where(positive, cosines, -jnp.inf)
            if first + count == 1:
                largest = jnp.max(cosines, axis=1, keepdims=True)
            else:
                largest = jax.lax.top_k(cosines, min(first + count, width))[0][:, first:]
            return None, jnp.where(largest == -jnp.inf, jnp.inf, largest)

        found = jax.lax.scan(find_in_part, None, (jnp.arange(0, block, part), lows[i]))[1]
        found = found.reshape(block, -1).T
        found = jnp.pad(found, ((0, count - len(found)), (0, 0)), constant_values=jnp.inf)
        return jax.lax.dynamic_update_slice(best, found, (0, i * block))

    return _fold_over_devices(mesh, len(first_tiles), find_in_rows, jnp.zeros((count, len(grid.rows)), jnp.float32))


def count_negatives(grid: Grid, least: jax.Array, wanted: np.ndarray) -> jax.Array:
    """Counts, for each of the cosines `least`, the columns of other classes whose cosine is at least as large.

    Args:
      grid: of queries and gallery.
      least: (count, rows) float32, several cosines per query.
      wanted: (tiles of rows,) int, the number of cosines to count for, in each tile. Other counts are undefined.

    Returns:
      (count, rows) int32.
    """
    height, width = (len(labels) // grid.block for labels in (grid.row_labels, grid.column_labels))
    tiles = np.triu_indices(height) if grid.columns is None else np.indices((height, width)).reshape(2, -1)
    numbers = (x.astype(np.int32) for x in (wanted, *tiles))
    return _count_tiles(grid._replace(block=None), least, *numbers, _mesh(grid), grid.block)


@functools.partial(jax.jit, static_argnames=("mesh", "block"))
def _count_tiles(grid, least, wanted, tile_rows, tile_columns, mesh, block):
    symmetric = grid.columns is None
    columns = grid.rows if symmetric else grid.columns

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

        return jax.lax.fori_loop(1, limit, add_one, ahead)

    def step(index, ahead):
        i, j = tile_rows[index], tile_columns[index]
        similarity = product(_slice(grid.rows, i * block, block), _slice(columns, j * block, block))
        row_labels = _slice(grid.row_labels, i * block, block)[:, None]
        column_labels = _slice(grid.column_labels, j * block, block)[None]
        negative = (row_labels != column_labels) & (row_labels >= 0) & (column_labels >= 0)
        other_half = symmetric & (i != j)
        # The first cosine, often the only one, takes one fused pass. The others read a masked copy.
        ahead = add(ahead, i, 0, (similarity >= read_least(i, 0).T) & negative, 1)
        if symmetric:
            ahead = add(ahead, j, 0, (similarity >= read_least(j, 0)) & negative & other_half, 0)
        if len(least) > 1:
            similarity = jnp.where(negative, similarity, -jnp.inf)
            ahead = add_others(ahead, similarity.T, i, wanted[i])
            if symmetric:
                ahead = add_others(ahead, similarity, j, jnp.where(other_half, wanted[j], 0))
        return ahead

    return _fold_over_devices(mesh, len(tile_rows), step, jnp.zeros(least.shape, jnp.int32))


def _fold_over_devices(
    mesh: Mesh, num: int, step: Callable[[Any, jax.Array], jax.Array], zeros: jax.Array
) -> jax.Array:
    """Folds step(chunk, array) over the chunks 0 .. num - 1, from `zeros`, and adds the arrays of all devices.

    With D devices, device d processes the chunks d, d + D, ...
    """

    def fold():
        devices, device = jax.lax.axis_size(AXIS), jax.lax.axis_index(AXIS)
        count = (num - device + devices - 1) // devices
        start = jax.lax.pcast(zeros, AXIS, to="varying")
        return jax.lax.psum(jax.lax.fori_loop(0, count, lambda k, x: step(device + k * devices, x), start), AXIS)

    return jax.shard_map(fold, mesh=mesh, in_specs=(), out_specs=PartitionSpec())()


def _mesh(grid: Grid) -> Mesh:
    sharding = grid.rows.sharding
    assert isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh)
    return sharding.mesh


def _slice(x, start, size):
    return jax.lax.dynamic_slice_in_dim(x, start, size)
