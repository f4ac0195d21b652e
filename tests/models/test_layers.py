"""The layers for the CPU, compared with XLA's own values and gradients."""

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
@pytest.mark.parametrize("side", [7, 8])
def test_max_pool_has_the_gradient_of_xla_where_many_tie(stride, padding, side):
    """XLA gives the gradient of a window to its first maximum, row by row. Small integers tie in most windows."""

    def plain(x):
        x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
        return nn.max_pool(x, (3, 3), strides=(stride, stride))

    x = np.random.default_rng(0).integers(0, 3, (2, side, side + 1, 5)).astype(np.float32)
    assert_same(lambda x: layers.max_pool(x, stride, padding), plain, x, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("size", "stride", "channels", "side"),
    [(1, 1, 9, 5), (3, 1, 9, 6), (5, 1, 9, 4), (3, 2, 9, 7), (7, 2, 3, 11), (7, 2, 3, 12)],
)
def test_convolution_has_the_gradients_of_xla(monkeypatch, size, stride, channels, side, dtype):
    """Two of four images are handled at a time."""
    monkeypatch.setattr(layers_cpu, "_PIXELS", 2 * ((side - 1) // stride + 1) * (side // stride + 1))

    def plain(x, kernel, bias):
        pad = [(size // 2, size // 2)] * 2
        y = jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, pad, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return nn.relu(y + bias.reshape(1, 1, 1, -1))

    rng = np.random.default_rng(0)
    shapes = (4, side, side + 1, channels), (size, size, channels, 6), (6,)
    arrays = [jnp.asarray(rng.normal(size=s), dtype) for s in shapes]
    rtol = 1e-5 if dtype == "float32" else 2e-2
    assert_same(lambda *arrays: layers.conv_relu(*arrays, stride), plain, *arrays, rtol=rtol)


def test_pointwise_convolutions_of_the_same_images_are_those_apart():
    def apart(x, weights):
        return [nn.relu(jnp.einsum("nhwi,io->nhwo", x, k[0, 0]) + b.reshape(1, 1, 1, -1)) for k, b in weights]

    def joined(function):
        return lambda x, weights: jnp.concatenate(function(x, weights), -1)

    rng = np.random.default_rng(0)
    x, *arrays = (rng.normal(size=s).astype(np.float32) for s in ((2, 3, 4, 5), (1, 1, 5, 7), (7,), (1, 1, 5, 2), (2,)))
    weights = [tuple(arrays[:2]), tuple(arrays[2:])]
    assert_same(joined(layers.pointwise_relu), joined(apart), x, weights, rtol=1e-5)


@pytest.mark.parametrize("kind", ["reference", "caffe"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_local_response_norm_has_the_gradient_of_xla(kind, dtype):
    def plain(x):
        with devices.traced_for("gpu"):
            return layers.local_response_norm(x, kind)

    x = jnp.asarray(np.random.default_rng(0).normal(scale=60, size=(2, 3, 4, 13)), dtype)
    rtol = 1e-5 if dtype == "float32" else 2e-2
    assert_same(lambda x: layers.local_response_norm(x, kind), plain, x, rtol=rtol)
