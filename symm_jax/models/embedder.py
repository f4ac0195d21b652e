"""The embedding network: a backbone, which pools an image to features, and a linear layer."""

import inspect
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, Num

from symm_jax.errors import InputError, lookup, suggest
from symm_jax.models.backbones import BACKBONES
from symm_jax.signatures import option_fault


class Embedder(nn.Module):
    """A backbone and the embedding layer: Xavier-uniform, bias 0, no activation, as in the original.

    Attributes:
      backbone: images -> pooled features (n, features).
      dim: embedding dimension.
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.
    """

    backbone: nn.Module
    dim: int = 512
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Num[ArrayLike, "n height width 3"]) -> Float[Array, "n {self.dim}"]:
        """Unnormalised RGB images, 0..255, uint8 or float -> embeddings, not normalised."""
        layer = nn.Dense(
            self.dim,
            kernel_init=nn.initializers.xavier_uniform(),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="embedding",
        )
        return layer(self.backbone(images))


def create(
    name: str, *, dim: int = 512, dtype: Any = jnp.float32, param_dtype: Any = jnp.float32, **options: Any
) -> Embedder:
    """Creates the Linen module of an embedding network.

    Args:
      name: a key of BACKBONES.
      dim: embedding dimension.
      dtype: dtype of the computation, or its name.
      param_dtype: dtype of the parameters, or its name.
      **options: fields of the backbone, e.g. lrn="caffe" for googlenet.

    Raises:
      InputError: the name or an option is unknown, or an option has a value of another type than its default. The
        message suggests the closest name.
    """
    backbone = lookup("model", name, BACKBONES, argument="model").module
    parameters = inspect.signature(backbone).parameters
    known = [f for f in parameters if f not in ("dtype", "param_dtype", "parent", "name")]
    for key, value in options.items():
        if key not in known:
            raise InputError(
                f"{name!r} has no option {key!r}{suggest(key, known)}; options: {', '.join(known) or 'none'}",
                argument="options",
            )
        if fault := option_fault(value, parameters[key]):
            raise InputError(f"{key} of {name!r} {fault}", argument="options")
    dtype, param_dtype = jnp.dtype(dtype), jnp.dtype(param_dtype)
    module = backbone(**options, dtype=dtype, param_dtype=param_dtype, name="backbone")
    return Embedder(module, dim, dtype, param_dtype)


def init_variables(model: nn.Module, image_size: int, key: Key[Array, ""]) -> dict[str, Any]:
    """Random variables of a model: "params", and "batch_stats" if it has running statistics."""
    return dict(model.init(key, jnp.zeros((1, image_size, image_size, 3), jnp.uint8)))
