"""A small convolutional network for the glyphs demonstration: trains from scratch in minutes on a CPU."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from symm_jax.errors import InputError


class ConvNet(nn.Module):
    """Stages of 3x3 convolution, group norm, ReLU and 2x2 max pooling, then the mean over places.

    Attributes:
      widths: channels of each stage, multiples of 8; the image side must be at least 2^len(widths).
      dtype: of the computation.
      param_dtype: of the parameters.
    """

    widths: tuple[int, ...] = (32, 64, 128, 256)
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Raw RGB (n, side, side, 3), 0..255, uint8 or float -> pooled features (n, widths[-1])."""
        if min(images.shape[1:3]) < 2 ** len(self.widths):
            raise InputError(
                f"config.data.image_size: a convnet of {len(self.widths)} stages needs at least "
                f"{2 ** len(self.widths)} px, got {images.shape[1:3]}"
            )
        x = images.astype(jnp.float32)
        # Each image by its own mean and contrast, so that paper and ink do not matter.
        centred = x - x.mean(axis=(1, 2, 3), keepdims=True)
        x = (centred * jax.lax.rsqrt(jnp.square(centred).mean(axis=(1, 2, 3), keepdims=True) + 1)).astype(self.dtype)
        for width in self.widths:
            x = nn.Conv(width, (3, 3), use_bias=False, dtype=self.dtype, param_dtype=self.param_dtype)(x)
            x = nn.GroupNorm(8, dtype=self.dtype, param_dtype=self.param_dtype)(x)
            x = nn.max_pool(nn.relu(x), (2, 2), strides=(2, 2))
        return x.mean(axis=(1, 2))
