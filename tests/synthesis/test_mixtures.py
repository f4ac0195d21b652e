"""SiMix and Metrix against float64 forms written from their formulas."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import slow_batch_losses as slow
from slow_losses import unit

from symm_jax import losses
from symm_jax.synthesis import Metrix, SiMix, mixtures

RNG = np.random.default_rng(0)
LABELS = np.array([0, 1, 2, 1, 3, 0])  # two images at most, so that there is nothing to draw among positives
X = RNG.normal(size=(6, 4))
KEY = jax.random.key(0)
WITH_ANCHORS = {0: True, 1: False}  # what Metrix draws with these seeds
LOSSES = {
    "contrastive": (losses.contrastive_loss, slow.contrastive),
    "multi_similarity": (losses.multi_similarity_loss, slow.multi_similarity),
    "supcon": (losses.supcon_loss, slow.supcon),
}


def assert_equals(function, reference, tolerance):
    """Compares a loss of X with a reference, and the slopes of both in one direction."""
    direction, step = np.random.default_rng(1).normal(size=X.shape), 1e-6
    value, gradient = function(X)
    np.testing.assert_allclose(value, reference(X), rtol=tolerance)
    slope = (reference(X + step * direction) - reference(X - step * direction)) / (2 * step)
    np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=1e-6)


def slow_simix(name, x, key):
    x, t = unit(x), [float(jax.random.uniform(jax.random.fold_in(key, i), dtype=np.float64)) for i in range(len(x))]
    mates = [next((j % 6) for j in range(i + 1, i + 7) if LABELS[j % 6] == LABELS[i]) for i in range(6)]
    points = np.concatenate([x, [t[i] * x[i] + (1 - t[i]) * x[mates[i]] for i in range(6)]])
    values, labels = points @ points.T, np.tile(LABELS, 2)
    if name == "contrastive":  # of unit vectors at the distance of the points
        values = 1 - np.sum((points[:, None] - points) ** 2, axis=2) / 2
    others = ~np.eye(12, dtype=bool)
    for i in (2, 4):  # alone in its class
        others[i, i + 6] = others[i + 6, i] = False
    same = labels[:, None] == labels
    rows = [(values[i][others[i] & same[i]], values[i][~same[i]]) for i in range(12)]
    return LOSSES[name][1](rows)


@pytest.mark.parametrize("name", ["contrastive", "supcon"])
def test_simix_adds_virtual_images(name):
    with jax.enable_x64(True):
        loss = jax.jit(jax.value_and_grad(lambda x, key: LOSSES[name][0](x, LABELS, synthesis=SiMix(key))))
        key = jax.random.key(3)
        assert_equals(lambda x: loss(x, key), lambda x: slow_simix(name, x, key), 1e-12)


def slow_metrix(name, x, lam, with_anchors):
    x, weight = unit(x), 0.3 if with_anchors else 0.4
    same = LABELS[:, None] == LABELS
    rows = list(slow.rows_of_images(x, same))
    mixed = []  # the similarities of the mixtures of each row
    for i in range(6):
        mates = [i] if with_anchors else [j for j in range(6) if j != i and same[i, j]]
        mixed.append(
            np.array([lam * x[i] @ x[p] + (1 - lam) * x[i] @ x[n] for p in mates for n in np.where(~same[i])[0]])
        )
    if name == "contrastive":
        d = slow.distances(np.concatenate(mixed))
        total = slow.mean(slow.above_zero(lam * d)) + slow.mean(slow.above_zero((1 - lam) * np.maximum(0, 1 - d)))
    else:
        pull = [np.log(1 + lam * np.sum(np.exp(-2 * (s - 0.5)))) / 2 for s in mixed]
        push = [np.log(1 + (1 - lam) * np.sum(np.exp(50 * (s - 0.5)))) / 50 for s in mixed]
        total = np.mean(pull) + np.mean(push)
    return LOSSES[name][1](rows) + weight * total


@pytest.mark.parametrize("name", ["contrastive", "multi_similarity"])
def test_metrix_adds_mixed_rows(name):
    with jax.enable_x64(True):
        loss = jax.jit(jax.value_and_grad(lambda x, key: LOSSES[name][0](x, LABELS, synthesis=Metrix(key))))
        for seed, with_anchors in WITH_ANCHORS.items():
            key = jax.random.key(seed)
            drawn = draw(key)
            assert (drawn.weight == 0.3) == with_anchors
            reference = functools.partial(slow_metrix, name, lam=float(drawn.shares[0, 0]), with_anchors=with_anchors)
            assert_equals(functools.partial(loss, key=key), reference, 1e-10)


@functools.partial(jax.jit, static_argnames="labels")
def draw(key, labels=tuple(LABELS)):
    position = jnp.arange(len(labels))
    x = jnp.ones((len(labels), 2))
    return mixtures.draw_mixed_rows(Metrix(key), x, jnp.array(labels), position, None, distance=False)


@pytest.mark.parametrize("alpha", [0.4, 2.0])
def test_shares_are_of_the_beta_distribution(alpha):
    keys = jax.random.split(KEY, 4000)
    shares = jax.jit(jax.vmap(lambda key: mixtures.draw_share(key, alpha, jnp.dtype("float32"))))(keys)
    expected = np.random.default_rng(0).beta(alpha, alpha, 4000)
    np.testing.assert_allclose(np.sort(shares), np.sort(expected), atol=0.05)


def test_metrix_draws_any_positive():
    labels, position = jnp.array([5, 7, 5, 5, 7, 5, 8]), jnp.arange(7)
    mates = jax.jit(jax.vmap(lambda key: mixtures._find_classmate(labels, position, labels, key)[0]))
    mates = np.asarray(mates(jax.random.split(jax.random.key(1), 300)))
    counts = [np.bincount(column, minlength=7).tolist() for column in mates.T]
    assert counts[1] == [0, 0, 0, 0, 300, 0, 0] and counts[6] == [0, 0, 0, 0, 0, 0, 300]
    assert min(counts[0][i] for i in (2, 3, 5)) > 70 and counts[0][0] == 0


DEGENERATE = {
    "zero vectors": (np.float32(X) * np.array([1, 0, 1, 0, 0, 1], np.float32)[:, None], LABELS),
    "all equal": (np.ones_like(X, np.float32), LABELS),
    "one class": (np.float32(X), 0 * LABELS),
    "no positive": (np.float32(X), np.arange(6)),
    "huge": (np.float32(1e18 * X), LABELS),
}


@pytest.mark.parametrize("which", [SiMix, Metrix])
def test_degenerate_batches_are_finite(which):
    def total(x, labels, key):
        return losses.contrastive_loss(x, labels, synthesis=which(key), block_size=5)

    loss = jax.jit(jax.value_and_grad(total))
    for kind, batch in DEGENERATE.items():
        for seed in WITH_ANCHORS:
            value, gradient = loss(*batch, jax.random.key(seed))
            assert np.isfinite(value) and np.isfinite(gradient).all(), kind
    value, gradient = jax.eval_shape(loss, jax.ShapeDtypeStruct(X.shape, jnp.bfloat16), LABELS, KEY)
    assert (value.dtype, gradient.dtype) == (jnp.float32, jnp.bfloat16)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        (losses.supcon_loss, {"synthesis": Metrix(KEY)}, "Metrix gives mixtures .* contrastive_loss and multi_sim"),
        (losses.contrastive_loss, {"synthesis": SiMix}, r"must be created, as in SiMix\(key\)"),
        (losses.contrastive_loss, {"synthesis": SiMix(np.zeros(3))}, "needs one PRNG key"),
        (losses.contrastive_loss, {"synthesis": SiMix(jax.random.split(jax.random.key(0)))}, r"got an array \(2,\)"),
        (losses.contrastive_loss, {"synthesis": SiMix(0)}, "SiMix needs one PRNG key, .* got 0"),
        (losses.contrastive_loss, {"synthesis": Metrix(KEY, alpha=0)}, "alpha must be .* above 0; got 0"),
        (losses.contrastive_loss, {"synthesis": Metrix(KEY, anchor_weight=-1)}, "anchor_weight must be .* got -1"),
        (losses.supcon_loss, {"synthesis": SiMix(KEY), "positives": np.eye(6, dtype=bool)}, "needs labels instead of"),
        (losses.supcon_loss, {"synthesis": SiMix(KEY), "with_winners": True}, "needs a synthesis of points"),
    ],
)
def test_what_has_no_meaning_is_refused(loss, options, message):
    with pytest.raises(ValueError, match=message):
        loss(X, None if "positives" in options else LABELS, **options)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    "loss", [losses.npair_loss, losses.angular_loss, losses.triplet_loss, losses.lifted_structure_loss]
)
def test_pair_losses_say_what_a_mixture_goes_with(loss):
    with pytest.raises(ValueError, match="SiMix makes virtual images .* goes with the batch losses"):
        loss(X, X, LABELS, synthesis=SiMix(KEY))
