"""Embeds images with all local devices, in batches of one size."""

import collections
from collections.abc import Iterable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from symm_jax import devices

_BATCHES_AHEAD = 2  # dispatched before the loop waits: the next images are read while the device works


def create_embed(model: nn.Module) -> Any:
    """Jitted (variables, images (n, side, side, 3) uint8) -> embeddings (n, dim) float32, split over local devices."""

    def embed(variables, images):
        return jnp.asarray(model.apply(variables, images), jnp.float32)

    replicated, split = devices.replicated_sharding(), devices.split_sharding()
    # Not checked: the check has demands on loops that a model need not meet.
    mapped = jax.shard_map(
        embed, mesh=split.mesh, in_specs=(replicated.spec, split.spec), out_specs=split.spec, check_vma=False
    )
    return jax.jit(mapped, in_shardings=(replicated, split))


def embed_all(embed: Any, variables: Any, images: np.ndarray, batch_size: int, label: str) -> np.ndarray:
    """Embeds all images in batches of one size. The last batch is filled up.

    Args:
      embed: from `create_embed`.
      variables: of the model.
      images: (n, side, side, 3) uint8.
      batch_size: images per device.
      label: of the progress bar.

    Returns:
      (n, dim) float32, not normalised.
    """
    size = total_batch_size(len(images), batch_size)
    starts = tqdm.tqdm(range(0, len(images), size), desc=label, unit="batch", leave=False, dynamic_ncols=True)
    batches = (images[start : start + size] for start in starts)
    return np.concatenate([*embed_batches(embed, variables, batches, size)])


def total_batch_size(n: int, batch_size: int) -> int:
    """The number of images in a batch of all local devices, when `n` images are embedded, `batch_size` per device."""
    count = len(jax.local_devices())
    return count * min(batch_size, -(-n // count))


def embed_batches(embed: Any, variables: Any, batches: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The embeddings of each batch. While the device works, the next batches are taken from `batches`.

    Args:
      embed: from `create_embed`.
      variables: of the model.
      batches: at most `size` images each, (k, side, side, 3) uint8. A smaller batch is filled up.
      size: from `total_batch_size`.

    Yields:
      (k, dim) float32, not normalised.
    """
    variables = jax.device_put(variables, devices.replicated_sharding())
    dispatched: collections.deque[tuple[Any, int]] = collections.deque()
    for batch in batches:
        if batch.dtype != np.uint8:
            raise ValueError(f"images must be uint8, 0 to 255, got {batch.dtype}: other numbers would be cut to that")
        filled = np.zeros((size, *batch.shape[1:]), np.uint8)
        filled[: len(batch)] = batch
        dispatched.append((embed(variables, filled), len(batch)))
        if len(dispatched) > _BATCHES_AHEAD:
            embeddings, k = dispatched.popleft()
            yield np.asarray(embeddings)[:k]
    for embeddings, k in dispatched:
        yield np.asarray(embeddings)[:k]
