"""The contract of a loss: the shipped losses keep it, and `register` names what a user's loss breaks."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symm_jax import losses, similarity
from symm_jax.losses import adapters, contract

BATCH = np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32)[::-1], np.arange(4)


@pytest.fixture(autouse=True)
def keep_losses(monkeypatch):
    """Removes registered losses after the test."""
    monkeypatch.setattr(losses.registry, "LOSSES", losses.LOSSES.copy())


def mean_loss(anchor, positive, labels, *, margin=0.0, axis_name=None):
    """Mean similarity of embeddings of different classes: a loss that keeps the contract."""
    columns, column_labels = similarity.gather((positive, labels), axis_name)
    different = labels[:, None] != column_labels[None, :]
    return jnp.mean(jnp.where(different, anchor @ columns.T + margin, 0))


# Batch losses share their rows, synthesis and axis: one of them is enough. Other tests share the others over devices.
BATCH_LOSSES = {name for name, function in losses.LOSSES.items() if adapters.takes_batch(function)}
CHECKED = [name for name in losses.LOSSES if name not in BATCH_LOSSES - {"recall_at_k"}]


@pytest.mark.parametrize("name", CHECKED)
def test_shipped_losses_keep_the_contract(name):
    contract.check(name, losses.LOSSES[name])


@pytest.mark.parametrize("name", losses.LOSSES)
def test_shipped_losses_are_exported_and_documented(name):
    function = losses.LOSSES[name].__name__
    assert function in losses.__all__
    page = Path("docs/losses.md").read_text()
    assert f"\n| `{function}` |" in page


def test_a_registered_loss_is_named_in_a_config():
    losses.register("mean", mean_loss)
    losses.register("mean", mean_loss)
    value, metrics = losses.from_config(({"name": "mean", "margin": 0.5, "weight": 2.0},))(*BATCH)
    np.testing.assert_allclose(value, 2 * mean_loss(*BATCH, margin=0.5))
    assert metrics == {}


def mean_batch_loss(embeddings, labels, *, margin=0.0, axis_name=None):
    """Mean similarity of the images of different classes: a batch loss that keeps the contract."""
    return mean_loss(embeddings, embeddings, labels, margin=margin, axis_name=axis_name)


def test_a_registered_batch_loss_gets_the_images_of_the_pairs():
    losses.register("mean_batch", mean_batch_loss)
    value, metrics = losses.from_config(({"name": "mean_batch", "margin": 0.5},))(*BATCH)
    images, labels = np.concatenate(BATCH[:2]), np.tile(BATCH[2], 2)
    np.testing.assert_allclose(value, mean_batch_loss(images, labels, margin=0.5), rtol=1e-6)
    assert metrics == {}


def noisy_loss(anchor, positive, labels, *, key=None, axis_name=None):
    """A random loss that keeps the contract."""
    return mean_loss(anchor, positive, labels, axis_name=axis_name) * (1 + 0.1 * jax.random.uniform(key, ()))


def test_a_registered_random_loss_gets_the_key_of_the_step():
    losses.register("noisy", noisy_loss)
    key = jax.random.key(5)
    value, _ = losses.from_config(({"name": "noisy"},))(*BATCH, key=key)
    np.testing.assert_allclose(value, noisy_loss(*BATCH, key=key))


def no_axis(anchor, positive, labels, *, margin=0.0):
    return jnp.mean(anchor @ positive.T)


def ignores_axis(anchor, positive, labels, *, axis_name=None):
    return mean_loss(anchor, positive, labels)


def detached_columns(anchor, positive, labels, *, axis_name=None):
    columns = similarity.gather(positive, axis_name)
    return jnp.mean(anchor @ (columns if axis_name is None else jax.lax.stop_gradient(columns)).T)


def unknown_options(anchor, positive, labels, **options):
    return jnp.mean(anchor)


def required_option(anchor, positive, labels, *, margin, axis_name=None):
    return jnp.mean(anchor) + margin


def positional_option(anchor, positive, labels, margin=0.1, *, axis_name=None):
    return jnp.mean(anchor) + margin


def row_values(anchor, positive, labels, *, axis_name=None):
    return jnp.mean(anchor, axis=1)


def not_finite(anchor, positive, labels, *, axis_name=None):
    return jnp.log(jnp.mean(anchor * 0))


def python_branch(anchor, positive, labels, *, axis_name=None):
    return jnp.mean(anchor) if jnp.mean(anchor) > 0 else jnp.mean(positive)


def no_candidates(anchor, positive, labels, *, synthesis=None, with_winners=False, axis_name=None):
    return mean_loss(anchor, positive, labels, axis_name=axis_name)


def no_with_winners(anchor, positive, labels, *, synthesis=None, candidates="product", axis_name=None):
    return mean_loss(anchor, positive, labels, axis_name=axis_name)


def no_winners(anchor, positive, labels, *, synthesis=None, candidates="product", with_winners=False, axis_name=None):
    return mean_loss(anchor, positive, labels, axis_name=axis_name)


def counted_winners(
    anchor, positive, labels, *, synthesis=None, candidates="product", with_winners=False, axis_name=None
):
    value = mean_loss(anchor, positive, labels, axis_name=axis_name)
    return (value, jnp.ones((4, 4))) if with_winners else value


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda embeddings, labels: jnp.mean(embeddings), "must take the option axis_name=None.*similarity.gather"),
        (
            lambda embeddings, labels, *, axis_name=None: mean_batch_loss(embeddings, labels),
            "on one device, but .* over two devices.*similarity.gather",
        ),
        (no_axis, "must take the option axis_name=None.*similarity.gather"),
        (ignores_axis, "on one device, but .* over two devices.*similarity.gather"),
        (detached_columns, "not the same gradients.*similarity.gather"),
        (unknown_options, r"must name its options; it takes \*\*options. Write def"),
        (required_option, "must give its option 'margin' a default"),
        (positional_option, "must take 3 positional arguments.*it takes 4: .*margin. Write def"),
        (row_values, "must return a floating scalar"),
        (not_finite, "must have a finite value"),
        (python_branch, "fails on 8 pairs of dimension 5: TracerBoolConversionError"),
        (no_candidates, "must take the option candidates"),
        (no_with_winners, "must take the option with_winners=False"),
        (no_winners, r"must return \(value, winners\) if with_winners is true"),
        (counted_winners, r"winners of shape \(points, points\) that sum to 1"),
    ],
)
def test_a_broken_contract_is_named(function, message):
    with pytest.raises(ValueError, match=r"loss 'mine'[^\n]*" + message):
        losses.register("mine", function)
    with pytest.raises(ValueError, match="unknown loss 'mine'"):
        losses.from_config(({"name": "mine"},))


def test_a_loss_that_ignores_the_axis_with_synthesis_is_refused():
    def mine(anchor, positive, labels, *, synthesis=None, candidates="product", with_winners=False, axis_name=None):
        options = {"synthesis": synthesis, "candidates": candidates, "with_winners": with_winners}
        return losses.npair_loss(anchor, positive, labels, axis_name=None if synthesis else axis_name, **options)

    with pytest.raises(ValueError, match="loss 'mine' with synthesis gives .* over two devices"):
        losses.register("mine", mine)


@pytest.mark.parametrize(("name", "message"), [("npair", "'npair' is taken by another loss"), ("", "not empty")])
def test_a_name_that_cannot_be_registered_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        losses.register(name, mean_loss)


@pytest.mark.usefixtures("without_shape_checks")
def test_something_that_is_not_a_function_is_refused():
    with pytest.raises(ValueError, match="loss 'mine' must be a function, got 'npair'"):
        losses.register("mine", "npair")
