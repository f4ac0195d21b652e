"""What is exported: uint8 RGB images -> embeddings of unit length, as one pure function of variables and images."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from symm_jax import devices, models
from symm_jax.search.embedder import Embedder

PLATFORMS = ("cpu", "cuda")


def unit_embeddings(model: nn.Module, platform: str) -> Callable[[Any, Any], jax.Array]:
    """A function (variables, images (n, side, side, 3) uint8) -> (n, dim) float32, each row of unit length.

    Args:
      model: images -> embeddings, not of unit length.
      platform: the platform whose fastest operations the network chooses when it is traced.
    """

    def embed(variables, images):
        with devices.traced_for(platform):
            embeddings = jnp.asarray(model.apply(variables, images), jnp.float32)
        norms = jnp.linalg.norm(embeddings, axis=1, keepdims=True)
        return embeddings / jnp.maximum(norms, np.finfo(np.float32).tiny)  # a row of zeros stays

    return embed


def any_images(network: Embedder) -> jax.ShapeDtypeStruct:
    """The images, (n, side, side, 3) uint8, where n is a symbol."""
    (n,) = jax.export.symbolic_shape("n")
    return jax.ShapeDtypeStruct((n, network.image_size, network.image_size, 3), jnp.uint8)


def to_stablehlo(network: Embedder) -> bytes:
    """The network with its weights as a file of jax.export, for PLATFORMS and any number of images."""
    cpu, gpu = (unit_embeddings(network.model, platform) for platform in ("cpu", "gpu"))
    variables = jax.tree.map(np.asarray, network.variables)

    def embed(images):
        return jax.lax.platform_dependent(variables, images, cpu=cpu, default=gpu)

    with _without_folders():
        return bytes(jax.export.export(jax.jit(embed), platforms=PLATFORMS)(any_images(network)).serialize())


def in_float32(network: Embedder) -> tuple[nn.Module, dict[str, Any]]:
    """The module and the variables of a network that computes in float32."""
    model = network.model.clone(dtype=jnp.float32)
    if isinstance(model, models.Embedder):
        model = model.clone(backbone=model.backbone.clone(dtype=jnp.float32))
    return model, jax.tree.map(lambda x: np.asarray(x, np.float32), dict(network.variables))


@contextlib.contextmanager
def _without_folders() -> Iterator[None]:
    """JAX notes from which file each operation comes. Folders are of this machine, and are left out."""
    config: Any = jax.config
    before = config.jax_hlo_source_file_canonicalization_regex
    config.update("jax_hlo_source_file_canonicalization_regex", ".*/")
    try:
        yield
    finally:
        config.update("jax_hlo_source_file_canonicalization_regex", before)
