"""Training with what losses keep: proxies, with a learning rate of their own, and queues; saved and not evaluated."""

import functools
import hashlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from symm_jax import errors, losses, optim, queues, similarity
from symm_jax.app import checks
from symm_jax.evaluation.protocol import create_protocol, create_scorer, measure
from symm_jax.losses import adapters
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


def remember_loss(embeddings, labels, *, queue=None, axis_name=None):
    """The mean similarity with what is in a queue, negative for the class itself."""
    kept, kept_labels = queue.entries
    signs = jnp.where(labels[:, None] == kept_labels[None, :], -1, 1) * (queues.ages(queue) >= 0)[None, :]
    return jnp.mean(signs * similarity.product(*map(similarity.normalize, (embeddings, kept))))


@pytest.fixture
def remember(monkeypatch):
    """A loss with a queue, for configs."""
    monkeypatch.setattr(losses.registry, "LOSSES", losses.LOSSES | {"remember": remember_loss})


def test_proxies_and_queues_are_saved_resumed_and_left_out_of_evaluation(tiny, tmp_path, one_device, remember):
    memvir = {"name": "norm_softmax", "synthesis": {"name": "memvir", "steps": 2, "gap": 0, "warm_up": 1}}
    tiny.losses = (*SPECS, {"name": "remember", "queue": 12, "warm_up": 1}, memvir)
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
    shapes = {"proxy_anchor": (5, 8), "soft_triple": (5, 2, 8), "proxy_anchor_2": (5, 8), "norm_softmax": (5, 8)}
    assert {name: x.shape for name, x in states[0].params["proxies"].items()} == shapes
    for name in shapes:  # Adam moves each entry by about the learning rate: 0.01 x 100 in the first step
        assert np.abs(states[0].params["proxies"][name] - first.params["proxies"][name]).max() > 0.5, name
    assert all((paths.checkpoint(whole, 6) / item).is_dir() for item in ("proxies", "queues"))
    queue = states[0].queues["remember"]
    assert int(queue.pushes) == 6 and sorted(queues.ages(queue).tolist()) == list(range(12))
    assert len(np.unique(queue.entries[0], axis=0)) == 12
    embeddings, labels, proxies = map(np.asarray, states[0].queues["norm_softmax"].entries)
    assert (embeddings.shape, labels.shape, proxies.shape) == ((2, 8, 8), (2, 8), (2, 5, 8))
    moved = np.abs(proxies - np.asarray(states[0].params["proxies"]["norm_softmax"])).max(axis=(1, 2))
    assert moved.min() > 0.1  # those of the last step are from before its update
    scorer = create_scorer(create_protocol(tiny))
    variables = checkpoints.restore(whole, 6, **scorer.shapes)
    assert set(variables["params"]) == {"backbone", "embedding"}
    assert "recall@1" in measure(create_protocol(tiny), scorer, variables, "test")[0]
    tiny.losses = (*SPECS, {"name": "remember", "queue": 11, "warm_up": 1})
    with pytest.raises(errors.InputError, match="checkpoints of another config:\n  losses: .*'queue': 11"):
        train(tiny, whole)


def test_a_step_is_pushed_as_images_of_the_whole_batch(remember):
    """Anchor and positive in turn, in the order of the devices, and the loss sees the steps before."""
    specs = {"name": "remember", "queue": 6, "warm_up": 1}, {"name": "npair"}
    anchor, positive = np.random.default_rng(0).normal(size=(2, 2, 2, 3)).astype(np.float32)  # on two devices
    labels = np.array([[4, 5], [6, 7]], np.int32)
    created = losses.create_queues(specs, classes=9, dim=3, images=8)
    push = functools.partial(losses.push_queues(specs), axis_name="i")
    push = jax.jit(jax.vmap(push, (None, 0, 0, 0, None), axis_name="i"))
    queue = created
    for _ in range(2):
        assert all(x == 0 for x in queue["remember"].entries[1])
        queue = jax.tree.map(lambda x: x[0], push(queue, anchor, positive, labels, {}))
    kept, kept_labels = (x[np.argsort(-queues.ages(queue["remember"]))] for x in queue["remember"].entries)
    np.testing.assert_array_equal(kept_labels, [5, 5, 6, 6, 7, 7])  # the newest 6 of 8
    np.testing.assert_array_equal(kept, np.stack([anchor, positive], axis=2).reshape(8, 3)[2:])
    batch = anchor[0], positive[0], labels[0]
    value, _ = losses.from_config(specs[:1])(*batch, queues=queue)
    np.testing.assert_allclose(value, remember_loss(*adapters.take_images(*batch), queue=queue["remember"]), rtol=1e-6)
    assert losses.create_queues(specs[1:], classes=9, dim=3, images=8) == {}


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


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "proxy_anker"}, "unknown loss 'proxy_anker' \\(did you mean 'proxy_anchor'"),
        ({"name": "proxy_anchor", "synthesis": "symmetric"}, "proxy_anchor_loss takes the syntheses ProxySynthesis or"),
        ({"name": "soft_triple", "synthesis": "memvir"}, "MemVir needs one proxy per class"),
        ({"name": "npair", "synthesis": "proxy_synthesis"}, "ProxySynthesis makes new classes beside proxies"),
        ({"name": "supcon", "synthesis": {"name": "memvir", "steps": 2}}, "MemVir makes new classes beside proxies"),
        ({"name": "cosface", "synthesis": {"name": "memvir", "step": 2}}, "'memvir' has no option 'step'.*'steps'"),
        ({"name": "cosface", "synthesis": {"name": "memvir", "gap": -1}}, "gap of 'memvir' must be an integer, 0 or"),
        ({"name": "cosface", "synthesis": {"name": "proxy_synthesis", "alpha": 0.0}}, "alpha of ProxySynthesis must"),
        ({"name": "proxy_anchor", "per_class": 2}, "'proxy_anchor' has no option 'per_class'"),
        ({"name": "soft_triple", "per_class": 0}, "per_class of 'soft_triple' must be an integer, 1 or more; got 0"),
        ({"name": "arcface", "degrees": 200.0}, "degrees must be below 180, got 200.0"),
        ({"name": "cosface", "weight": -1}, "weight of 'cosface' must be a finite number >= 0, got -1"),
        ({"name": "npair", "queue": 8}, "'npair' has no option 'queue'"),
        ({"name": "remember", "warm_up": 8}, "'remember' has a warm_up but no queue"),
        ({"name": "remember", "queue": 8.0}, "queue of 'remember' must be an integer, 1 or more; got 8.0"),
        ({"name": "remember", "queue": 8, "warm_up": -1}, "warm_up of 'remember' must be an integer, 0 or more"),
    ],
)
def test_wrong_specs_are_named(remember, spec, message):
    with pytest.raises(errors.InputError, match=message):
        losses.from_config((spec,))
