"""A small convolutional network for the glyphs demonstration. It trains from scratch in minutes on a CPU."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Num

from symm_jax.dtypes import to_device
from symm_jax.errors import InputError


class ConvNet(nn.Module):
    """Stages of 3x3 convolution, group norm and ReLU, then the mean over positions.

    A pure function of its parameters: no batch statistics, no dropout. Two slow operations on a CPU are avoided:
    convolutions at full resolution (2x2 pixels become channels first), and `nn.max_pool`, whose gradient is slow.

    Attributes:
      widths: channels of each stage, multiples of 8. Each stage after the first begins with 2x2 max pooling. The side
        of images must be at least 2^(len(widths) + 1) pixels, so that the last stage has 2x2 positions.
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.
    """

    widths: tuple[int, ...] = (48, 96, 192)
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Num[ArrayLike, "n height width 3"]) -> Float[Array, "n features"]:
        """Unnormalised RGB images, 0..255, uint8 or float -> pooled features (n, widths[-1])."""
        images = to_device(images, "images")
        least = 2 ** (len(self.widths) + 1)
        if min(images.shape[1:3]) < least:
            raise InputError(
                f"a convnet of {len(self.widths)} stages needs images of at least {least} px, got {images.shape[1:3]}",
                argument="image_size",
            )
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = _pixels_to_channels(_standardise(images).astype(self.dtype))
        for stage, width in enumerate(self.widths):
            if stage:
                x = _max_pool_2x2(x)
            x = nn.Conv(width, (3, 3), use_bias=False, **options)(x)
            x = nn.relu(nn.GroupNorm(8, **options)(x))
        return x.mean(axis=(1, 2))


def _standardise(images: jax.Array) -> jax.Array:
    """Subtracts each image's own mean and divides by its own contrast, so that colours matter little; float32."""
    x = images.astype(jnp.float32)
    x = x - x.mean(axis=(1, 2, 3), keepdims=True)
    # One grey level is added to the contrast, so that a blank image stays blank.
    return x * jax.lax.rsqrt(jnp.square(x).mean(axis=(1, 2, 3), keepdims=True) + 1)


def _pixels_to_channels(x: jax.Array) -> jax.Array:
    """(n, h, w, c) -> (n, ceil(h / 2), ceil(w / 2), 4 c). Odd sides are padded with 0, the mean."""
    n, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)))
    x = x.reshape(n, (h + 1) // 2, 2, (w + 1) // 2, 2, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, (h + 1) // 2, (w + 1) // 2, 4 * c)


def _max_pool_2x2(x: jax.Array) -> jax.Array:
    """2x2 max pooling. The last row or column of an odd side is dropped."""
    n, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2]
    return x.reshape(n, h // 2, 2, w // 2, 2, c).max(axis=(2, 4))
