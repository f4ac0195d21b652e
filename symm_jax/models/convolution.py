"""The plain convolution that the layers for each platform build on, and sums over pixels of its gradients."""

import jax.numpy as jnp
from jax import lax


def conv(x, kernel, stride):
    """x * kernel, zero-padded so that stride 1 keeps the size. A 1x1 one is a product, much faster on a CPU."""
    if kernel.shape[0] == 1 and stride == 1:
        return jnp.einsum("nhwi,io->nhwo", x, kernel[0, 0])
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def sum_dtype(x):
    """The dtype of sums over images."""
    return jnp.promote_types(x.dtype, jnp.float32)


def bias_gradient(dy):
    """The sum over images and pixels."""
    return dy.sum((0, 1, 2), sum_dtype(dy))


def pixel_product(x, dy):
    """The sum over pixels of the products of x (..., channels) and dy (..., features): (channels, features).

    It is the gradient of a 1x1 kernel, and of a kernel by which patches are multiplied.
    """
    x, dy = (a.reshape(-1, a.shape[-1]) for a in (x, dy))
    return lax.dot_general(x, dy, (((0,), (0,)), ((), ())), preferred_element_type=sum_dtype(dy))
