"""The layers of GoogLeNet: convolution with ReLU, max pooling, local response normalisation, of NHWC images.

This module chooses for each platform what is fastest there. Values and gradients differ only by rounding.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from symm_jax import devices
from symm_jax.errors import InputError
from symm_jax.models import layers_cpu, layers_gpu
from symm_jax.models.pooling import max_of_three

Images = Float[Array, "n height width channels"]
ImagesOut = Float[Array, "n height_out width_out features"]
Weights = tuple[Float[Array, "_ _ _ _"], Float[Array, " _"]]  # kernel (size, size, channels, features), bias

# Channels in the window, and the factor of each square: TensorFlow's alpha, and Caffe's alpha / 5.
_LRN = {"reference": (11, 1e-4), "caffe": (5, 1e-4 / 5)}


def conv_relu(
    x: Images, kernel: Float[Array, "size size channels features"], bias: Float[Array, " features"], stride: int
) -> ImagesOut:
    """relu(x * kernel + bias), with a kernel of odd size, zero-padded so that stride 1 keeps the size of the images."""
    own = layers_cpu if devices.platform() == "cpu" else layers_gpu
    return own.conv_relu(x, kernel, bias, stride)


def max_pool(x: Images, stride: int, padding: tuple[int, int]) -> ImagesOut:
    """3x3 max pooling with stride 1 or 2, padded with zeros, as in the original.

    The gradient goes to the first maximum in each window, row by row.

    Args:
      x: the images.
      stride: stride in both directions.
      padding: number of zeros before and after, in both directions.
    """
    if devices.platform() != "cpu":
        return layers_gpu.max_pool(x, stride, padding)
    if any(padding):
        x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    return max_of_three(max_of_three(x, 2, stride), 1, stride)


def inception(x: Images, weights: dict[str, Weights]) -> Float[Array, "n height width features"]:
    """An Inception module: four parallel branches, whose results are concatenated.

    Args:
      x: the images.
      weights: of each convolution by its name: "1x1"; "3x3_reduce" and "3x3"; "5x5_reduce" and "5x5"; "pool_proj",
        which follows a 3x3 max pool.
    """
    if devices.platform() != "cpu":
        return layers_gpu.inception(x, weights)
    one, three, five = layers_cpu.pointwise_relu(x, [weights[name] for name in ("1x1", "3x3_reduce", "5x5_reduce")])
    three, five = conv_relu(three, *weights["3x3"], 1), conv_relu(five, *weights["5x5"], 1)
    pooled = conv_relu(max_pool(x, stride=1, padding=(1, 1)), *weights["pool_proj"], 1)
    return jnp.concatenate([one, three, five, pooled], axis=-1)


def local_response_norm(x: Images, kind: str) -> Images:
    """x / (1 + alpha * sum of squares over neighbouring channels)^0.75. `kind` is that of `GoogLeNet.lrn`."""
    if kind not in _LRN:
        raise InputError(f"lrn must be one of {', '.join(_LRN)}, got {kind!r}", argument="options")
    own = layers_cpu if devices.platform() == "cpu" else layers_gpu
    return own.local_response_norm(x, *_LRN[kind])
