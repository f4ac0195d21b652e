"""The first convolution of EfficientNet-Lite: 3x3 with stride 2 and ReLU6, of images of few channels.

Values and gradients differ between the platforms only by rounding.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from symm_jax import devices
from symm_jax.models.convolution import bias_gradient, pixel_product, sum_dtype

Images = Float[Array, "n height width channels"]
ImagesOut = Float[Array, "n height_out width_out features"]

_STRIDE = 2
_IMAGES = 4  # that the CPU handles at a time, so that their patches stay in the caches


def conv_relu6(
    x: Images, kernel: Float[Array, "size size channels features"], bias: Float[Array, " features"]
) -> ImagesOut:
    """relu6(x * kernel + bias) with stride 2, padded as TensorFlow's "SAME".

    The CPU's form has no forward-mode derivative.
    """
    return (few_at_a_time if devices.platform() == "cpu" else plain)(x, kernel, bias)


def plain(x, kernel, bias):
    """`conv_relu6` as XLA's own operations, which are fast on a GPU."""
    return nn.relu6(_conv(x, kernel) + bias.reshape(1, 1, 1, -1))


def _conv(x, kernel):
    return lax.conv_general_dilated(x, kernel, (_STRIDE,) * 2, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@jax.custom_vjp
def few_at_a_time(x, kernel, bias):
    """`conv_relu6` of a few images at a time, as a product of their patches and the kernel.

    XLA's convolution of three channels takes twice the time on a CPU, and so does its gradient of the kernel.
    """
    n = x.shape[0]
    if not isinstance(n, int):  # a symbol of jax.export
        return plain(x, kernel, bias)
    y = lax.map(lambda few: jnp.matmul(_patches(few, kernel), _matrix(kernel)), _split(x))
    return nn.relu6(y.reshape(n, *y.shape[2:]) + bias.reshape(1, 1, 1, -1))


def _split(x):
    return x.reshape(-1, math.gcd(len(x), _IMAGES), *x.shape[1:])


def _matrix(kernel):
    return kernel.reshape(-1, kernel.shape[-1])


def _patches(x, kernel):
    """The inputs of each output pixel, (n, height, width, size * size * channels)."""
    size, sides = kernel.shape[0], x.shape[1:3]
    pads = lax.padtype_to_pads(sides, (size, size), (_STRIDE,) * 2, "SAME")
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    height, width = (_STRIDE * ((side - 1) // _STRIDE) + 1 for side in sides)  # from the first pixel to the last
    met = [x[:, i : i + height : _STRIDE, j : j + width : _STRIDE] for i, j in np.ndindex(size, size)]
    return jnp.concatenate(met, axis=-1)


def _forward(x, kernel, bias):
    y = few_at_a_time(x, kernel, bias)
    return y, (x, kernel, bias, y)


def _backward(residuals, dy):
    x, kernel, bias, y = residuals
    dy = jnp.where((y > 0) & (y < 6), dy, 0)

    def add(total, few):
        x, dy = few
        return total + pixel_product(_patches(x, kernel), dy), None

    dkernel, _ = lax.scan(add, jnp.zeros(_matrix(kernel).shape, sum_dtype(dy)), (_split(x), _split(dy)))
    dx = jax.vjp(lambda x: _conv(x, kernel), x)[1](dy)[0]  # training does not use it, and XLA leaves it out
    return dx, dkernel.reshape(kernel.shape).astype(kernel.dtype), bias_gradient(dy).astype(bias.dtype)


few_at_a_time.defvjp(_forward, _backward)
