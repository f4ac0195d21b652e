"""Convolution for the CPU, where XLA's gradients of large convolutions are slow.

Values are XLA's own. Gradients differ from XLA's only by rounding.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv(x, kernel, stride):
    return plain_conv(x, kernel, stride)


def _conv_forward(x, kernel, stride):
    return plain_conv(x, kernel, stride), (x, kernel)


def _conv_backward(stride, residuals, dy):
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


conv.defvjp(_conv_forward, _conv_backward)


def plain_conv(x, kernel, stride):
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
