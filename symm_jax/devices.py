"""Shardings over the devices of this process. Other processes may do something else meanwhile."""

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "devices"  # what pmap and shard_map map over


def replicated_sharding() -> NamedSharding:
    """A copy on every local device."""
    return NamedSharding(Mesh(jax.local_devices(), AXIS), PartitionSpec())


def split_sharding() -> NamedSharding:
    """The leading axis split over the local devices."""
    return NamedSharding(Mesh(jax.local_devices(), AXIS), PartitionSpec(AXIS))
