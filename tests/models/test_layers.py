"""The layers for each platform, compared with XLA's own values and gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symm_jax import devices
from symm_jax.models import googlenet, layers


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


@pytest.mark.parametrize(("size", "stride", "side"), [(1, 1, 5), (3, 1, 6), (5, 1, 4), (7, 2, 11), (7, 2, 12)])
def test_convolution_has_the_gradients_of_xla(monkeypatch, size, stride, side):
    monkeypatch.setattr(layers, "_LARGE", 1)

    def plain(x, kernel):
        pad = [(size // 2, size // 2)] * 2
        return jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, pad, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    rng = np.random.default_rng(0)
    x, kernel = (rng.normal(size=s).astype(np.float32) for s in ((3, side, side + 1, 4), (size, size, 4, 6)))
    assert_same(lambda x, kernel: layers.conv(x, kernel, stride), plain, x, kernel, rtol=1e-5)


def on_gpu(function):
    """The function as it is traced for a GPU, which runs here as well."""

    def traced(*inputs):
        with devices.traced_for("gpu"):
            return function(*inputs)

    return traced


@pytest.mark.parametrize("kind", ["reference", "caffe"])
def test_normalisation_for_a_gpu_has_the_gradient_of_xla(kind):
    def norm(x):
        return layers.local_response_norm(x, kind)

    # So large that the sums of squares matter.
    x = 100 * np.random.default_rng(0).normal(size=(2, 3, 4, 24)).astype(np.float32)
    assert_same(on_gpu(norm), norm, x, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_inception_for_a_gpu_has_the_gradients_of_xla(dtype):
    module = googlenet.Inception((4, 3, 6, 2, 5, 7), dtype=jnp.dtype(dtype))
    x = np.random.default_rng(0).normal(size=(2, 6, 7, 9)).astype(np.float32)
    variables = module.init(jax.random.key(0), jnp.asarray(x, module.dtype))
    leaves, tree = jax.tree.flatten(jax.tree.map(lambda w: w + 0.1, variables))  # so that no bias is 0

    def apply(x, *leaves):
        y = module.apply(jax.tree.unflatten(tree, leaves), x.astype(module.dtype))
        return y.astype(jnp.float32)

    assert_same(on_gpu(apply), apply, x, *leaves, rtol=1e-5 if dtype == "float32" else 2e-2)


def test_convolution_with_relu_for_a_gpu_has_the_gradients_of_xla():
    def conv_relu(x, kernel, bias):
        return layers.conv_relu(x, kernel, bias, 2)

    rng = np.random.default_rng(0)
    inputs = (rng.normal(size=s).astype(np.float32) for s in ((3, 11, 12, 4), (7, 7, 4, 6), (6,)))
    assert_same(on_gpu(conv_relu), conv_relu, *inputs, rtol=1e-5)
