"""Shardings over the devices of this process, and the platform that networks are traced for."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "devices"  # what pmap and shard_map map over
_TRACED_FOR: contextvars.ContextVar[str] = contextvars.ContextVar("traced_for", default="")


def platform() -> str:
    """The platform whose fastest operations a network chooses: JAX's default one, or that of `traced_for`."""
    return _TRACED_FOR.get() or jax.default_backend()


@contextlib.contextmanager
def traced_for(name: str) -> Iterator[None]:
    """Networks that are traced in the block are meant for the platform `name`, such as "cpu" or "gpu"."""
    token = _TRACED_FOR.set(name)
    try:
        yield
    finally:
        _TRACED_FOR.reset(token)


def replicated_sharding() -> NamedSharding:
    """A copy on every local device."""
    return NamedSharding(Mesh(jax.local_devices(), AXIS), PartitionSpec())


def split_sharding() -> NamedSharding:
    """The leading axis split over the local devices."""
    return NamedSharding(Mesh(jax.local_devices(), AXIS), PartitionSpec(AXIS))
