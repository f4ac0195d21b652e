"""The layers of GoogLeNet: convolution with ReLU, max pooling, local response normalisation, of NHWC images.

This module chooses for each platform what is fastest there. Values and gradients differ only by rounding.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from symm_jax import devices
from symm_jax.errors import InputError
from symm_jax.models import layers_cpu
from symm_jax.models.pooling import max_of_three

Images = Float[Array, "n height width channels"]
ImagesOut = Float[Array, "n height_out width_out features"]

# Channels in the window, and the factor of each square: TensorFlow's alpha, and Caffe's alpha / 5.
_LRN = {"reference": (11, 1e-4), "caffe": (5, 1e-4 / 5)}


def conv_relu(
    x: Images, kernel: Float[Array, "size size channels features"], bias: Float[Array, " features"], stride: int
) -> ImagesOut:
    """relu(x * kernel + bias), with a kernel of odd size, zero-padded so that stride 1 keeps the size of the images."""
    if devices.platform() == "cpu":
        return layers_cpu.conv_relu(x, kernel, bias, stride)
    return nn.relu(layers_cpu.conv(x, kernel, stride) + bias.reshape(1, 1, 1, -1))


def pointwise_relu(
    x: Images, weights: list[tuple[Float[Array, "1 1 channels _"], Float[Array, " _"]]]
) -> list[Float[Array, "n height width _"]]:
    """`conv_relu` of the same images with several 1x1 kernels and their biases."""
    if devices.platform() == "cpu":
        return layers_cpu.pointwise_relu(x, weights)
    return [conv_relu(x, kernel, bias, stride=1) for kernel, bias in weights]


def max_pool(x: Images, stride: int, padding: tuple[int, int]) -> ImagesOut:
    """3x3 max pooling with stride 1 or 2, padded with zeros, as in the original.

    The gradient goes to the first maximum in each window, row by row.

    Args:
      x: the images.
      stride: stride in both directions.
      padding: number of zeros before and after, in both directions.
    """
    if any(padding):
        x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    if devices.platform() == "cpu":
        return max_of_three(max_of_three(x, 2, stride), 1, stride)
    return nn.max_pool(x, (3, 3), strides=(stride, stride))


def local_response_norm(x: Images, kind: str) -> Images:
    """x / (1 + alpha * sum of squares over neighbouring channels)^0.75. `kind` is that of `GoogLeNet.lrn`."""
    if kind not in _LRN:
        raise InputError(f"lrn must be one of {', '.join(_LRN)}, got {kind!r}", argument="options")
    window, alpha = _LRN[kind]
    if devices.platform() == "cpu":
        return layers_cpu.local_response_norm(x, window, alpha)
    squares = jnp.square(x.astype(jnp.float32))
    sides = [(0, 0)] * 3 + [(window // 2, window // 2)]
    base = 1 + alpha * jax.lax.reduce_window(squares, 0.0, jax.lax.add, (1, 1, 1, window), (1, 1, 1, 1), sides)
    # base^-0.75 from two square roots, which are faster than a power.
    root = jax.lax.rsqrt(base)
    return x * (root * jnp.sqrt(root)).astype(x.dtype)
