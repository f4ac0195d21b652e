"""GoogLeNet compared with recorded activations of the original; faults of its weights file; `models.create`."""

import googlenet_weights
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io

from symm_jax import errors, models
from symm_jax.app import fields
from symm_jax.models import googlenet, layers

RECORDED = np.load("tests/records/googlenet.npz")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return googlenet_weights.write(tmp_path_factory.mktemp("weights") / "weights.mat")


@pytest.mark.parametrize("size", ["size99", "size227"])
def test_googlenet_matches_the_original(weights, size):
    images = RECORDED[f"{size}/images"]
    params = googlenet.load_googlenet_mat(weights)
    layer = {"kernel": RECORDED[f"{size}/embedding_kernel"], "bias": RECORDED[f"{size}/embedding_bias"]}
    model = models.create("googlenet", dim=64)

    @jax.jit
    def run(params, images):
        feature_map = googlenet.GoogLeNet().apply({"params": params["backbone"]}, images, method="feature_map")
        return feature_map, model.apply({"params": params}, images)

    feature_map, embedding = run({"backbone": params, "embedding": layer}, images)
    expected = RECORDED[f"{size}/pooled_features"]
    np.testing.assert_allclose(feature_map.mean((1, 2)), expected, rtol=0, atol=2e-5 * expected.max())
    first = feature_map[0, ::3, ::3] if size == "size227" else feature_map[0]
    expected = RECORDED[f"{size}/feature_map_first_image"]
    np.testing.assert_allclose(first, expected, rtol=0, atol=2e-5 * expected.max())
    normalized = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    np.testing.assert_allclose(normalized, RECORDED[f"{size}/l2_normalized_embedding"], rtol=0, atol=2e-5)


def test_googlenet_has_57_convolutions_with_bias():
    params = jax.eval_shape(models.create("googlenet").init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
    assert len(jax.tree.leaves(params["backbone"])) == 2 * 57
    assert params["embedding"]["kernel"].shape == (1024, 512)


@pytest.mark.parametrize(("kind", "radius", "alpha"), [("reference", 5, 1e-4), ("caffe", 2, 2e-5)])
def test_local_response_norm_against_its_formula(kind, radius, alpha):
    x = np.random.default_rng(0).normal(scale=100, size=(1, 2, 2, 20))
    expected = np.empty_like(x)
    for c in range(20):
        near = x[..., max(0, c - radius) : c + radius + 1]
        expected[..., c] = x[..., c] / (1 + alpha * (near**2).sum(-1)) ** 0.75
    np.testing.assert_allclose(layers.local_response_norm(jnp.float32(x), kind), expected, rtol=1e-5)


def damaged(tmp_path, fault):
    path = tmp_path / "weights.mat"
    if fault == "absent":
        return path
    if fault == "missing entry":
        return googlenet_weights.write(path, **{"conv2/3x3": None})
    if fault == "misshapen entry":
        return googlenet_weights.write(path, **{"inception_3a/1x1": np.zeros((64, 192, 3, 3), np.float32)})
    if fault == "no entries":
        scipy.io.savemat(path, {})
        return path
    whole = googlenet_weights.write(path).read_bytes()
    contents = {"empty": b"", "page": b"<html>not found</html>" * 20, "cut": whole[: len(whole) // 2]}
    path.write_bytes(contents[fault])
    return path


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("absent", "there is no file"),
        ("missing entry", r"1 entries do not fit: conv2/3x3 \(192, 64, 3, 3\): missing"),
        ("misshapen entry", r"inception_3a/1x1 \(64, 192, 1, 1\): \(64, 192, 3, 3\)"),
        ("no entries", "114 entries"),
        ("empty", "cannot be read"),
        ("page", "cannot be read"),
        ("cut", "cannot be read"),
    ],
)
def test_a_file_that_is_not_the_weights_is_named(tmp_path, fault, message):
    path = damaged(tmp_path, fault)
    with pytest.raises(errors.InputError, match=message) as error:
        googlenet.load_googlenet_mat(path)
    assert str(path) in str(error.value)
    assert "--config.model.pretrained=" in fields.describe(error.value)


@pytest.mark.parametrize("name", ["convnet", "googlenet"])
def test_models_take_bytes_or_floats_and_compute_in_the_asked_dtype(monkeypatch, name):
    googlenet_weights.narrow(monkeypatch)
    images = np.random.default_rng(0).integers(0, 256, (2, 35, 35, 3), dtype=np.uint8)
    model, half = models.create(name, dim=8), models.create(name, dim=8, dtype="bfloat16")
    params = googlenet_weights.random_params(jax.eval_shape(model.init, jax.random.key(0), images)["params"])

    @jax.jit
    def run(images):
        floats = images.astype(jnp.float32)
        return [m.apply({"params": params}, x) for m, x in ((model, images), (model, floats), (half, images))]

    embedding, of_floats, of_half = run(images)
    assert embedding.shape == (2, 8)
    assert embedding.dtype == jnp.float32
    np.testing.assert_array_equal(embedding, of_floats)
    assert of_half.dtype == jnp.bfloat16
    np.testing.assert_allclose(of_half.astype(jnp.float32), embedding, atol=0.1 * np.abs(embedding).max())


def test_unknown_models_and_options_are_named():
    with pytest.raises(errors.InputError, match="did you mean 'googlenet'"):
        models.create("googlnet")
    with pytest.raises(errors.InputError, match="did you mean 'widths'"):
        models.create("convnet", width=(8,))
    with pytest.raises(errors.InputError, match="lrn must be one of reference, caffe"):
        models.create("googlenet", lrn="none").init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


@pytest.mark.parametrize(("name", "side"), [("googlenet", 35), ("convnet", 16)])
def test_the_smallest_image_is_named(name, side):
    init = models.create(name).init
    shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, side, side, 3)))
    assert shapes["params"]["embedding"]["kernel"].shape[1] == 512
    with pytest.raises(errors.InputError, match=f"image_size: .* at least {side} px"):
        jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, side - 1, side - 1, 3)))
