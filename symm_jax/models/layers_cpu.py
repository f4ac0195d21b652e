"""Convolution with ReLU and local response normalisation for the CPU, where XLA's gradients of both are slow.

Values and gradients differ from XLA's only by rounding.
"""

import functools
import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from symm_jax.models.convolution import bias_gradient, conv, pixel_product, sum_dtype

_PIXELS = 7000  # of a feature map, handled at a time: enough for products at full speed, few enough for the caches
_FEW = 8  # channels of an image: with fewer, the products of single kernel positions would be too small


def conv_relu(x, kernel, bias, stride):
    """See `layers.conv_relu`."""
    if kernel.shape[0] == 1 and stride == 1:
        return pointwise_relu(x, [(kernel, bias)])[0]
    return _spatial_relu(x, kernel, bias, stride)


@jax.custom_vjp
def pointwise_relu(x, weights):
    """1x1 convolutions of one input with ReLU, one for each (kernel, bias). Their gradients are made together."""
    return [_relu(x, kernel, bias, 1) for kernel, bias in weights]


def _relu(x, kernel, bias, stride):
    return nn.relu(conv(x, kernel, stride) + bias.reshape(1, 1, 1, -1))


def _pointwise_forward(x, weights):
    ys = pointwise_relu(x, weights)
    return ys, (x, weights, ys)


def _pointwise_backward(residuals, dys):
    """The gradients of all kernels are one matrix multiplication, and that of the images is another."""
    x, weights, ys = residuals
    dy = jnp.concatenate([jnp.where(y > 0, dy, 0) for y, dy in zip(ys, dys, strict=True)], -1)
    dx = jnp.einsum("nhwo,io->nhwi", dy, jnp.concatenate([kernel[0, 0] for kernel, _ in weights], -1))
    dkernel, dbias = pixel_product(x, dy), bias_gradient(dy)
    ends = list(itertools.accumulate(len(bias) for _, bias in weights))[:-1]
    dkernels, dbiases = jnp.split(dkernel[None, None], ends, -1), jnp.split(dbias, ends)
    return dx, jax.tree.map(lambda dw, w: dw.astype(w.dtype), list(zip(dkernels, dbiases, strict=True)), weights)


pointwise_relu.defvjp(_pointwise_forward, _pointwise_backward)


_spatial_relu = jax.custom_vjp(_relu, nondiff_argnums=(3,))


def _forward(x, kernel, bias, stride):
    y = _relu(x, kernel, bias, stride)
    return y, (x, kernel, bias, y)


def _backward(stride, residuals, dy):
    """All gradients of a few images at a time, so that dy, masked once, is still in the caches for each of them."""
    x, kernel, bias, y = residuals
    arrays = x, y, dy
    block = math.gcd(len(y), 2 ** round(math.log2(max(1, _PIXELS // (y.shape[1] * y.shape[2])))))

    def add(totals, start):
        x, y, dy = (lax.dynamic_slice_in_dim(a, start, block) for a in arrays)
        dy = jnp.where(y > 0, dy, 0)
        gradients = _kernel_gradient(x, dy, kernel.shape[0], stride), bias_gradient(dy)
        return jax.tree.map(jnp.add, totals, gradients), _input_gradient(x, kernel, dy, stride)

    zeros = tuple(jnp.zeros(w.shape, sum_dtype(w)) for w in (kernel, bias))
    (dkernel, dbias), dx = lax.scan(add, zeros, jnp.arange(0, len(y), block))
    return dx.reshape(x.shape), dkernel.astype(kernel.dtype), dbias.astype(bias.dtype)


_spatial_relu.defvjp(_forward, _backward)


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

    def shifted(x, axis):
        rows = [lax.slice_in_dim(x, i, i + stride * (height - 1) + 1, stride, axis) for i in range(size)]
        return [
            lax.slice_in_dim(r, j, j + stride * (width - 1) + 1, stride, axis + 1) for r in rows for j in range(size)
        ]

    if x.shape[-1] < _FEW:  # channels first: the product's fast order
        x = jnp.pad(x.transpose(3, 0, 1, 2), [(0, 0), (0, 0), *ends])
        patches = jnp.concatenate(shifted(x, 2)).reshape(-1, len(dy))
        dkernel = jnp.matmul(patches, dy, preferred_element_type=sum_dtype(dy))
    else:
        x = jnp.pad(x, [(0, 0), *ends, (0, 0)])
        dkernel = jnp.stack([pixel_product(a, dy) for a in shifted(x, 1)])
    return dkernel.reshape(size, size, -1, dy.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def local_response_norm(x, window, alpha):
    """x / (1 + alpha sum of squares over `window` channels)^0.75, with its gradient by hand."""
    return x * _norm(x.astype(jnp.float32), window, alpha)[1].astype(x.dtype)


def _norm(x, window, alpha):
    """rsqrt(base) and base^-0.75. Two square roots are several times faster than a power."""
    root = lax.rsqrt(1 + alpha * _window_sum(jnp.square(x), window))
    return root, root * jnp.sqrt(root)


def _norm_forward(x, window, alpha):
    return local_response_norm(x, window, alpha), x


def _norm_backward(window, alpha, x, dy):
    wide, dy = x.astype(jnp.float32), dy.astype(jnp.float32)
    root, norm = _norm(wide, window, alpha)
    dx = dy * norm - 1.5 * alpha * wide * _window_sum(dy * wide * norm * root * root, window)
    return (dx.astype(x.dtype),)


local_response_norm.defvjp(_norm_forward, _norm_backward)


def _window_sum(x, window):
    """The sums of `window` neighbouring channels, from sums of 1, 2, 4 ... channels, which take one addition each."""
    channels = x.shape[-1]
    sums = jnp.pad(x, [(0, 0)] * 3 + [(window // 2, window // 2)])
    total, start = 0, 0
    for length in (2**i for i in range(window.bit_length())):
        if length > 1:
            sums = sums[..., : -length // 2] + sums[..., length // 2 :]
        if window & length:
            total += lax.slice_in_dim(sums, start, start + channels, axis=-1)
            start += length
    return total
