"""Embedding networks: a backbone, which pools an image to features, and a linear layer on top.

Every model takes raw RGB images (n, side, side, 3), 0..255, uint8 or float, and normalises them itself. Its
parameters are {"backbone": ..., "embedding": {"kernel": (features, dim), "bias": (dim,)}}.
"""

import inspect
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from symm_jax import errors
from symm_jax.data import download, sources
from symm_jax.models.convnet import ConvNet
from symm_jax.models.googlenet import GoogLeNet, load_googlenet_mat

BACKBONES = {"googlenet": GoogLeNet, "convnet": ConvNet}
# Readers of pretrained weights, path -> parameters of the backbone.
PRETRAINED = {"googlenet": load_googlenet_mat}


class Embedder(nn.Module):
    """A backbone and the embedding layer: Xavier-uniform, bias 0, no activation, as in the original.

    Attributes:
      backbone: images -> pooled features (n, features).
      dim: length of the embedding.
      dtype: of the computation.
      param_dtype: of the parameters.
    """

    backbone: nn.Module
    dim: int = 512
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """(n, side, side, 3) -> raw embeddings (n, dim), not normalised."""
        layer = nn.Dense(
            self.dim,
            kernel_init=nn.initializers.xavier_uniform(),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="embedding",
        )
        return layer(self.backbone(images))


def create(name: str, *, dim: int = 512, dtype: Any = jnp.float32, param_dtype: Any = jnp.float32, **options: Any):
    """Makes the Linen module of a model.

    Args:
      name: a key of BACKBONES.
      dim: length of the embedding.
      dtype: of the computation, a dtype or its name.
      param_dtype: of the parameters, likewise.
      **options: fields of the backbone, e.g. lrn="caffe" for googlenet.

    Raises:
      InputError: unknown name or option, with the nearest known one.
    """
    backbone = errors.choose("model in config.model.name", name, BACKBONES)
    known = [f for f in inspect.signature(backbone).parameters if f not in ("dtype", "param_dtype", "parent", "name")]
    for key in options.keys() - set(known):
        raise errors.InputError(
            f"config.model.options: {name!r} has no option {key!r}{errors.suggest(key, known)}; "
            f"options: {', '.join(known) or 'none'}"
        )
    dtypes = {"dtype": jnp.dtype(dtype), "param_dtype": jnp.dtype(param_dtype)}
    return Embedder(backbone(**options, **dtypes, name="backbone"), dim, **dtypes)


def load_pretrained(name: str, path: str) -> dict:
    """Parameters of the backbone `name` from a file of pretrained weights.

    Warns of a file that is called like the published one and is another.

    Raises:
      InputError: there is no reader for this backbone, or the file is not one of its weights.
    """
    if name not in PRETRAINED:
        raise errors.InputError(
            f"config.model.pretrained: there are no pretrained weights for {name!r}, only for "
            f"{', '.join(PRETRAINED)}; pass --config.model.pretrained= to train from scratch"
        )
    params = PRETRAINED[name](path)
    file = Path(path).expanduser()
    known = sources.published(file.name)
    if known and (reason := download.verify(file, known)):
        errors.warn(f"{file} is not the published file of that name: {reason}")
    return params
