"""Convolution with ReLU for the CPU, where XLA's gradients of convolutions are slow.

Values are XLA's own. Gradients differ from XLA's only by rounding.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

_PIXELS = 7000  # of a feature map, handled at a time: enough for products at full speed, few enough for the caches
_FEW = 8  # channels of an image: with fewer, the products of single kernel positions would be too small


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def conv_relu(x, kernel, bias, stride):
    return nn.relu(conv(x, kernel, stride) + bias.reshape(1, 1, 1, -1))


def conv(x, kernel, stride):
    """A 1x1 convolution is a product, which is much faster here."""
    if kernel.shape[0] == 1 and stride == 1:
        return jnp.einsum("nhwi,io->nhwo", x, kernel[0, 0])
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _forward(x, kernel, bias, stride):
    y = conv_relu(x, kernel, bias, stride)
    return y, (x, kernel, bias, y)


def _backward(stride, residuals, dy):
    """All gradients of a few images at a time, so that dy, masked once, is still in the caches for each of them."""
    x, kernel, bias, y = residuals
    block = math.gcd(len(y), 2 ** round(math.log2(max(1, _PIXELS // (y.shape[1] * y.shape[2])))))

    def add(totals, images):
        x, y, dy = images
        dy = jnp.where(y > 0, dy, 0)
        gradients = _kernel_gradient(x, dy, kernel.shape[0], stride), dy.sum((0, 1, 2), totals[1].dtype)
        return jax.tree.map(jnp.add, totals, gradients), _input_gradient(x, kernel, dy, stride)

    zeros = [jnp.zeros(w.shape, jnp.promote_types(w.dtype, jnp.float32)) for w in (kernel, bias)]
    if block == len(y):
        (dkernel, dbias), dx = add(tuple(zeros), (x, y, dy))
    else:
        blocks = [a.reshape(-1, block, *a.shape[1:]) for a in (x, y, dy)]
        (dkernel, dbias), dx = lax.scan(add, tuple(zeros), tuple(blocks))
    return dx.reshape(x.shape), dkernel.astype(kernel.dtype), dbias.astype(bias.dtype)


conv_relu.defvjp(_forward, _backward)


def _input_gradient(x, kernel, dy, stride):
    """With stride 1, another convolution of the fast form: with the kernel turned round."""
    if stride == 1:
        return conv(dy, kernel[::-1, ::-1].swapaxes(2, 3), 1)
    return jax.vjp(lambda x: conv(x, kernel, stride), x)[1](dy)[0]


def _kernel_gradient(x, dy, size, stride):
    """A matrix multiplication of the shifted images and dy for each position of the kernel, or one for all of them."""
    height, width = dy.shape[1:3]
    ends = [(size // 2, size // 2)] * 2
    dy = dy.reshape(-1, dy.shape[-1])
    dtype = jnp.promote_types(dy.dtype, jnp.float32)

    def shifted(x, axis):
        rows = [lax.slice_in_dim(x, i, i + stride * (height - 1) + 1, stride, axis) for i in range(size)]
        return [
            lax.slice_in_dim(r, j, j + stride * (width - 1) + 1, stride, axis + 1) for r in rows for j in range(size)
        ]

    if x.shape[-1] < _FEW:  # channels first: the product's fast order
        x = jnp.pad(x.transpose(3, 0, 1, 2), [(0, 0), (0, 0), *ends])
        patches = jnp.concatenate(shifted(x, 2)).reshape(-1, len(dy))
        dkernel = jnp.matmul(patches, dy, preferred_element_type=dtype)
    else:
        channels = x.shape[-1]
        products = [
            lax.dot_general(a.reshape(-1, channels), dy, (((0,), (0,)), ((), ())), preferred_element_type=dtype)
            for a in shifted(jnp.pad(x, [(0, 0), *ends, (0, 0)]), 1)
        ]
        dkernel = jnp.stack(products)
    return dkernel.reshape(size, size, -1, dy.shape[-1])
