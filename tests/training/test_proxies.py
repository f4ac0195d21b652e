"""Training with proxies: parameters beside the network, with a rate of their own, saved, resumed and not evaluated."""

import hashlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from symm_jax import errors, losses, optim
from symm_jax.app import checks
from symm_jax.evaluation.protocol import create_protocol, create_scorer, measure
from symm_jax.run import checkpoints, metric_log, paths
from symm_jax.training.recipe import create_recipe
from symm_jax.training.step import create_state
from symm_jax.training.train import train

SPECS = (
    {"name": "npair", "synthesis": "symmetric", "l2_normalize": True},
    {"name": "proxy_anchor", "weight": 0.5},
    {"name": "soft_triple", "per_class": 2},
    {"name": "proxy_anchor", "alpha": 8.0},
)


def digest(state):
    return [hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest() for leaf in jax.tree.leaves(state)]


def test_proxies_are_trained_saved_resumed_and_left_out_of_evaluation(tiny, tmp_path, one_device):
    tiny.losses = SPECS
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(tiny, whole)
    tiny.num_steps = 3
    train(tiny, parts)
    tiny.num_steps = 6
    train(tiny, parts)
    recipe = create_recipe(tiny)
    first = create_state(recipe, classes=5)
    states = [create_state(recipe, classes=5, restore_from=workdir) for workdir in (whole, parts)]
    assert digest(states[0]) == digest(states[1])
    shapes = {"proxy_anchor": (5, 8), "soft_triple": (5, 2, 8), "proxy_anchor_2": (5, 8)}
    assert {name: x.shape for name, x in states[0].params["proxies"].items()} == shapes
    for name in shapes:  # Adam moves each entry by about the learning rate: 0.01 x 100 in the first step
        assert np.abs(states[0].params["proxies"][name] - first.params["proxies"][name]).max() > 0.5, name
    assert (paths.checkpoint(whole, 6) / "proxies").is_dir()
    scorer = create_scorer(create_protocol(tiny))
    variables = checkpoints.restore(whole, 6, **scorer.shapes)
    assert set(variables["params"]) == {"backbone", "embedding"}
    assert "recall@1" in measure(create_protocol(tiny), scorer, variables, "test")[0]


def test_shuffled_epochs_go_on_after_a_resume_with_images_on_the_device(tiny, tmp_path, one_device, capsys):
    """15 images in batches of 4 are three steps an epoch. The run is resumed after two of four steps."""
    tiny.losses = ({"name": "norm_softmax"}, {"name": "supcon", "weight": 0.1})
    tiny.data.images_per_class, tiny.batch_size, tiny.data.on_device = 1, 4, "never"
    tiny.num_steps, tiny.checkpoint_every = 4, 2
    tiny.optimizer.proxy_rate, tiny.optimizer.eps = 1.0, 1e-3  # with larger steps rounding grows
    checks.validate(tiny, num_devices=1)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train(tiny, whole)
    out = capsys.readouterr().out
    assert "15 images of 5 classes" in out and "3 steps per epoch" in out
    shutil.copytree(whole, resumed)
    shutil.rmtree(paths.checkpoint(resumed, 4))
    tiny.data.on_device = "always"
    train(tiny, resumed)
    lines = [metric_log.read(paths.metrics(workdir, "train")) for workdir in (whole, resumed)]
    found = [[line["loss"] for line in some] for some in lines]
    assert len(found[0]) == 4 and min(found[0]) > 0
    # Rounding turns a gradient over at a tie of max pooling, which changes the last loss by 4e-4. The losses of other
    # images differ by more than a tenth.
    np.testing.assert_allclose(*found, rtol=1e-2)


def test_the_sum_of_a_config_is_that_of_its_losses():
    rng = np.random.default_rng(0)
    anchor, positive = rng.normal(size=(2, 4, 8)).astype(np.float32)
    labels = np.array([0, 2, 3, 1])
    proxies = losses.create_proxies(SPECS, jax.random.key(0), 5, 8)
    total, metrics = jax.jit(losses.from_config(SPECS))(anchor, positive, labels, proxies=proxies)

    @jax.jit
    def add_terms():
        images, both = np.concatenate([anchor, positive]), np.concatenate([labels, labels])
        return (
            losses.from_config(SPECS[:1])(anchor, positive, labels)[0]
            + 0.5 * losses.proxy_anchor_loss(images, both, proxies["proxy_anchor"])
            + losses.soft_triple_loss(images, both, proxies["soft_triple"])
            + losses.proxy_anchor_loss(images, both, proxies["proxy_anchor_2"], alpha=8.0)
        )

    expected = add_terms()
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    assert "npair/synthetic_share" in metrics
    assert not np.array_equal(proxies["proxy_anchor"], proxies["proxy_anchor_2"])


@pytest.mark.parametrize("backbone_rate", [1.0, 0.5])
def test_proxies_have_their_own_learning_rate(backbone_rate):
    params = {name: jnp.ones(2) for name in ("backbone", "embedding", "proxies")}
    optimizer = optim.create(optax.constant_schedule(0.01), backbone_rate=backbone_rate, proxy_rate=30.0)
    updates, _ = optimizer.update(params, optimizer.init(params))
    expected = {"backbone": -0.01 * backbone_rate, "embedding": -0.01, "proxies": -0.3}
    for name, update in expected.items():
        np.testing.assert_allclose(updates[name], [update] * 2, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "proxy_anker"}, "unknown loss 'proxy_anker' \\(did you mean 'proxy_anchor'"),
        ({"name": "proxy_anchor", "synthesis": "symmetric"}, "'proxy_anchor' has no option 'synthesis'"),
        ({"name": "proxy_anchor", "per_class": 2}, "'proxy_anchor' has no option 'per_class'"),
        ({"name": "soft_triple", "per_class": 0}, "per_class of 'soft_triple' must be an integer, 1 or more; got 0"),
        ({"name": "arcface", "degrees": 200.0}, "degrees must be below 180, got 200.0"),
        ({"name": "cosface", "weight": -1}, "weight of 'cosface' must be a finite number >= 0, got -1"),
    ],
)
def test_wrong_specs_are_named(spec, message):
    with pytest.raises(errors.InputError, match=message):
        losses.from_config((spec,))
