"""Trained batch norm: statistics are those of the whole batch, are saved with the run, and are used for evaluation."""

import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import resnet50_weights
import safetensors.numpy

from configs import default
from symm_jax import errors, models
from symm_jax.data import datasets
from symm_jax.devices import AXIS
from symm_jax.evaluation.evaluate import evaluate
from symm_jax.models import resnet
from symm_jax.run import best, checkpoints
from symm_jax.training.batches import Batch
from symm_jax.training.recipe import create_recipe
from symm_jax.training.step import create_state, train_step
from symm_jax.training.train import train

SIDE = 32


@pytest.fixture
def narrow(monkeypatch, tmp_path):
    """A function that narrows the ResNet to some stages and gives the path of a file of random weights for it."""

    def write(*stages):
        for module in (resnet, resnet50_weights):
            monkeypatch.setattr(module, "STAGES", stages)
        safetensors.numpy.save_file(resnet50_weights.tensors(), tmp_path / "resnet50.safetensors")
        return tmp_path / "resnet50.safetensors"

    return write


def use_batch_norm(config, weights):
    config.model.name, config.model.pretrained, config.model.dim = "resnet50", str(weights), 8
    config.model.options = type(config)({"train_batch_norm": True})
    return config


def random_images(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, SIDE, SIDE, 3), dtype=np.uint8)


def assert_close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


def test_running_statistics_evaluate_as_folded_ones(narrow):
    weights = narrow((4, 1), (4, 2))  # blocks with and without stride and downsampling
    apply, params = models.pretrained_features("resnet50", weights)
    variables = models.load_pretrained("resnet50", weights, train_batch_norm=True)
    kept = jax.jit(resnet.ResNet50(train_batch_norm=True).apply)
    batch = random_images(3)
    assert_close(kept(variables, batch), jax.jit(apply)(params, batch), 1e-4)
    assert_close(kept(variables, batch[1:2]), kept(variables, batch)[1:2])
    with pytest.raises(errors.InputError, match="weights for 'googlenet' with train_batch_norm, only for resnet50"):
        models.load_pretrained("googlenet", weights, train_batch_norm=True)


def one_step(devices, recipe, state):
    """The state and metrics after a step with 8 pairs, the same on all devices bit for bit."""
    pairs = random_images(8, 2)
    pairs[4:] //= 2  # so that the devices' batches differ
    batch = Batch(pairs, np.ones((8, 2, 2), np.float32), np.arange(8, dtype=np.int32))
    batch = jax.tree.map(lambda x: x.reshape(devices, 8 // devices, *x.shape[1:]), batch)
    step = jax.pmap(lambda batch: train_step(state, batch, recipe), axis_name=AXIS, devices=jax.devices()[:devices])
    result = step(batch)
    for leaf in jax.tree.leaves(result):
        np.testing.assert_array_equal(leaf, np.stack([leaf[0]] * devices))
    return pairs.reshape(16, SIDE, SIDE, 3), jax.tree.map(lambda x: np.asarray(x[0]), result)


def first_activations(pixels, kernel):
    """The input of the first batch norm, in float64."""
    x = (pixels / 255 - np.reshape(resnet.MEAN_RGB, (1, 1, 1, 3))) / np.reshape(resnet.DEVIATION_RGB, (1, 1, 1, 3))
    x = np.pad(x, ((0, 0), (3, 3), (3, 3), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (7, 7), (1, 2))[:, ::2, ::2]
    return np.einsum("nhwcij,ijco->nhwo", windows, kernel.astype(np.float64), optimize=True)


def test_a_step_takes_the_statistics_of_all_devices(narrow):
    weights = narrow()  # the stem alone
    config = use_batch_norm(default.get_config(), weights)
    config.data.image_size = SIDE
    config.losses = ({"name": "npair", "l2_normalize": True, "scale": 8.0},)
    config.optimizer.eps = 1e-3  # with a smaller one, Adam amplifies the rounding of gradients near 0
    recipe = create_recipe(config)._replace(augment=lambda keys, images, short_side_ratio: images)
    loaded = models.load_pretrained("resnet50", weights, train_batch_norm=True)
    before = create_state(recipe, backbone=loaded)
    jax.tree.map(np.testing.assert_array_equal, before.batch_stats["backbone"], loaded["batch_stats"])

    pixels, (after, metrics) = one_step(4, recipe, before)
    y = first_activations(pixels, loaded["params"]["conv1"]["kernel"])
    old, new = (stats["conv1"]["norm"] for stats in (loaded["batch_stats"], after.batch_stats["backbone"]))
    assert_close(new["mean"], 0.9 * old["mean"] + 0.1 * y.mean((0, 1, 2)))
    assert_close(new["var"], 0.9 * old["var"] + 0.1 * y.var((0, 1, 2)))
    # Only parameters are penalised, those of the norms included, not statistics.
    penalty = 0.5 * sum(np.square(w, dtype=np.float64).sum() for w in jax.tree.leaves(before.params))
    assert metrics["weight_penalty"] == pytest.approx(config.optimizer.weight_penalty * penalty, rel=1e-5)

    _, (alone, metrics_alone) = one_step(1, recipe, before)
    jax.tree.map(assert_close, after.batch_stats, alone.batch_stats)
    for name in ("loss", "gradient_norm"):
        assert metrics[name] == pytest.approx(metrics_alone[name], rel=1e-5)
    moved = [jax.tree.map(lambda a, b: a - np.asarray(b), state.params, before.params) for state in (after, alone)]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-6), *moved)
    assert max(np.abs(x).max() for x in jax.tree.leaves(moved)) > 5e-5


def test_statistics_are_saved_resumed_and_evaluated(narrow, tiny, tmp_path, one_device):
    weights = narrow()  # the stem alone
    config = use_batch_norm(tiny, weights)
    config.num_steps, config.checkpoint_every, config.clustering = 2, 1, False
    config.data.on_device = "always"
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(config, whole)
    shutil.copytree(whole, parts)
    shutil.rmtree(parts / "checkpoints/2")
    train(config, parts)
    assert checkpoints.steps(parts) == [1, 2]
    recipe = create_recipe(config)
    states = [create_state(recipe, restore_from=workdir) for workdir in (whole, parts)]
    jax.tree.map(np.testing.assert_array_equal, *states)

    assert evaluate(config, [whole]) == []
    shapes = {"params": states[0].params, "batch_stats": states[0].batch_stats}
    variables = checkpoints.restore(whole / "best", best.read(whole)["step"], **shapes)
    first = models.load_pretrained("resnet50", weights, train_batch_norm=True)["batch_stats"]
    apply, test = (
        jax.jit(recipe.model.apply),
        datasets.load(datasets.Source.from_section(config.data), "test", config.data.image_size).images,
    )
    embeddings = np.load(whole / "best/embeddings.npy")
    assert_close(embeddings, apply(variables, test))
    unmoved = apply(variables | {"batch_stats": {"backbone": jax.tree.map(jnp.asarray, first)}}, test)
    assert np.abs(embeddings - unmoved).max() > 1e-2 * np.abs(embeddings).max()
