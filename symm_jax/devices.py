"""Where arrays lie on this process's devices, and not on all: while one process evaluates, others do something else."""

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "devices"  # what pmap and shard_map map over


def everywhere() -> NamedSharding:
    """A copy on every local device."""
    return NamedSharding(Mesh(jax.local_devices(), AXIS), PartitionSpec())


def shared() -> NamedSharding:
    """The leading axis divided among the local devices."""
    return NamedSharding(Mesh(jax.local_devices(), AXIS), PartitionSpec(AXIS))
