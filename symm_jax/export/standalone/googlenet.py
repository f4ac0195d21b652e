"""GoogLeNet in Flax, without batch norm, as model.safetensors has its parameters."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

MEAN = (123.69, 116.78, 103.94)
# Module: channels of 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection.
INCEPTION = {
    **{"3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64), "4a": (192, 96, 208, 16, 48, 64)},
    **{"4b": (160, 112, 224, 24, 64, 64), "4c": (128, 128, 256, 24, 64, 64), "4d": (112, 144, 288, 32, 64, 64)},
    **{"4e": (256, 160, 320, 32, 128, 128), "5a": (256, 160, 320, 32, 128, 128), "5b": (384, 192, 384, 48, 128, 128)},
}
LRN = {"reference": (11, 1e-4), "caffe": (5, 1e-4 / 5)}  # channels in the window, factor of each square


def conv_relu(x, features, size, stride, dtypes, name):
    return nn.relu(nn.Conv(features, (size, size), stride, ((size // 2,) * 2,) * 2, **dtypes, name=name)(x))


def pool(x, stride, before, after):
    """3x3 max pooling, padded with zeros."""
    x = jnp.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))
    return nn.max_pool(x, (3, 3), strides=(stride, stride))


def normalise(x, kind):
    """Local response normalisation over neighbouring channels."""
    window, alpha = LRN[kind]
    sides = [(0, 0)] * 3 + [(window // 2, window // 2)]
    squares = jnp.square(x.astype(jnp.float32))
    base = 1 + alpha * jax.lax.reduce_window(squares, 0.0, jax.lax.add, (1, 1, 1, window), (1, 1, 1, 1), sides)
    return x * (base**-0.75).astype(x.dtype)


class Inception(nn.Module):
    channels: Any
    dtypes: Any

    @nn.compact
    def __call__(self, x):
        n1, reduce3, n3, reduce5, n5, projection = self.channels
        one = conv_relu(x, n1, 1, 1, self.dtypes, "1x1")
        three = conv_relu(conv_relu(x, reduce3, 1, 1, self.dtypes, "3x3_reduce"), n3, 3, 1, self.dtypes, "3x3")
        five = conv_relu(conv_relu(x, reduce5, 1, 1, self.dtypes, "5x5_reduce"), n5, 5, 1, self.dtypes, "5x5")
        pooled = conv_relu(pool(x, 1, 1, 1), projection, 1, 1, self.dtypes, "pool_proj")
        return jnp.concatenate([one, three, five, pooled], axis=-1)


class Backbone(nn.Module):
    """uint8 RGB (n, side, side, 3) -> features (n, 1024)."""

    lrn: str = "reference"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images):
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = (images.astype(jnp.float32) - jnp.array(MEAN)).astype(self.dtype)
        x = conv_relu(x, 64, 7, 2, dtypes, "conv1_7x7_s2")
        x = conv_relu(normalise(pool(x, 2, 0, 1), self.lrn), 64, 1, 1, dtypes, "conv2_3x3_reduce")
        x = conv_relu(x, 192, 3, 1, dtypes, "conv2_3x3")
        x = pool(normalise(x, self.lrn), 2, 0, 0)
        for name, channels in INCEPTION.items():
            x = Inception(channels, dtypes, name=f"inception_{name}")(x)
            x = pool(x, 2, 0, 1) if name in ("3b", "4e") else x
        return x.mean(axis=(1, 2))
