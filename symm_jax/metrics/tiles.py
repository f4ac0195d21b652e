"""The similarity matrix of queries and gallery in tiles, and loops over it on every device of this process.

Rows are queries and columns are gallery images, both sorted by class. Indices are int32, also where JAX's default is 64
bits.
"""

import concurrent.futures
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import joblib
import numpy as np
import tqdm
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from symm_jax import devices
from symm_jax.devices import AXIS
from symm_jax.similarity import product

TIE = 2.0**-23  # cosines that differ by at most this tie: the step of float32 at 1, about the rounding of a cosine
ZERO = np.int32(0)  # as an index; a Python 0 may be an int64
ROWS = 256  # a block of this many rows stays in the caches
_UNIT_ROWS = 256  # rows that a thread normalises at once; they stay in its caches
_MOST_ENTRIES = 2**28  # similarities of a tile of queries with the whole gallery, 1 GB


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


def create_grid(queries: Any, side: Side, gallery: Any, other: Side, block_size: int | None = None) -> Grid:
    """Creates the grid.

    Args:
      queries: (n, dim) floating.
      side: the order of the queries.
      gallery: (m, dim) floating. None: the queries.
      other: the order of the gallery.
      block_size: rows and columns of a tile. None: that of the platform. A small grid has smaller tiles.
    """
    n, m = len(side.labels), len(other.labels)
    if block_size is None:
        block_size = devices.block_sizes().ranking_rows
        block_size = min(block_size, max(ROWS, _MOST_ENTRIES // m // ROWS * ROWS))
    block = min(block_size, -(-max(n, m) // ROWS) * ROWS)
    sharding = devices.replicated_sharding()

    def put(x, order):
        return jax.device_put(unit_rows(x, order, padding=-len(order) % block), sharding)

    labels = (np.pad(s.labels, (0, -len(s.labels) % block), constant_values=-1) for s in (side, other))
    columns = None if gallery is None else put(gallery, other.order)
    row_labels, column_labels = labels
    return Grid(put(queries, side.order), row_labels, columns, column_labels, block)


def unit_rows(x: Any, order: Any = None, padding: int = 0) -> np.ndarray:
    """Scales rows to unit norm, as float32. A zero row stays zero. Float64 in between makes equal directions equal.

    Args:
      x: (n, dim) floating.
      order: (m,) int, the rows to return. None: all rows in their order.
      padding: number of zero rows to append.

    Returns:
      (m + padding, dim) float32.
    """
    x = np.asarray(x)
    order = np.arange(len(x)) if order is None else order
    unit = np.zeros((len(order) + padding, x.shape[1]), np.float32)

    def scale(start):
        some = order[start : start + _UNIT_ROWS]
        rows = x[some].astype(np.float64)
        norm = np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]
        np.divide(rows, np.where(norm > 0, norm, 1), out=unit[start : start + len(some)], casting="same_kind")

    with concurrent.futures.ThreadPoolExecutor(joblib.cpu_count()) as pool:  # NumPy works in several threads at once
        list(pool.map(scale, range(0, len(order), _UNIT_ROWS)))
    return unit


def multiply(grid, i, j, block):
    """The similarities of the queries of tile i and the columns of tile j."""
    columns = grid.rows if grid.columns is None else grid.columns
    return product(slice_rows(grid.rows, i * block, block), slice_rows(columns, j * block, block))


def progress(total: int, label: str, unit: str) -> tqdm.tqdm:
    """A progress bar, which is shown when the work takes longer than a few seconds."""
    return tqdm.tqdm(total=total, desc=label, unit=unit, delay=5, leave=False, dynamic_ncols=True)


def fold_over_devices(mesh: Mesh, num: Any, step: Callable[[Any, jax.Array], jax.Array], zeros: jax.Array) -> jax.Array:
    """Folds step(chunk, array) over the chunks 0 .. num - 1, from `zeros`, and adds the arrays of all devices.

    With D devices, device d processes the chunks d, d + D, ...
    """

    def fold():
        number, device = jax.lax.axis_size(AXIS), jax.lax.axis_index(AXIS)
        count = (num - device + number - 1) // number
        start = jax.lax.pcast(zeros, AXIS, to="varying")
        return jax.lax.psum(for_range(count, lambda k, x: step(device + k * number, x), start), AXIS)

    return jax.shard_map(fold, mesh=mesh, in_specs=(), out_specs=PartitionSpec())()


def for_range(count: Any, step: Callable[[jax.Array, Any], Any], start: Any) -> Any:
    """Folds step(index, x) over the int32 indices 0 .. count - 1."""
    return jax.lax.fori_loop(jnp.int32(0), jnp.int32(count), step, start)


def arange(*bounds: int) -> jax.Array:
    """int32, also where JAX has 64 bits."""
    return jnp.arange(*bounds, dtype=jnp.int32)


def mesh_of(grid: Grid) -> Mesh:
    """The devices that share the rows."""
    sharding = grid.rows.sharding
    assert isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh)
    return sharding.mesh


def slice_rows(x, start, size):
    """Rows start .. start + size - 1, where `start` may be traced."""
    return jax.lax.dynamic_slice_in_dim(x, start, size)
