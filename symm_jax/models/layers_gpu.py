"""The layers of GoogLeNet for a GPU, whose step is bounded by the bytes that it moves.

Each layer has its own gradient, which keeps few arrays and passes over each of them once. Where XLA would repeat the
work of a pass in several kernels, a barrier makes it write the array. Values are XLA's own. Gradients differ from
XLA's only by rounding, and none needs a scatter.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import layout

from symm_jax.models.convolution import conv

_TAPS = [(row, column) for row in range(3) for column in range(3)]  # the places of a window


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def conv_relu(x, kernel, bias, stride):
    """relu(x * kernel + bias), zero-padded so that stride 1 keeps the size."""
    return jnp.maximum(conv(x, kernel, stride) + bias.reshape(1, 1, 1, -1), 0)


def _conv_relu_forward(x, kernel, bias, stride):
    y = conv_relu(x, kernel, bias, stride)
    return y, (x, kernel, y)


def _conv_relu_backward(stride, residuals, dy):
    x, kernel, y = residuals
    dy, dbias = _masked(y, dy)
    return *_conv_gradients(x, kernel, stride, dy), dbias


def _masked(y, dy):
    """The gradient before ReLU, whose result is y, and the gradient of the bias: one kernel."""
    dy = jnp.where(y > 0, dy, 0)
    return dy, dy.sum((0, 1, 2))


def _conv_gradients(x, kernel, stride, dy):
    """The gradients of x and of the kernel. Both are complete before Adam changes the kernel, or XLA would copy it.

    The kernel's gradient has the kernel's layout, not cuDNN's. Else XLA would transpose all that Adam reads and writes.
    """
    dx, dkernel = jax.vjp(functools.partial(conv, stride=stride), x, kernel)[1](dy)
    return lax.optimization_barrier((dx, layout.with_layout_constraint(dkernel, layout.Layout((0, 1, 2, 3)))))


conv_relu.defvjp(_conv_relu_forward, _conv_relu_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x, stride, padding):
    """3x3 max pooling, zero-padded. The gradient keeps the place of each maximum, one byte."""
    return _max_and_place(x, stride, padding)[0]


def _max_and_place(x, stride, padding):
    """The maximum of each window, and the place 0 to 8 of the first one, row by row."""
    x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    last = [(n - 3) // stride * stride + 1 for n in x.shape[1:3]]
    y, place = -jnp.inf, jnp.uint8(0)
    for k, (row, column) in enumerate(_TAPS):
        lines = lax.slice_in_dim(x, row, row + last[0], stride, 1)
        tap = lax.slice_in_dim(lines, column, column + last[1], stride, 2)
        y, place = jnp.maximum(y, tap), jnp.where(tap > y, jnp.uint8(k), place)
    return y, place


def _max_pool_forward(x, stride, padding):
    y, place = _max_and_place(x, stride, padding)
    return y, (place, x.shape[1:3])


def _max_pool_backward(stride, padding, residuals, dy):
    """Each place of the windows returns its gradients to the pixels that it was read from."""
    place, sides = residuals

    def returned(k, tap):
        spread = [
            (t - padding[0], padding[0] + side - t - stride * (n - 1) - 1, stride - 1)
            for t, side, n in zip(tap, sides, dy.shape[1:3], strict=True)
        ]
        return lax.pad(jnp.where(place == k, dy, 0), jnp.zeros((), dy.dtype), [(0, 0, 0), *spread, (0, 0, 0)])

    return (sum(returned(k, tap) for k, tap in enumerate(_TAPS)),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def local_response_norm(x, window, alpha):
    """x / base^0.75, where base = 1 + alpha * sum of squares over `window` neighbouring channels."""
    return _normalised(x, window, alpha)[0]


def _normalised(x, window, alpha):
    base = 1 + alpha * _sum_of_neighbours(jnp.square(x.astype(jnp.float32)), window)
    return x * _scale(base).astype(x.dtype), base


def _scale(base):
    root = lax.rsqrt(base)
    return root * jnp.sqrt(root)


def _sum_of_neighbours(x, window):
    sides = [(0, 0)] * 3 + [(window // 2,) * 2]
    return lax.reduce_window(x, 0.0, lax.add, (1, 1, 1, window), (1,) * 4, sides)


def _lrn_forward(x, window, alpha):
    y, base = _normalised(x, window, alpha)
    return y, (x, base)


def _lrn_backward(window, alpha, residuals, dy):
    """dy / base^0.75 - 1.5 alpha x * sum over neighbours of dy x / base^1.75."""
    x, base = residuals
    x32, scaled = x.astype(jnp.float32), dy.astype(jnp.float32) * _scale(base)
    return ((scaled - 1.5 * alpha * x32 * _sum_of_neighbours(scaled * x32 / base, window)).astype(x.dtype),)


local_response_norm.defvjp(_lrn_forward, _lrn_backward)


@jax.custom_vjp
def inception(x, weights):
    """Four parallel branches of (kernel, bias), see `layers.inception`. Three products of x become one."""
    return _inception_forward(x, weights)[0]


def _inception_forward(x, weights):
    kernel, bias = _joined(weights)
    reduced = conv_relu(x, kernel, bias, 1)
    one, reduced3, reduced5 = _split(reduced, _sizes(weights, _OF_X))
    three, five = conv_relu(reduced3, *weights["3x3"], 1), conv_relu(reduced5, *weights["5x5"], 1)
    pooled, place = _max_and_place(x, 1, (1, 1))
    branches: Any = [one, three, five, conv_relu(pooled, *weights["pool_proj"], 1)]
    y = jnp.concatenate(branches, -1)
    # The next module reads y in several kernels. Each would otherwise concatenate again.
    y = lax.optimization_barrier(y)
    return y, (x, weights, reduced3, reduced5, pooled, place, y)


_OF_X = ("1x1", "3x3_reduce", "5x5_reduce")


def _joined(weights):
    kernels, biases = zip(*(weights[name] for name in _OF_X), strict=True)
    return jnp.concatenate(kernels, -1), jnp.concatenate(biases)


def _sizes(weights, names):
    return [weights[name][0].shape[-1] for name in names]


def _split(x, sizes: Sequence[int]):
    """Consecutive channels of x, in groups of `sizes`."""
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [lax.slice_in_dim(x, start, start + size, 1, -1) for start, size in zip(starts, sizes, strict=True)]


def _inception_backward(residuals, dy):
    x, weights, reduced3, reduced5, pooled, place, y = residuals
    names = ("1x1", "3x3", "5x5", "pool_proj")
    dy, dbias = lax.optimization_barrier(_masked(y, dy))
    one, three, five, projection = _split(dy, _sizes(weights, names))
    dreduced3, dkernel3 = _conv_gradients(reduced3, weights["3x3"][0], 1, three)
    dreduced5, dkernel5 = _conv_gradients(reduced5, weights["5x5"][0], 1, five)
    dpooled, dprojection = _conv_gradients(pooled, weights["pool_proj"][0], 1, projection)
    joined = [one, jnp.where(reduced3 > 0, dreduced3, 0), jnp.where(reduced5 > 0, dreduced5, 0)]
    joined = jnp.concatenate(joined, -1)
    dx, dkernel = _conv_gradients(x, _joined(weights)[0], 1, joined)
    dx += _max_pool_backward(1, (1, 1), (place, x.shape[1:3]), dpooled)[0]
    sizes = _sizes(weights, _OF_X)
    dkernels = dict(zip(_OF_X, _split(dkernel, sizes), strict=True))
    dkernels |= {"3x3": dkernel3, "5x5": dkernel5, "pool_proj": dprojection}
    dbiases = dict(zip(names, _split(dbias, _sizes(weights, names)), strict=True))
    dbiases |= dict(zip(_OF_X, _split(joined.sum((0, 1, 2)), sizes), strict=True))
    return dx, {name: (dkernels[name], dbiases[name]) for name in weights}


inception.defvjp(_inception_forward, _inception_backward)
