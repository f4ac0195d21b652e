"""The layers for each platform, compared with XLA's own values and gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symm_jax import devices
from symm_jax.models import layers, layers_cpu


def values_and_gradients(function, *inputs):
    def weighted(*inputs):
        y = function(*inputs)
        return jnp.vdot(y, jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)), y

    _, vjp, y = jax.vjp(weighted, *inputs, has_aux=True)
    return y, vjp(jnp.float32(1))


def assert_same(ours, plain, *inputs, rtol):
    ours, plain = (jax.jit(lambda *inputs, f=f: values_and_gradients(f, *inputs))(*inputs) for f in (ours, plain))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())


@pytest.mark.parametrize(("stride", "padding"), [(1, (1, 1)), (2, (0, 1)), (2, (0, 0))])
@pytest.mark.parametrize(("side", "platform"), [(7, "cpu"), (8, "cpu"), (7, "gpu"), (8, "gpu")])
def test_max_pool_has_the_gradient_of_xla_where_many_tie(stride, padding, side, platform):
    """XLA gives the gradient of a window to its first maximum, row by row. Small integers tie in most windows."""

    def plain(x):
        x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
        return nn.max_pool(x, (3, 3), strides=(stride, stride))

    x = np.random.default_rng(0).integers(0, 3, (2, side, side + 1, 5)).astype(np.float32)
    with devices.traced_for(platform):
        assert_same(lambda x: layers.max_pool(x, stride, padding), plain, x, rtol=1e-6)


def on(platform, function):
    """The function as it is traced for a platform. A CPU runs the form for a GPU as well."""

    def traced(*inputs):
        with devices.traced_for(platform):
            return function(*inputs)

    return traced


def plain_conv_relu(x, kernel, bias, stride=1):
    pad = [(kernel.shape[0] // 2,) * 2] * 2
    y = jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, pad, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return nn.relu(y + bias.reshape(1, 1, 1, -1))


PLATFORMS = pytest.mark.parametrize("platform", ["cpu", "gpu"])
DTYPES = pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-5), ("bfloat16", 2e-2)])


@PLATFORMS
@DTYPES
@pytest.mark.parametrize(
    ("size", "stride", "channels", "side"),
    [(1, 1, 9, 5), (3, 1, 9, 6), (5, 1, 9, 4), (3, 2, 9, 7), (7, 2, 3, 11), (7, 2, 3, 12)],
)
def test_convolution_has_the_gradients_of_xla(monkeypatch, size, stride, channels, side, dtype, rtol, platform):
    """On a CPU, two of four images are handled at a time."""
    monkeypatch.setattr(layers_cpu, "_PIXELS", 2 * ((side - 1) // stride + 1) * (side // stride + 1))
    rng = np.random.default_rng(0)
    shapes = (4, side, side + 1, channels), (size, size, channels, 6), (6,)
    arrays = [jnp.asarray(rng.normal(size=s), dtype) for s in shapes]
    ours = on(platform, lambda *arrays: layers.conv_relu(*arrays, stride))
    assert_same(ours, lambda *arrays: plain_conv_relu(*arrays, stride), *arrays, rtol=rtol)


@PLATFORMS
@DTYPES
def test_inception_has_the_gradients_of_xla(platform, dtype, rtol):
    def plain(x, weights):
        def branch(x, *names):
            for name in names:
                x = plain_conv_relu(x, *weights[name])
            return x

        pooled = nn.max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3))
        branches = branch(x, "1x1"), branch(x, "3x3_reduce", "3x3"), branch(x, "5x5_reduce", "5x5")
        return jnp.concatenate([*branches, branch(pooled, "pool_proj")], -1)

    rng = np.random.default_rng(0)
    sizes = {"1x1": (1, 9, 4), "3x3_reduce": (1, 9, 3), "3x3": (3, 3, 6), "5x5_reduce": (1, 9, 2), "5x5": (5, 2, 5)}
    sizes["pool_proj"] = 1, 9, 7
    weights = {
        name: (jnp.asarray(rng.normal(size=(k, k, i, o)), dtype), jnp.asarray(rng.normal(size=o), dtype))
        for name, (k, i, o) in sizes.items()
    }
    x = jnp.asarray(rng.normal(size=(2, 6, 7, 9)), dtype)
    assert_same(on(platform, layers.inception), plain, x, weights, rtol=rtol)


@PLATFORMS
@DTYPES
@pytest.mark.parametrize(("kind", "window", "alpha"), [("reference", 11, 1e-4), ("caffe", 5, 2e-5)])
def test_local_response_norm_has_the_gradient_of_xla(platform, dtype, rtol, kind, window, alpha):
    def plain(x):
        sides = [(0, 0)] * 3 + [(window // 2,) * 2]
        squares = jnp.square(x.astype(jnp.float32))
        base = 1 + alpha * jax.lax.reduce_window(squares, 0.0, jax.lax.add, (1, 1, 1, window), (1,) * 4, sides)
        return (x / base**0.75).astype(x.dtype)

    x = jnp.asarray(np.random.default_rng(0).normal(scale=60, size=(2, 3, 4, 13)), dtype)
    assert_same(on(platform, lambda x: layers.local_response_norm(x, kind)), plain, x, rtol=rtol)
