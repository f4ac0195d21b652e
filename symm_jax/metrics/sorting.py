"""The ranks of queries with many positives, by sorting: the time does not grow with the number of positives.

The cosines of a tile of queries with the whole gallery become integers of the same order. NumPy selects and sorts the
nearest R of each query, where R is the number of its positives. MAP@R and R-precision do not need later ranks.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from symm_jax import devices
from symm_jax.devices import AXIS
from symm_jax.metrics import tiles

_LOWEST = np.iinfo(np.int32).min  # the key of an image that is not compared: the query itself, or padding


def sort(grid: tiles.Grid, num_positives: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ranks the positives of the queries of the tiles from number `first` on.

    Args:
      grid: of queries and gallery.
      num_positives: (rows,) int, the number of positives of each query of these tiles, without padding.
      first: number of the first tile.

    Returns:
      As `counting.count`.
    """
    mesh, block = tiles.mesh_of(grid), grid.block
    k = 0 if devices.platform() == "cpu" else int(num_positives.max())  # XLA sorts fifty times slower on a CPU
    numbers = np.arange(first, len(grid.row_labels) // block, dtype=np.int32)
    groups = [numbers[start : start + mesh.size] for start in range(0, len(numbers), mesh.size)]

    def start(group):
        return _rank_rows(grid._replace(block=None), np.resize(group, mesh.size), mesh, block, k)

    ahead, hits, precision = [], [], []
    with tiles.progress(len(num_positives), "sort", "image") as bar:
        following = start(groups[0])
        for number, group in enumerate(groups, 1):
            found = following
            if number < len(groups):
                following = start(groups[number])  # the device works while NumPy sorts
            row = (group[0] - first) * block
            wanted = num_positives[row : row + len(group) * block]
            keys = np.asarray(found.keys)
            ahead.append(np.asarray(found.ahead)[: len(wanted)])
            for part in range(0, len(wanted), tiles.ROWS):
                sums = _score(keys[part : part + tiles.ROWS], wanted[part : part + tiles.ROWS])
                hits.append(sums[0])
                precision.append(sums[1])
            bar.update(len(wanted))
    return np.concatenate(ahead), np.concatenate(hits), np.concatenate(precision)


def _score(keys: np.ndarray, num_positives: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums over the positives within the first R ranks: of 1, and of the precision at their rank.

    Args:
      keys: (rows or more, m) int32, see `_Found`.
      num_positives: (rows,) int, R of each query.
    """
    most = int(num_positives.max())
    keys = keys[: len(num_positives)]
    if most < keys.shape[1]:
        keys = np.partition(keys, keys.shape[1] - most, axis=1)[:, keys.shape[1] - most :]
    ranked = np.sort(keys, axis=1)[:, ::-1]
    place = np.arange(1, most + 1)
    hit = (ranked % 2 == 0) & (place <= num_positives[:, None])
    precision = np.where(hit, np.cumsum(hit, axis=1) / place, 0)
    # cumsum adds in the order of the ranks, as counting does. sum adds in another order, and may round differently.
    return hit.sum(axis=1), np.cumsum(precision, axis=1)[:, -1]


class _Found(NamedTuple):
    """What a device finds for the queries of a tile.

    keys (block, m) int32: the keys of the gallery, see `_encode`. On accelerators only the k largest, in order.
    ahead (block,) int32: the number of negatives that rank before the nearest positive.
    """

    keys: jax.Array
    ahead: jax.Array


@functools.partial(jax.jit, static_argnames=("mesh", "block", "k"))
def _rank_rows(grid, numbers, mesh, block, k) -> _Found:
    """Ranks the gallery for the queries of some tiles, one tile per device. `k` as in `_Found`; 0 keeps all keys."""
    width = len(grid.column_labels)

    def rank_tile(number):
        i = number[0]
        row_labels = tiles.slice_rows(grid.row_labels, i * block, block)[:, None]

        def add_tile(j, carry):
            keys, nearest = carry
            column_labels = tiles.slice_rows(grid.column_labels, j * block, block)[None]
            compared = jnp.broadcast_to(column_labels >= 0, (block, block))
            if grid.columns is None:
                compared &= i * block + tiles.arange(block)[:, None] != j * block + tiles.arange(block)[None]
            positive = row_labels == column_labels
            tile = jnp.where(compared, _encode(tiles.multiply(grid, i, j, block), positive), _LOWEST)
            largest = jnp.max(jnp.where(positive, tile, _LOWEST), axis=1)
            return jax.lax.dynamic_update_slice(keys, tile, (tiles.ZERO, j * block)), jnp.maximum(nearest, largest)

        none = jnp.full((block, width), _LOWEST, jnp.int32), jnp.full(block, _LOWEST, jnp.int32)
        start = jax.lax.pcast(none, AXIS, to="varying")
        keys, nearest = tiles.for_range(width // block, add_tile, start)
        ahead = jnp.sum((keys > nearest[:, None]) & (keys % 2 == 1), axis=1, dtype=jnp.int32)
        return _Found(jnp.sort(keys, axis=1)[:, -k:] if k else keys, ahead)

    split = PartitionSpec(AXIS)
    return jax.shard_map(rank_tile, mesh=mesh, in_specs=split, out_specs=split)(numbers)


def _encode(cosine: jax.Array, positive: jax.Array) -> jax.Array:
    """The keys of cosines: integers of the same order, even for positives and odd for negatives.

    A positive is put back by TIE, and a negative of the same cosine has the larger key: ties rank as in `ranking.rank`.
    A float32 below 2 has 30 bits besides its sign, so a 31st bit has room.
    """
    cosine = jnp.where(positive, cosine - jnp.float32(tiles.TIE), cosine)
    cosine = jnp.where(jnp.abs(cosine) < jnp.finfo(jnp.float32).tiny, jnp.float32(0), cosine)  # -0 is 0
    bits = jax.lax.bitcast_convert_type(cosine, jnp.int32)
    size = bits & jnp.int32(0x7FFFFFFF)
    return 2 * jnp.where(bits < 0, -size, size) + jnp.where(positive, jnp.int32(0), jnp.int32(1))
