"""Shardings over the devices of this process, the platform that programs are traced for, and its block sizes."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "devices"  # what pmap and shard_map map over
_TRACED_FOR: contextvars.ContextVar[str] = contextvars.ContextVar("traced_for", default="")


def platform() -> str:
    """The platform whose fastest operations and block sizes are chosen: JAX's default one, or that of `traced_for`."""
    return _TRACED_FOR.get() or jax.default_backend()


@contextlib.contextmanager
def traced_for(name: str) -> Iterator[None]:
    """Networks that are traced in the block are meant for the platform `name`, such as "cpu" or "gpu"."""
    token = _TRACED_FOR.set(name)
    try:
        yield
    finally:
        _TRACED_FOR.reset(token)


class BlockSizes(NamedTuple):
    """The sizes of the blocks of loops over pairs of embeddings. Results do not depend on them, beyond rounding."""

    loss_entries: int  # entries, rows x columns, in a block of the miner
    loss_rows: int  # rows in a block of a loss that does not store all entries
    ranking_rows: int  # rows and columns in a tile of a ranking


# Blocks stay in the caches of a CPU. A GPU needs large blocks, because it runs every operation of a block as a kernel.
_BLOCK_SIZES = {
    "cpu": BlockSizes(loss_entries=2**18, loss_rows=256, ranking_rows=512),
    "gpu": BlockSizes(loss_entries=2**25, loss_rows=2048, ranking_rows=4096),
}


def block_sizes() -> BlockSizes:
    """The block sizes of `platform()`. Other accelerators have those of a GPU."""
    return _BLOCK_SIZES.get(platform(), _BLOCK_SIZES["gpu"])


def replicated_sharding() -> NamedSharding:
    """A copy on every local device."""
    return NamedSharding(Mesh(jax.local_devices(), AXIS), PartitionSpec())


def split_sharding() -> NamedSharding:
    """The leading axis split over the local devices."""
    return NamedSharding(Mesh(jax.local_devices(), AXIS), PartitionSpec(AXIS))
