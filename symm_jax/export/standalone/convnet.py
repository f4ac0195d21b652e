"""The small convolutional network in Flax, as model.safetensors has its parameters."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class Backbone(nn.Module):
    """uint8 RGB (n, side, side, 3) -> features (n, widths[-1])."""

    widths: Any
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images):
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = images.astype(jnp.float32)
        x = x - x.mean(axis=(1, 2, 3), keepdims=True)  # each image by its own mean and contrast
        x = x * jax.lax.rsqrt(jnp.square(x).mean(axis=(1, 2, 3), keepdims=True) + 1)
        x = pixels_to_channels(x.astype(self.dtype))
        for stage, width in enumerate(self.widths):
            if stage:
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
            x = nn.Conv(width, (3, 3), use_bias=False, **options, name=f"Conv_{stage}")(x)
            x = nn.relu(nn.GroupNorm(8, **options, name=f"GroupNorm_{stage}")(x))
        return x.mean(axis=(1, 2))


def pixels_to_channels(x):
    """2x2 pixels become channels; odd sides are padded with 0."""
    n, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)))
    x = x.reshape(n, (h + 1) // 2, 2, (w + 1) // 2, 2, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, (h + 1) // 2, (w + 1) // 2, 4 * c)
