"""Nothing depends on the number of devices: training with every loss, embedding, and the ranks that metrics are of."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import default
from symm_jax import losses, models
from symm_jax.data import pairs
from symm_jax.data.arrays import Arrays
from symm_jax.devices import AXIS
from symm_jax.losses import adapters
from symm_jax.metrics import ranking
from symm_jax.models.embed import create_embed, embed_all
from symm_jax.training import batches
from symm_jax.training.recipe import create_recipe
from symm_jax.training.step import State, train_step

STEPS = 10
# The order in which float32 is added up, the one excuse: of a loss relatively, of parameters that move by 0.09.
LOSS_TOLERANCE, PARAMETER_TOLERANCE = 3e-6, 3e-6


class Smooth(nn.Module):
    """A backbone that is compiled quickly and has no kinks, at which rounding would turn a gradient over."""

    @nn.compact
    def __call__(self, images):
        x = images.reshape(len(images), -1).astype(jnp.float32) / 128 - 1
        return jnp.tanh(nn.Dense(16)(x))


def brighten(keys, images, short_side_ratio):
    """An augmentation that is compiled quickly and shows when an image gets another's key."""
    return images + (jax.random.key_data(keys)[:, 1] % 64).astype(jnp.float32)[:, None, None, None]


MODEL = models.Embedder(Smooth(name="backbone"), 8)


@functools.cache
def random_arrays():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 4, 4, 3), dtype=np.uint8)
    return Arrays(images, np.repeat(np.arange(20, dtype=np.int32), 3), np.ones((60, 2), np.float32))


@functools.cache
def first_params():
    return jax.device_get(jax.jit(MODEL.init)(jax.random.key(0), random_arrays().images)["params"])


def small_recipe(*names, synthesis=""):
    config = default.get_config()
    config.losses = tuple({"name": name} | ({"synthesis": synthesis} if synthesis else {}) for name in names)
    config.model.dim = 8
    config.optimizer.learning_rate, config.optimizer.proxy_rate = 1e-2, 1.0  # proxies move as far as the rest
    return create_recipe(config)._replace(model=MODEL, augment=brighten)


def run_on(devices, recipe, images_per_class=2):
    """Losses and norms of gradients (2, STEPS), and parameters after so many steps of Adam with 8 pairs.

    The devices must end with the same, bit for bit.
    """
    params = jax.tree.map(jnp.asarray, first_params())
    if proxies := recipe.create_proxies(jax.random.key(1), 20):
        params |= {"proxies": proxies}

    def run(stacked):
        queues = recipe.create_queues(20)
        state = State(jnp.zeros((), jnp.int32), params, recipe.optimizer.init(params), {}, queues)
        state, steps = jax.lax.scan(lambda s, b: train_step(s, b, recipe), state, stacked)
        return jnp.stack([steps["loss"], steps["gradient_norm"]]), state.params, state.queues

    arrays = random_arrays()
    table = pairs.class_table(arrays.labels, np.arange(len(arrays.labels)), images_per_class)
    stream = batches.generate(arrays, table, recipe.key, 0, STEPS, 8, devices, images_per_class=images_per_class)
    stacked = jax.tree.map(lambda *x: np.stack(x, axis=1), *stream)
    result = jax.pmap(run, axis_name=AXIS, devices=jax.devices()[:devices])(stacked)
    for leaf in jax.tree.leaves(result):
        np.testing.assert_array_equal(leaf, np.stack([leaf[0]] * devices))
    return jax.tree.map(lambda x: np.asarray(x[0]), result[:2])


def differences(ours, theirs):
    """The largest of the losses and norms, relative, and of the parameters."""
    (values, params), (expected, expected_params) = ours, theirs
    apart = jax.tree.map(lambda a, b: np.abs(a - b).max(), params, expected_params)
    return np.abs(values / expected - 1).max(), max(jax.tree.leaves(apart))


@pytest.mark.parametrize(("synthesis", "numbers"), [("", (8,)), ("symmetric", (2, 4))], ids=["plain", "symmetric"])
def test_any_number_of_devices_trains_the_same(synthesis, numbers):
    """Pair losses and a batch loss are summed: one program to compile. tests/losses compares each across devices."""
    pair_losses = [name for name, loss in losses.LOSSES.items() if not adapters.takes_batch(loss)]
    recipe = small_recipe(*pair_losses, "supcon", synthesis=synthesis)
    one = run_on(1, recipe)
    assert differences((one[0], first_params()), one)[1] > 0.05
    for devices in numbers:
        loss, params = differences(run_on(devices, recipe), one)
        assert loss < LOSS_TOLERANCE and params < PARAMETER_TOLERANCE, (devices, loss, params)


def test_any_number_of_devices_trains_the_same_on_shuffled_epochs():
    recipe = small_recipe("supcon", "norm_softmax", "proxy_anchor")
    one = run_on(1, recipe, 1)
    loss, params = differences(run_on(2, recipe, 1), one)
    assert loss < LOSS_TOLERANCE and params < PARAMETER_TOLERANCE, (loss, params)


def test_a_network_that_sees_parts_of_the_batch_gets_the_update_of_the_whole():
    """A loss of each family, with a synthesis of each kind, and with queues of past steps."""
    names = "angular", "lifted_structure", "supcon", "multi_similarity", "smooth_ap"
    config = default.get_config()
    config.losses = (
        {"name": "npair", "synthesis": "symmetric"},
        *({"name": name} for name in names),
        {"name": "contrastive", "queue": 24, "warm_up": 1},
        {"name": "proxy_anchor", "synthesis": "proxy_synthesis"},
        {"name": "norm_softmax", "synthesis": {"name": "memvir", "steps": 2, "gap": 1, "warm_up": 2}},
    )
    config.model.dim, config.batch_size = 8, 16
    recipe = create_recipe(config)._replace(model=MODEL, augment=brighten, optimizer=optax.sgd(1e-3))
    whole = run_on(1, recipe)
    for devices in (1, 2):
        loss, params = differences(run_on(devices, recipe._replace(micro_batch=4)), whole)
        assert loss < 1e-5 and params < 1e-5, (devices, loss, params)


def test_the_comparison_sees_negatives_and_keys_that_stay_on_their_device():
    recipe = small_recipe("npair")
    one = run_on(1, recipe)
    alone = recipe._replace(loss=lambda *batch, axis_name, key: recipe.loss(*batch))
    # What two devices would give that both begin with the first key.
    same_keys = recipe._replace(augment=lambda keys, *images: brighten(jnp.tile(keys[:8], 2), *images))
    for wrong in (run_on(2, alone), run_on(1, same_keys)):
        loss, params = differences(wrong, one)
        assert loss > 1000 * LOSS_TOLERANCE and params > 1000 * PARAMETER_TOLERANCE, (loss, params)


def test_any_number_of_devices_embeds_every_image_once(use_devices):
    images = random_arrays()
    images = images.images[:7]
    variables = {"params": first_params()}
    expected = MODEL.apply(variables, images)
    assert len(np.unique(expected, axis=0)) == 7
    for devices, batch_size in ((1, 3), (2, 2), (8, 4)):  # the last batch is filled up each time
        use_devices(devices)
        ours = embed_all(create_embed(MODEL), variables, images, batch_size, "embed")
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("apart", [False, True], ids=["15 tiles", "1 tile of a gallery"])
def test_any_number_of_devices_ranks_exactly_the_same(use_devices, apart):
    rng = np.random.default_rng(0)
    points = rng.integers(-2, 3, (301, 3)).astype(np.float32)  # many ties
    labels = np.concatenate([rng.integers(0, 9, 280), np.arange(100, 121)])  # 21 classes of one image
    order = rng.permutation(301)
    points, labels = points[order], labels[order]
    sides = (points[:71], labels[:71], points[71:], labels[71:]) if apart else (points, labels)
    block_size = 512 if apart else 64

    def measure(devices):
        use_devices(devices)
        return [ranking.rank(*sides, nearest_only=only, block_size=block_size) for only in (False, True)]

    expected = measure(1)
    assert len(np.unique(expected[0].average_precision)) > 30
    for devices in (2, 4, 8):
        for ours, theirs in zip(measure(devices), expected, strict=True):
            jax.tree.map(np.testing.assert_array_equal, ours, theirs)
