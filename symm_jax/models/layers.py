"""Convolution and max pooling of (n, height, width, channels).

On a GPU these are XLA's own operations. On a CPU, XLA's gradients of pooling and of large convolutions are slow, and
this module's are several times faster. Values and gradients differ only by rounding.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from symm_jax import devices

_LARGE = 50  # smallest side of a feature map for which `_cpu_conv` has the faster gradients


def conv(
    x: Float[Array, "n height width channels"], kernel: Float[Array, "size size channels features"], stride: int
) -> Float[Array, "n height_out width_out features"]:
    """Convolution with a kernel of odd size, zero-padded so that stride 1 keeps the size of the images."""
    if kernel.shape[0] == 1 and stride == 1:
        return jnp.einsum("nhwi,io->nhwo", x, kernel[0, 0])
    if devices.platform() == "cpu" and min(x.shape[1:3]) // stride >= _LARGE:
        return _cpu_conv(x, kernel, stride)
    return _conv(x, kernel, stride)


def max_pool(
    x: Float[Array, "n height width channels"], stride: int, padding: tuple[int, int]
) -> Float[Array, "n height_out width_out channels"]:
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
        return _max_of_three(_max_of_three(x, 2, stride), 1, stride)
    return nn.max_pool(x, (3, 3), strides=(stride, stride))


def _conv(x, kernel, stride):
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _cpu_conv(x, kernel, stride):
    return _conv(x, kernel, stride)


def _cpu_conv_forward(x, kernel, stride):
    return _conv(x, kernel, stride), (x, kernel)


def _cpu_conv_backward(stride, residuals, dy):
    """The gradients, one image at a time, through `_product`: the patches of one image fit into the cache."""
    x, kernel = residuals

    def add(total, image):
        x, dy = image
        dx, dkernel = jax.vjp(functools.partial(_product, stride=stride), x, kernel)[1](dy)
        return total + dkernel, dx

    dkernel, dx = lax.scan(add, jnp.zeros(kernel.shape), (x, dy))
    return dx, dkernel.astype(kernel.dtype)


def _product(x, kernel, stride):
    """The convolution of one image (height, width, channels) as a product of its patches and the kernel."""
    size = kernel.shape[0]
    height, width = ((n - 1) // stride + 1 for n in x.shape[:2])
    x = jnp.pad(x, [(size // 2, size // 2)] * 2 + [(0, 0)])
    rows = [lax.slice_in_dim(x, i, i + stride * (height - 1) + 1, stride, 0) for i in range(size)]
    patches = [lax.slice_in_dim(r, j, j + stride * (width - 1) + 1, stride, 1) for r in rows for j in range(size)]
    return jnp.einsum("hwi,io->hwo", jnp.concatenate(patches, -1), kernel.reshape(-1, kernel.shape[-1]))


_cpu_conv.defvjp(_cpu_conv_forward, _cpu_conv_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _max_of_three(x, axis, stride):
    return _max_and_index(x, axis, stride)[0]


def _max_and_index(x, axis, stride):
    """The maximum of three neighbours along `axis`, and the index 0, 1 or 2 of the first neighbour that has it."""
    last = (x.shape[axis] - 3) // stride * stride
    first, second, third = (lax.slice_in_dim(x, t, t + last + 1, stride, axis) for t in range(3))
    two = jnp.maximum(first, second)
    index = jnp.where(third > two, 2, jnp.where(second > first, 1, 0))
    return jnp.maximum(two, third), index.astype(jnp.uint8)


def _max_of_three_forward(x, axis, stride):
    y, index = _max_and_index(x, axis, stride)
    return y, (index, x.shape[axis])


def _max_of_three_backward(axis, stride, residuals, dy):
    index, length = residuals

    def padded(y, before, after):
        return jnp.pad(y, [(before, after) if i == axis else (0, 0) for i in range(y.ndim)])

    def part(y, start, size):
        return lax.slice_in_dim(y, start, start + size, 1, axis)

    if stride == 1:
        index, dy = padded(index, 2, 2), padded(dy, 2, 2)
        return (sum(jnp.where(part(index, 2 - t, length) == t, part(dy, 2 - t, length), 0) for t in range(3)),)
    first, second, third = (jnp.where(index == t, dy, 0) for t in range(3))
    even, odd = padded(first, 0, 1) + padded(third, 1, 0), padded(second, 0, 1)
    dx = jnp.stack([even, odd], axis + 1).reshape(*dy.shape[:axis], -1, *dy.shape[axis + 1 :])
    missing = length - dx.shape[axis]
    return (padded(dx, 0, missing) if missing > 0 else part(dx, 0, length),)


_max_of_three.defvjp(_max_of_three_forward, _max_of_three_backward)
