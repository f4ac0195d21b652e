"""Batches on the devices: sent from the memory map ahead of time, or sampled from images in device memory."""

import collections
import concurrent.futures
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from symm_jax import devices
from symm_jax.data import pairs
from symm_jax.data.arrays import Arrays

ON_DEVICE = ("auto", "always", "never")  # values of config.data.on_device
_MEMORY_FRACTION = 0.5  # of the free memory of a device that images may take: a step needs the rest
_PAIR_STREAM = 0  # independent use of the run's key; step.py has the others
_CHUNK = 128  # steps whose indices are sampled at once
_PREFETCHED = 2  # batches that are sent before they are used


class Batch(NamedTuple):
    """A batch of n pairs, or of 2 n images of a shuffled epoch.

    images: (n, 2, side, side, 3) uint8, anchor and positive.
    short_side_ratio: (n, 2, 2) float32, see `Arrays`.
    labels: (n,) int32; of a shuffled epoch (n, 2), one per image.
    """

    images: Any
    short_side_ratio: Any
    labels: Any


class Resident(NamedTuple):
    """A training set in device memory: the fields of `Arrays`, and the table to sample pairs from."""

    images: Any
    short_side_ratio: Any
    labels: Any
    table: pairs.ClassTable


def generate(
    arrays: Arrays,
    table: pairs.ClassTable,
    key: jax.Array,
    first_step: int,
    num_steps: int,
    num_pairs: int,
    num_devices: int,
    *,
    images_per_class: int = 2,
    local: slice = slice(None),
) -> Iterator[Batch]:
    """The batches of steps first_step .. num_steps - 1, split over devices: numpy arrays (devices, n, ...).

    Args:
      arrays: the training images.
      table: the classes to sample from.
      key: the run's key.
      first_step: the first step.
      num_steps: the step at which training ends.
      num_pairs: pairs in a batch of all devices.
      num_devices: devices of all processes.
      images_per_class: images of each class in a batch; 1: shuffled epochs.
      local: the devices of this process. Nothing is read for the others.
    """
    chunk = pairs.steps_per_epoch(table, num_pairs) if images_per_class == 1 else _CHUNK
    for start, end in step_chunks(first_step, num_steps, chunk):
        # On the CPU: an accelerator would first finish the steps that it has been given.
        with jax.default_device(_cpu()):
            sampled = pairs.sample_steps(pair_key(key), start, end - start, table, num_pairs, images_per_class)
        for index in sampled:
            yield gather(arrays, index.reshape(num_devices, -1, 2)[local], images_per_class)


def gather(source: Arrays | Resident, index: Any, images_per_class: int) -> Batch:
    """The images of the indices (..., n, 2), with a label for each pair, or for each image of a shuffled epoch."""
    own = index if images_per_class == 1 else index[..., 0]
    return Batch(source.images[index], source.short_side_ratio[index], source.labels[own])


def pair_key(key: jax.Array) -> jax.Array:
    """The key for `pairs.sample`, derived from the run's key."""
    return jax.random.fold_in(key, _PAIR_STREAM)


def local_devices() -> slice:
    """The positions of this process's devices among all devices."""
    first = jax.process_index() * jax.local_device_count()
    return slice(first, first + jax.local_device_count())


def prefetch(stream: Iterable[Batch]) -> Iterator[Batch]:
    """The same batches on the local devices. A thread gathers and sends them before they are used."""
    split, stream = devices.split_sharding(), iter(stream)

    def fetch() -> Batch | None:
        batch = next(stream, None)
        return None if batch is None else jax.device_put(batch, split)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = collections.deque(pool.submit(fetch) for _ in range(_PREFETCHED))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(fetch))
            yield batch


def fits_in_device_memory(arrays: Arrays) -> bool:
    """Whether images and a training step fit into the memory of every local device.

    False on a CPU: the memory map is in its memory already.
    """
    free = []
    for device in jax.local_devices():
        stats = device.memory_stats() or {}
        free.append(stats.get("bytes_limit", 0) - stats.get("bytes_in_use", 0))
    return arrays.images.nbytes <= _MEMORY_FRACTION * min(free)


def replicate(tree: Any) -> Any:
    """A copy on every local device along a new leading axis, as pmap takes it."""
    split, copies = devices.split_sharding(), jax.local_device_count()

    def put(x):
        return jax.device_put(np.broadcast_to(np.asarray(x)[None], (copies, *x.shape)), split)

    return jax.tree.map(put, tree)


def step_chunks(first_step: int, num_steps: int, *every: int) -> Iterator[tuple[int, int]]:
    """Steps first_step .. num_steps in chunks (start, end) that end at each multiple of the numbers `every`.

    Example:
      >>> list(step_chunks(3, 12, 5, 6))
      [(3, 5), (5, 6), (6, 10), (10, 12)]
    """
    start = first_step
    while start < num_steps:
        end = min(num_steps, *((start // e + 1) * e for e in every))
        yield start, end
        start = end


def _cpu() -> Any:
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves it out
        return None
