"""JAX's numbers of 64 bits: losses, metrics, optimiser and figures compute with them as without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symm_jax import losses, metrics, optim, synthesis
from symm_jax.losses import adapters
from symm_jax.metrics import ranking
from symm_jax.report import planes

RNG = np.random.default_rng(0)
ANCHOR, POSITIVE = RNG.normal(size=(2, 8, 5))
FAR = np.array([5, 5 + 2**32, 7, 7 + 2**32] * 2)


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("name", losses.LOSSES)
def test_losses_are_of_the_dtype_of_their_embeddings(name):
    loss = losses.LOSSES[name]
    loss = adapters.on_pairs(loss) if adapters.takes_batch(loss) else loss

    def value(anchor):
        return loss(anchor, POSITIVE, FAR, synthesis=synthesis.symmetric)

    result, gradient = jax.eval_shape(jax.value_and_grad(value), ANCHOR)
    assert (result.dtype, gradient.dtype) == (np.float64, np.float64)


def test_labels_of_64_bits_keep_their_meaning():
    loss = jax.jit(losses.npair_loss)
    assert loss(ANCHOR, POSITIVE, FAR) == loss(ANCHOR, POSITIVE, np.array([0, 1, 2, 3] * 2))


def test_metrics_and_figures():
    points, labels = RNG.normal(size=(40, 3)), RNG.integers(0, 5, 40)
    assert set(metrics.clustering(points, labels)) == {"nmi", "f1"}
    images, cosines = ranking.find_neighbours(points, np.arange(7), 3)
    assert (images.dtype, cosines.dtype) == (np.int32, np.float32)
    assert planes.synthesise(points[:4], points[4:8], synthesis.symmetric).axis.shape == (4, 2)
    assert optim.weight_penalty({"w": jnp.full(2, 1e25)}).dtype == np.float64
