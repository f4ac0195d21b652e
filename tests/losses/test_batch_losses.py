"""Batch losses against recorded values of pytorch-metric-learning and loops over rows in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import slow_batch_losses as slow
import slow_losses

from symm_jax import losses, queues, synthesis
from symm_jax.losses import rows

RECORDED = np.load("tests/records/peers.npz")
LOSSES = {
    "contrastive": (losses.contrastive_loss, slow.contrastive),
    "multi_similarity": (losses.multi_similarity_loss, slow.multi_similarity),
    "multi_similarity_mined": (
        functools.partial(losses.multi_similarity_loss, mining="hard"),
        functools.partial(slow.multi_similarity, mined=True),
    ),
    "supcon": (losses.supcon_loss, slow.supcon),
    "ntxent": (losses.ntxent_loss, slow.ntxent),
    "circle": (losses.circle_loss, slow.circle),
    "margin": (losses.margin_loss, slow.margin),
    "smooth_ap": (losses.smooth_ap_loss, slow.smooth_ap),
    "recall_at_k": (losses.recall_at_k_loss, slow.recall_at_k),
}
each_loss = pytest.mark.parametrize("name", LOSSES)
few_losses = pytest.mark.parametrize("name", ["contrastive", "supcon", "recall_at_k"])
KEY = jax.random.key(0)
LABELS = np.array([0, 0, 1, 2, 0, 2, 3, 3])


@functools.cache
def compiled(name, **options):
    """(embeddings, labels) -> the value and the gradient of a loss."""
    return jax.jit(jax.value_and_grad(functools.partial(LOSSES[name][0], **options)))


def random_embeddings(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def random_pairs(n=6, dim=5):
    """Embeddings (n, 2, dim) of pairs that are close."""
    anchor = random_embeddings(n, 1, dim)
    return anchor + 0.5 * np.concatenate([0 * anchor, random_embeddings(n, 1, dim, seed=1)], axis=1)


def assert_close(ours, theirs, value=1e-5, gradient=1e-4):
    np.testing.assert_allclose(ours[0], theirs[0], rtol=value, atol=1e-7)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=0, atol=gradient * np.abs(theirs[1]).max() + 1e-9)


@pytest.mark.parametrize("case", ["pairs", "mperclass", "uneven"])
@each_loss
def test_matches_the_record(name, case):
    soft = name in ("smooth_ap", "recall_at_k")  # their temperature is 0.01
    embeddings, labels = RECORDED[f"{case}/embeddings"].astype(np.float32), RECORDED[f"{case}/labels"]
    value, gradient = compiled(name)(embeddings, labels)
    np.testing.assert_allclose(value, RECORDED[f"{case}/{name}/loss"], rtol=1e-4 if soft else 1e-5)
    if (key := f"{case}/{name}/gradient") in RECORDED:  # all NaN in the record of one case
        expected = RECORDED[key]
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=(1e-3 if soft else 1e-4) * np.abs(expected).max())


def three_points(anchor, positive):
    return synthesis.with_originals(jnp.full((len(anchor), 1, 2), 0.8))


SYNTHESES = {
    "symmetric": (synthesis.symmetric, slow_losses.symmetric_points),
    "interpolated": (synthesis.interpolated, slow_losses.interpolated_points),
    "own": (three_points, lambda a, p: np.stack([a, p, 0.8 * a + 0.8 * p], axis=1)),
}


@pytest.mark.parametrize(
    ("name", "which"), [(name, "symmetric") for name in LOSSES] + [("supcon", "interpolated"), ("circle", "own")]
)
def test_with_synthesis_matches_built_points(name, which):
    function, points = SYNTHESES[which]
    labels = np.array([0, 1, 2, 1, 3, 0])
    pairs = random_pairs(len(labels))
    value, gradient = compiled(name, synthesis=function)(pairs, labels)

    def to_rows(pairs, points=points):
        return list(slow.rows_of_pairs(pairs, labels[:, None] == labels, points))

    def reference(moved):
        fixed = {"fixed": to_rows(pairs)} if name == "circle" else {}  # no gradient passes through its weights
        return LOSSES[name][1](to_rows(moved), **fixed)

    np.testing.assert_allclose(value, reference(pairs), rtol=1e-4)
    assert (
        abs(value - LOSSES[name][1](to_rows(pairs, slow_losses.original_points))) > 1e-4
    )  # the synthetic points matter here
    direction, step = random_embeddings(*pairs.shape, seed=2).astype(np.float64), 1e-6
    slope = (reference(pairs + step * direction) - reference(pairs - step * direction)) / (2 * step)
    np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=2e-3, atol=1e-5)


@each_loss
def test_a_mask_of_positives_may_be_any_relation(name):
    mask = np.zeros((8, 8), bool)  # image 1 is like 0 and like 2, but 0 is not like 2; 7 is like none
    for i, j in [(0, 1), (1, 2), (3, 4), (4, 6), (5, 6), (0, 5)]:
        mask[i, j] = mask[j, i] = True
    x = random_embeddings(8, 5)
    loss = jax.jit(lambda x, mask: LOSSES[name][0](x, None, positives=mask))
    np.testing.assert_allclose(loss(x, mask), LOSSES[name][1](list(slow.rows_of_images(x, mask))), rtol=1e-4)
    np.testing.assert_allclose(loss(x, mask | np.eye(8, dtype=bool)), loss(x, mask))  # the diagonal says nothing


@pytest.mark.parametrize("function", [None, synthesis.symmetric])
def test_a_mask_of_positives_of_pairs_is_that_of_their_labels(function):
    labels, pairs = np.array([0, 1, 2, 1, 3, 0]), random_pairs()
    by_labels = compiled("contrastive", synthesis=function)(pairs, labels)
    loss = functools.partial(losses.contrastive_loss, synthesis=function, positives=labels[:, None] == labels)
    assert_close(jax.jit(jax.value_and_grad(lambda x: loss(x, None)))(pairs), by_labels)


def test_pairs_without_a_synthesis_are_their_images():
    pairs, labels = random_pairs(), np.array([0, 1, 2, 1, 3, 0])
    value, gradient = compiled("supcon")(pairs, labels)
    assert_close((value, gradient.reshape(12, 5)), compiled("supcon")(pairs.reshape(12, 5), np.repeat(labels, 2)))


def degenerate_batches():
    x = random_embeddings(8, 5)
    zero, equal = x.copy(), x.copy()
    zero[[1, 4, 5]] = 0
    equal[:4] = equal[0]
    yield "zero vectors", zero, LABELS
    yield "equal rows", equal, LABELS
    yield "all equal", np.ones_like(x), LABELS
    yield "one class", x, np.zeros(8, int)
    yield "no positive", x, np.arange(8)
    yield "huge", np.float32(1e18) * x, LABELS
    yield "tiny", np.float32(1e-18) * x, LABELS


@each_loss
def test_degenerate_batches_have_finite_values_and_gradients(name):
    function = compiled(name, block_size=3)  # three blocks
    for kind, x, labels in degenerate_batches():
        value, gradient = function(x, labels)
        assert np.isfinite(value), kind
        assert np.isfinite(gradient).all(), kind
        if kind == "no positive" and name not in ("contrastive", "multi_similarity"):
            assert value == 0, kind  # only these two have terms of negatives alone
            assert not gradient.any(), kind
    x = random_embeddings(8, 5)
    assert_close(function(x, LABELS), compiled(name)(x, LABELS))  # blocks add up to the whole


def create_queue(written, size=5):
    """A queue of images (of classes 0 to 3 and of one more) with so many places written."""
    entry = jax.ShapeDtypeStruct((5,), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)
    queue = queues.create(entry, size)
    return queues.push(queue, (3 * random_embeddings(written, 5, seed=4), np.array([1, 9, 0, 2, 3])[:written]))


@pytest.mark.parametrize("name", ["contrastive", "margin", "smooth_ap"])
def test_a_queue_is_more_columns(name):
    loss = jax.jit(jax.value_and_grad(lambda x, queue: LOSSES[name][0](x, LABELS, queue=queue)))
    x, queue = random_embeddings(8, 5), create_queue(3)
    past, labels = queue.entries

    def reference(x):
        images, classes = np.concatenate([x, past[:3]]), np.concatenate([LABELS, labels[:3]])
        return LOSSES[name][1](list(slow.rows_of_images(images, classes[:, None] == classes))[:8])

    value, gradient = loss(x, queue)
    np.testing.assert_allclose(value, reference(x), rtol=1e-4)
    direction, step = random_embeddings(8, 5, seed=2).astype(np.float64), 1e-6
    slope = (reference(x + step * direction) - reference(x - step * direction)) / (2 * step)
    np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=2e-3, atol=1e-5)
    assert_close(loss(x, create_queue(0)), compiled(name)(x, LABELS))
    if name == "contrastive":
        blocks = jax.jit(jax.value_and_grad(lambda x: losses.contrastive_loss(x, LABELS, queue=queue, block_size=3)))
        assert_close(blocks(x), (value, gradient))


@pytest.mark.parametrize(
    ("name", "devices", "labels", "options"),
    [
        ("contrastive", 2, LABELS, {"synthesis": synthesis.Metrix(KEY)}),
        ("margin", 2, LABELS, {"synthesis": synthesis.SiMix(KEY), "mining": "distance_weighted", "key": KEY}),
        ("contrastive", 4, LABELS, {"queue": create_queue(3)}),
        ("ntxent", 4, np.array([0, 0, 1, 2, 3, 4, 5, 6]), {}),  # two positives, fewer than devices
        ("circle", 2, LABELS, {}),
    ],
    ids=["metrix", "simix", "queue", "few positives", "circle"],
)
def test_split_over_devices_is_the_whole(name, devices, labels, options):
    x = random_embeddings(8, 5)

    def share(x, labels):
        loss = functools.partial(LOSSES[name][0], axis_name="devices", block_size=1, **options)
        value, gradient = jax.value_and_grad(loss)(x, labels)
        return jax.lax.pmean(value, "devices"), gradient

    split = [a.reshape(devices, 8 // devices, *a.shape[1:]) for a in (x, labels)]
    values, gradients = jax.pmap(share, axis_name="devices")(*split)
    whole = jax.jit(jax.value_and_grad(functools.partial(LOSSES[name][0], **options)))(x, labels)
    assert_close((values[0], gradients.reshape(x.shape) / devices), whole)


def test_a_mask_split_over_devices_is_the_whole():
    x, mask = random_embeddings(8, 5), LABELS[:, None] == LABELS
    loss = jax.vmap(
        lambda x, mask: losses.supcon_loss(x, None, positives=mask, axis_name="devices"), axis_name="devices"
    )
    values = jax.jit(loss)(x.reshape(2, 4, 5), mask.reshape(2, 4, 8))
    np.testing.assert_allclose(np.mean(values), compiled("supcon")(x, LABELS)[0], rtol=1e-5)


@few_losses
def test_vmap_float64_and_bfloat16(name):
    x = random_embeddings(2, 8, 5)
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(LOSSES[name][0]), (0, None)))(x, LABELS)
    for i in range(2):
        assert_close((values[i], gradients[i]), compiled(name)(x[i], LABELS))
    half = jnp.asarray(x[0], jnp.bfloat16)
    value, gradient = compiled(name)(half, LABELS)
    assert value.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(value, compiled(name)(half.astype(jnp.float32), LABELS)[0], rtol=1e-5)
    with jax.enable_x64(True):
        value, gradient = compiled(name)(x[0].astype(np.float64), LABELS)
        assert value.dtype == gradient.dtype == np.float64
        expected = LOSSES[name][1](list(slow.rows_of_images(x[0], LABELS[:, None] == LABELS)))
        np.testing.assert_allclose(value, expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["contrastive", "multi_similarity", "supcon", "ntxent", "circle"])
def test_memory_of_large_batches_grows_with_a_block(name):
    n, block = 16_384, 256
    shapes = jax.ShapeDtypeStruct((n, 8), jnp.float32), jax.ShapeDtypeStruct((n,), jnp.int32)
    memory = compiled(name).lower(*shapes).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 12 * 4 * n * block  # 0.2 GB; one array of all entries has 1.07 GB


def test_winners_are_counted_among_negatives():
    labels, pairs = np.array([0, 1, 2, 1, 3, 0]), random_pairs()
    winners = [
        jax.jit(functools.partial(loss, synthesis=synthesis.symmetric, with_winners=True, **options))(*batch)[1]
        for loss, batch, options in [
            (losses.supcon_loss, (pairs, labels), {"l2_normalize": False}),
            (losses.npair_loss, (pairs[:, 0], pairs[:, 1], labels), {"candidates": "product"}),
        ]
    ]
    np.testing.assert_allclose(*winners)


def test_beta_of_the_margin_loss_is_learnt():
    x, beta = random_embeddings(8, 5), np.array([1.1, 1.2, 1.0, 1.3], np.float32)
    loss = jax.jit(lambda beta: losses.margin_loss(x, LABELS, beta=beta))
    gradient = jax.jit(jax.grad(loss))(beta)
    steps = 1e-4 * np.eye(4, dtype=np.float32)  # the number of terms above 0 stays the same
    slopes = [(loss(beta + step) - loss(beta - step)) / 2e-4 for step in steps]
    np.testing.assert_allclose(gradient, slopes, atol=3e-3)
    assert np.abs(gradient[jnp.array([0, 2, 3])]).min() > 1e-2
    np.testing.assert_allclose(loss(np.full(4, 1.2, np.float32)), compiled("margin")(x, LABELS)[0], rtol=1e-6)
    np.testing.assert_allclose(loss(np.float32(1.2)), compiled("margin")(x, LABELS)[0], rtol=1e-6)
    assert np.isnan(jax.jit(lambda labels: losses.margin_loss(x, labels, beta=beta))(LABELS + 1))


def test_distance_weighted_sampling_follows_the_density_of_distances():
    # One anchor with 2,000 positives, so 2,000 draws from negatives at three distances, and some beyond 1.4.
    closeness = -0.5 * np.array([0.3, 0.8, 1.2, 1.45], np.float32) ** 2
    values = np.concatenate([closeness, np.zeros(2000, np.float32)])[None]
    positive = np.arange(2004)[None] >= 4
    key = jax.random.key_data(jax.random.key(0))[None]
    row = rows.Row(jnp.asarray(values), jnp.asarray(positive), jnp.asarray(~positive), None, key)
    drawn = np.asarray(losses.margin._sample_negatives(row, 4))[0]
    d = np.array([0.5, 0.8, 1.2])  # the nearest is taken as 0.5
    weight = d**-2.0 * (1 - d**2 / 4) ** -0.5
    assert drawn.sum() == 2000 and drawn[3] == 0 and not drawn[4:].any()
    np.testing.assert_allclose(drawn[:3] / 2000, weight / weight.sum(), atol=0.03)


def test_the_sample_depends_on_the_key_and_not_on_blocks():
    x = random_embeddings(8, 5)
    loss = functools.partial(losses.margin_loss, mining="distance_weighted")
    sampled = jax.jit(lambda key, x: loss(x, LABELS, key=key))
    keys = [jax.random.key(i) for i in range(2)]
    assert sampled(keys[0], x) == sampled(keys[0], x) != sampled(keys[1], x)
    in_blocks = jax.jit(lambda key, x: loss(x, LABELS, key=key, block_size=3))
    np.testing.assert_allclose(in_blocks(keys[0], x), sampled(keys[0], x), rtol=1e-6)
    assert sampled(jax.random.PRNGKey(0), x) == sampled(keys[0], x)
    assert np.isfinite(sampled(jax.random.key(0, impl="rbg"), x))
