"""GoogLeNet: its parameter tree, gradients and dtypes, and faults of the weights file. See also test_models.py."""

import googlenet_weights
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io

from symm_jax import errors
from symm_jax.models import googlenet, layers


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return googlenet_weights.write(tmp_path_factory.mktemp("weights") / "weights.mat")


def shapes(**options):
    init = googlenet.GoogLeNet(**options).init
    return jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]


def test_the_file_gives_the_parameters_of_the_model(weights):
    loaded = googlenet.load_googlenet_mat(weights)
    assert jax.tree.map(jnp.shape, loaded) == jax.tree.map(lambda like: like.shape, shapes())
    assert set(loaded["inception_5b"]) == {"1x1", "3x3_reduce", "3x3", "5x5_reduce", "5x5", "pool_proj"}
    kernel = googlenet_weights.entries()["inception_3a/3x3"]
    assert loaded["inception_3a"]["3x3"]["kernel"][1, 2, 3, 4] == kernel[4, 3, 1, 2]


def test_gradients_are_finite_and_reach_every_parameter(monkeypatch):
    googlenet_weights.narrow(monkeypatch)
    model, images = googlenet.GoogLeNet(), np.random.default_rng(0).integers(0, 256, (2, 35, 35, 3), dtype=np.uint8)
    params = googlenet_weights.random_params(jax.eval_shape(model.init, jax.random.key(0), images)["params"])
    assert len(jax.tree.leaves(params)) == 2 * (3 + 2 * 6)
    loss = jax.jit(jax.grad(lambda params: jnp.square(model.apply({"params": params}, images)).mean()))
    for gradient in jax.tree.leaves(loss(params)):
        assert np.isfinite(gradient).all()
        assert np.any(gradient)


def test_gradients_of_the_normalisation_are_finite_at_zero():
    gradient = jax.grad(lambda x: layers.local_response_norm(x, "reference").sum())(jnp.zeros((1, 1, 1, 20)))
    np.testing.assert_array_equal(gradient, 1)


def test_bfloat16_computes_on_float32_parameters():
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes(dtype=jnp.bfloat16))} == {jnp.dtype("float32")}


def test_the_two_normalisations_differ():
    x = jnp.full((1, 1, 1, 20), 100.0)
    reference, caffe = (layers.local_response_norm(x, kind) for kind in ("reference", "caffe"))
    assert float(jnp.abs(reference - caffe).max()) > 10


VERSION_73 = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400)


@pytest.mark.parametrize("content", [np.random.default_rng(0).bytes(5000), bytes(4096), VERSION_73])
def test_a_file_that_is_not_matlab_is_named(tmp_path, content):
    path = tmp_path / "weights.mat"
    path.write_bytes(content)
    with pytest.raises(errors.InputError, match="cannot be read"):
        googlenet.load_googlenet_mat(path)


def test_a_folder_is_named(tmp_path):
    with pytest.raises(errors.InputError, match="there is no file"):
        googlenet.load_googlenet_mat(tmp_path)


@pytest.mark.parametrize(
    "value",
    [
        np.full((1, 64), np.nan, np.float32),
        np.ones((1, 64)) * 1j,
        np.zeros((1, 64), [("a", "f4")]),
    ],
    ids=["nan", "complex", "struct"],
)
def test_entries_that_are_not_finite_numbers_are_named(tmp_path, value):
    path = googlenet_weights.write(tmp_path / "weights.mat", **{"conv1/7x7_s2_bias": value})
    with pytest.raises(
        errors.InputError, match=r"1 entries do not fit: conv1/7x7_s2_bias \(1, 64\): (not finite|missing)"
    ):
        googlenet.load_googlenet_mat(path)


def test_five_faults_are_listed_and_all_are_counted(tmp_path):
    names = [f"inception_{module}/1x1" for module in ("3a", "3b", "4a", "4b", "4c", "4d")]
    path = tmp_path / "weights.mat"
    scipy.io.savemat(path, {k: v for k, v in googlenet_weights.entries().items() if k not in names})
    with pytest.raises(errors.InputError, match="6 entries do not fit") as error:
        googlenet.load_googlenet_mat(path)
    assert str(error.value).count("missing") == 5
