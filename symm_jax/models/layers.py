"""The layers of GoogLeNet: convolution with ReLU, max pooling, local response normalisation, of NHWC images.

This module chooses for each platform what is fastest there. Values and gradients differ only by rounding.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from symm_jax import devices
from symm_jax.errors import InputError
from symm_jax.models import layers_cpu, layers_gpu
from symm_jax.models.pooling import max_of_three

Images = Float[Array, "n height width channels"]
ImagesOut = Float[Array, "n height_out width_out features"]
Weights = tuple[Float[Array, "_ _ _ _"], Float[Array, " _"]]  # kernel (size, size, channels, features), bias

_LARGE = 50  # smallest side of a feature map for which `layers_cpu.conv` has the faster gradients
# Channels in the window, and the factor of each square: TensorFlow's alpha, and Caffe's alpha / 5.
_LRN = {"reference": (11, 1e-4), "caffe": (5, 1e-4 / 5)}


def conv_relu(
    x: Images, kernel: Float[Array, "size size channels features"], bias: Float[Array, " features"], stride: int
) -> ImagesOut:
    """relu(x * kernel + bias), with a kernel of odd size, zero-padded so that stride 1 keeps the size of the images."""
    if devices.platform() == "gpu":
        return layers_gpu.conv_relu(x, kernel, bias, stride)
    return nn.relu(conv(x, kernel, stride) + bias.reshape(1, 1, 1, -1))


def conv(x: Images, kernel: Float[Array, "size size channels features"], stride: int) -> ImagesOut:
    """x * kernel, zero-padded as in `conv_relu`. A 1x1 convolution is a product, which is much faster on a CPU."""
    if kernel.shape[0] == 1 and stride == 1:
        return jnp.einsum("nhwi,io->nhwo", x, kernel[0, 0])
    if devices.platform() == "cpu" and min(x.shape[1:3]) // stride >= _LARGE:
        return layers_cpu.conv(x, kernel, stride)
    return layers_cpu.plain_conv(x, kernel, stride)


def max_pool(x: Images, stride: int, padding: tuple[int, int]) -> ImagesOut:
    """3x3 max pooling with stride 1 or 2, padded with zeros, as in the original.

    The gradient goes to the first maximum in each window, row by row.

    Args:
      x: the images.
      stride: stride in both directions.
      padding: number of zeros before and after, in both directions.
    """
    if devices.platform() == "gpu":
        return layers_gpu.max_pool(x, stride, padding)
    if any(padding):
        x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    if devices.platform() == "cpu":
        return max_of_three(max_of_three(x, 2, stride), 1, stride)
    return nn.max_pool(x, (3, 3), strides=(stride, stride))


def inception(x: Images, weights: dict[str, Weights]) -> Float[Array, "n height width features"]:
    """An Inception module: four parallel branches, whose results are concatenated.

    Args:
      x: the images.
      weights: of each convolution by its name: "1x1"; "3x3_reduce" and "3x3"; "5x5_reduce" and "5x5"; "pool_proj",
        which follows a 3x3 max pool.
    """
    if devices.platform() == "gpu":
        return layers_gpu.inception(x, weights)
    one = conv_relu(x, *weights["1x1"], 1)
    three = conv_relu(conv_relu(x, *weights["3x3_reduce"], 1), *weights["3x3"], 1)
    five = conv_relu(conv_relu(x, *weights["5x5_reduce"], 1), *weights["5x5"], 1)
    pooled = conv_relu(max_pool(x, stride=1, padding=(1, 1)), *weights["pool_proj"], 1)
    return jnp.concatenate([one, three, five, pooled], axis=-1)


def local_response_norm(x: Images, kind: str) -> Images:
    """x / (1 + alpha * sum of squares over neighbouring channels)^0.75. `kind` is that of `GoogLeNet.lrn`."""
    if kind not in _LRN:
        raise InputError(f"lrn must be one of {', '.join(_LRN)}, got {kind!r}", argument="options")
    window, alpha = _LRN[kind]
    if devices.platform() == "gpu":
        return layers_gpu.local_response_norm(x, window, alpha)
    squares = jnp.square(x.astype(jnp.float32))
    sides = [(0, 0)] * 3 + [(window // 2, window // 2)]
    base = 1 + alpha * jax.lax.reduce_window(squares, 0.0, jax.lax.add, (1, 1, 1, window), (1, 1, 1, 1), sides)
    # base^-0.75 from two square roots, which are several times faster than a power on a CPU.
    root = jax.lax.rsqrt(base)
    return x * (root * jnp.sqrt(root)).astype(x.dtype)
