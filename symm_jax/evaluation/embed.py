"""Embeds images with all local devices, in batches of one size."""

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
    if images.dtype != np.uint8:
        raise ValueError(f"images must be uint8, 0 to 255, got {images.dtype}: other numbers would be cut to that")
    count = len(jax.local_devices())
    variables = jax.device_put(variables, devices.replicated_sharding())
    n = len(images)
    size = count * min(batch_size, -(-n // count))
    out = []
    for start in tqdm.tqdm(range(0, n, size), desc=label, unit="batch", leave=False, dynamic_ncols=True):
        batch = images[start : start + size]
        filled = np.zeros((size, *images.shape[1:]), np.uint8)
        filled[: len(batch)] = batch
        out.append(embed(variables, filled))
        jax.block_until_ready(out[max(0, len(out) - 1 - _BATCHES_AHEAD)])
    return np.concatenate(out)[:n]
