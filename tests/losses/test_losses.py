"""Every loss, plain and with synthesis, against the original, pytorch-metric-learning and loops over built points."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import slow_losses as slow

from symm_jax import losses, synthesis

RECORDED = np.load("tests/records/losses.npz")
CASES = [k.removesuffix("/loss") for k in RECORDED.files if k.endswith("/loss")]
PAPER_BATCH = [RECORDED[f"paper_batch/{name}"] for name in ("anchor", "positive", "labels")]

PLAIN = {
    "npair": losses.npair_loss,
    "angular": losses.angular_loss,
    "angular with npair": functools.partial(losses.angular_loss, with_npair=True),
    "triplet all": functools.partial(losses.triplet_loss, margin=0.5),
    "triplet semihard": functools.partial(losses.triplet_loss, margin=0.5, mining="semihard"),
    "triplet hard": functools.partial(losses.triplet_loss, margin=0.5, mining="hard"),
    "lifted structure": losses.lifted_structure_loss,
}
MINED = {f"symm {name}": functools.partial(loss, synthesis=synthesis.symmetric) for name, loss in PLAIN.items()}
LOSSES = PLAIN | MINED
# One loss of each kind, for tests that would take long with all losses.
FEW = {
    name: LOSSES[name]
    for name in ("npair", "symm npair", "symm angular", "triplet all", "symm triplet semihard", "symm lifted structure")
}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
few_losses = pytest.mark.parametrize("loss", FEW.values(), ids=FEW)


def random_batch(n=8, dim=6, seed=1, labels=None):
    """Anchors, positives near them, and labels, n distinct ones unless given."""
    rng = np.random.default_rng(seed)
    anchor = rng.normal(size=(n, dim))
    positive = anchor + 0.7 * rng.normal(size=(n, dim))
    return anchor.astype(np.float32), positive.astype(np.float32), np.arange(n) if labels is None else labels


@functools.cache
def compiled(loss):
    """Value and gradients. Tests of a loss with batches of one shape share a program."""
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))


def value_and_gradients(loss, batch):
    return compiled(loss)(*batch)


def assert_close(ours, theirs, rtol=1e-5, gradient_tolerance=5e-5):
    (value, gradients), (expected, expected_gradients) = ours, theirs
    np.testing.assert_allclose(value, expected, rtol=rtol, atol=1e-7)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(gradient, other, rtol=0, atol=gradient_tolerance * np.abs(other).max() + 1e-9)


def recorded_loss(variant):
    """The loss that a recorded variant such as "symm_npair|ratio=3.0|l2_reg=True" names."""
    name, *options = variant.split("|")
    given = dict(option.split("=") for option in options)
    options = {"l2_normalize": given.get("l2_norm") == "True"}
    if given.get("l2_reg") == "False":
        options["l2_reg"] = 0.0
    if name.startswith("symm_"):
        options["synthesis"] = functools.partial(
            synthesis.symmetric,
            ratio=float(given.get("ratio", 2)),
            norm_ratio=float(given.get("norm_ratio", 1)),
            rescale=given.get("rescale_to_axis_norm") == "True",
        )
    if name.endswith("npair"):
        return functools.partial(losses.npair_loss, **options)
    with_npair = given.get("with_npair") == "True"
    return functools.partial(losses.angular_loss, degrees=float(given["degree"]), with_npair=with_npair, **options)


def test_the_record_is_whole():
    assert len(CASES) == 4 * 17


@pytest.mark.parametrize("case", CASES)
def test_matches_the_original(case):
    batch, variant = case.split("/")
    arguments = [RECORDED[f"{batch}/{name}"] for name in ("anchor", "positive", "labels")]
    expected = RECORDED[f"{case}/loss"], [RECORDED[f"{case}/grad_{name}"] for name in ("anchor", "positive")]
    assert_close(value_and_gradients(recorded_loss(variant), arguments), expected)


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("triplet_all", functools.partial(losses.triplet_loss, margin=0.3)),
        ("triplet_hard", functools.partial(losses.triplet_loss, margin=0.3, mining="hard")),
        ("triplet_semihard", functools.partial(losses.triplet_loss, margin=0.3, mining="semihard")),
        ("lifted_structure", functools.partial(losses.lifted_structure_loss, margin=0.8)),
    ],
)
def test_matches_pytorch_metric_learning(name, loss):
    record = np.load("tests/records/pytorch_metric_learning.npz")
    batch = record["anchor"].astype(np.float32), record["positive"].astype(np.float32), np.arange(12)
    expected = record[f"{name}/loss"], [record[f"{name}/grad_{x}"] for x in ("anchor", "positive")]
    assert_close(value_and_gradients(loss, batch), expected)


SLOW = {
    "npair": (losses.npair_loss, slow.npair, itertools.combinations, {}),
    "angular": (losses.angular_loss, slow.angular, itertools.permutations, {"degrees": 40.0}),
    "angular with npair": (losses.angular_loss, slow.angular, itertools.permutations, {"with_npair": True}),
    "triplet all": (losses.triplet_loss, slow.triplet, None, {"margin": 0.5, "mining": "all"}),
    "triplet semihard": (losses.triplet_loss, slow.triplet, None, {"margin": 0.5, "mining": "semihard"}),
    "triplet hard": (losses.triplet_loss, slow.triplet, None, {"margin": 0.5, "mining": "hard"}),
    "lifted structure": (losses.lifted_structure_loss, slow.lifted_structure, None, {"margin": 0.8}),
}


def three_points(anchor, positive):
    return synthesis.with_originals(jnp.full((len(anchor), 1, 2), 0.4))


@pytest.mark.parametrize("labels", [np.arange(6), np.array([3, 1, 3, 0, 1, 3])], ids=["distinct", "repeated"])
@pytest.mark.parametrize(
    ("function", "points", "count"),
    [
        (None, slow.original_points, 2),
        (synthesis.symmetric, slow.symmetric_points, 4),
        (functools.partial(synthesis.interpolated, num=2), slow.interpolated_points, 4),
        (three_points, lambda a, p: np.stack([a, p, 0.4 * a + 0.4 * p], axis=1), 3),
    ],
    ids=["plain", "symmetric", "interpolated", "own"],
)
@pytest.mark.parametrize("name", SLOW)
def test_matches_loops_in_float64(name, function, points, count, labels):
    loss, reference, candidates, options = SLOW[name]
    batch = random_batch(6, labels=labels)
    fixed, pairs = {}, {}
    if candidates is not None:
        fixed = {"l2_reg": 0.0, "l2_normalize": True}
        pairs = {"candidates": [(0, 1)] if function is None else list(candidates(range(count), 2))}
    unit = [slow.unit(x.astype(np.float64)) for x in batch[:2]]
    expected = reference(*unit, labels, points, **pairs, **options)
    ours = jax.jit(functools.partial(loss, synthesis=function, **fixed, **options))(*batch)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


@few_losses
def test_float64_is_kept_and_gradients_are_those_of_finite_differences(loss):
    with jax.enable_x64(True):
        batch = random_batch(5)
        anchor, positive = (x.astype(np.float64) for x in batch[:2])
        value, gradients = value_and_gradients(loss, (anchor, positive, batch[2]))
        assert value.dtype == gradients[0].dtype == np.float64
        direction = np.random.default_rng(0).normal(size=(2, *anchor.shape))
        step = 1e-6
        function = jax.jit(loss)
        ahead, behind = (
            function(anchor + s * step * direction[0], positive + s * step * direction[1], batch[2]) for s in (1, -1)
        )
        slope = sum(np.sum(g * d) for g, d in zip(gradients, direction, strict=True))
        np.testing.assert_allclose(slope, (ahead - behind) / (2 * step), rtol=1e-6)


@each_loss
def test_loss_does_not_depend_on_order_or_rotation(loss):
    rng = np.random.default_rng(1)
    anchor, positive, _ = random_batch()
    labels = np.arange(8) % 5

    def value_of(*batch):
        return value_and_gradients(loss, batch)[0]

    value = value_of(anchor, positive, labels)
    order, rotation = rng.permutation(8), np.linalg.qr(rng.normal(size=(6, 6)))[0].astype(np.float32)
    np.testing.assert_allclose(value_of(anchor[order], positive[order], labels[order]), value, rtol=2e-5)
    np.testing.assert_allclose(value_of(anchor @ rotation, positive @ rotation, labels), value, rtol=2e-5)
    assert abs(value_of(anchor, positive[order], labels) - value) > 1e-2  # a wrong pairing changes the value


@pytest.mark.parametrize("name", PLAIN)
def test_synthesis_makes_the_negatives_harder(name):
    options = {"positives": "original", "l2_reg": 0.0} if "npair" in name or "angular" in name else {}
    if "semihard" in name:
        pytest.skip("a harder negative may no longer be semihard")
    plain, mined = (jax.jit(functools.partial(LOSSES[x], **options)) for x in (name, f"symm {name}"))
    for seed in range(5):
        batch = random_batch(seed=seed)
        assert mined(*batch) >= plain(*batch) - 1e-6


def degenerate_batches():
    for kind in ("zero", "identical", "equal rows", "one class", "huge", "tiny"):
        anchor, positive, labels = random_batch()
        if kind == "zero":
            anchor[1] = positive[1] = positive[2] = 0
        if kind == "identical":
            positive = anchor
        if kind == "equal rows":
            anchor[:], positive[:] = anchor[0], positive[0]
        if kind == "one class":
            labels = np.zeros(8, int)
        if kind in ("huge", "tiny"):
            factor = np.float32({"huge": 1e6, "tiny": 1e-18}[kind])
            anchor, positive = factor * anchor, factor * positive
        yield kind, (anchor, positive, labels)


@each_loss
def test_degenerate_batches_have_finite_values_and_gradients(loss):
    for kind, batch in degenerate_batches():
        value, gradients = value_and_gradients(loss, batch)
        assert np.isfinite(value), kind
        assert all(np.isfinite(g).all() for g in gradients), kind


@few_losses
def test_a_single_pair_is_not_an_error(loss):
    value, gradients = value_and_gradients(loss, random_batch(1))
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in gradients)


@few_losses
def test_bfloat16_embeddings_give_a_float32_loss(loss):
    anchor, positive, labels = random_batch()
    half = anchor.astype(jnp.bfloat16), positive.astype(jnp.bfloat16), labels
    value, gradients = value_and_gradients(loss, half)
    assert value.dtype == jnp.float32
    assert gradients[0].dtype == jnp.bfloat16
    wide = (x.astype(np.float32) for x in half[:2])
    np.testing.assert_allclose(value, value_and_gradients(loss, (*wide, labels))[0], rtol=1e-5)


@pytest.mark.parametrize("name", ["npair", "symm npair", "symm triplet semihard"])
def test_vmap_is_a_loop(name):
    loss = LOSSES[name]
    batches = [random_batch(seed=seed) for seed in range(3)]
    stacked = [np.stack(x) for x in zip(*batches, strict=True)]
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(loss, argnums=(0, 1))))(*stacked)
    for i, batch in enumerate(batches):
        assert_close((values[i], [g[i] for g in gradients]), value_and_gradients(loss, batch))


@few_losses
def test_blocks_of_rows_add_up_to_the_whole(loss):
    batch = random_batch(8, labels=np.arange(8) % 6)
    whole = value_and_gradients(loss, batch)
    assert_close(value_and_gradients(functools.partial(loss, block_size=3), batch), whole)


@each_loss
def test_split_over_devices_is_the_whole(loss):
    # Labels are repeated, so the devices have different numbers of negatives. Each device computes in blocks.
    batch = random_batch(8, labels=np.array([0, 0, 0, 1, 2, 3, 4, 4]))
    assert_split_is_whole(functools.partial(loss, block_size=3), loss, batch, 2)


@pytest.mark.parametrize("name", ["npair", "symm npair"])
def test_paper_batch_split_over_eight_devices_is_the_whole(name):
    assert_split_is_whole(LOSSES[name], LOSSES[name], PAPER_BATCH, 8)


def assert_split_is_whole(split_loss, loss, batch, devices):
    def share(anchor, positive, labels):
        local = functools.partial(split_loss, axis_name="devices")
        value, gradients = jax.value_and_grad(local, argnums=(0, 1))(anchor, positive, labels)
        return jax.lax.pmean(value, "devices"), gradients

    split = [x.reshape(devices, -1, *x.shape[1:]) for x in batch]
    values, gradients = jax.pmap(share, axis_name="devices")(*split)
    # Each device's loss is a mean over 1 / devices of the rows.
    gradients = [np.asarray(g).reshape(batch[0].shape) / devices for g in gradients]
    whole = value_and_gradients(loss, batch)
    for value in values:
        assert_close((value, gradients), whole)


def test_winners_are_fractions_of_the_hardest_negatives():
    batch = random_batch(6, labels=np.array([0, 1, 2, 3, 4, 4]))
    loss = functools.partial(losses.npair_loss, synthesis=synthesis.symmetric, with_winners=True)
    _, winners = jax.jit(loss)(*batch)
    points = slow.symmetric_points(*batch[:2])
    expected = np.zeros((4, 4))
    for i, j in itertools.permutations(range(6), 2):
        if batch[2][i] != batch[2][j]:
            pairs = list(itertools.combinations(range(4), 2))
            expected[max(pairs, key=lambda pair: points[i][pair[0]] @ points[j][pair[1]])] += 1
    np.testing.assert_allclose(winners, expected / expected.sum(), atol=1e-6)


def test_positives_may_be_left_original():
    # The embeddings of a class are opposite. Their mirror images coincide, so the miner finds an easier positive.
    anchor, positive, labels = np.eye(3, 6, dtype=np.float32), -np.eye(3, 6, dtype=np.float32), np.arange(3)
    loss = functools.partial(losses.npair_loss, synthesis=synthesis.symmetric, l2_reg=0.0)
    original = jax.jit(functools.partial(loss, positives="original"))(anchor, positive, labels)
    np.testing.assert_allclose(original, np.log(1 + 2 * np.e), rtol=1e-6)
    for candidates in ("unordered", "ordered", "product"):
        mined = jax.jit(functools.partial(loss, positives="mined", candidates=candidates))(anchor, positive, labels)
        np.testing.assert_allclose(mined, np.log(1 + 2 / np.e), rtol=1e-6)


def test_a_point_is_not_a_positive_of_itself():
    anchor, positive, labels = random_batch()
    loss = functools.partial(losses.npair_loss, synthesis=synthesis.interpolated, l2_normalize=True, l2_reg=0.0)
    pairs = slow.interpolated_points(slow.unit(anchor), slow.unit(positive))
    value = jax.jit(functools.partial(loss, candidates="product"))(anchor, positive, labels)
    similarity = np.array([[np.max(pairs[i] @ pairs[j].T) for j in range(8)] for i in range(8)])
    for i in range(8):
        similarity[i, i] = max(pairs[i][k] @ pairs[i][l] for k, l in itertools.permutations(range(4), 2))
    np.testing.assert_allclose(value, slow.cross_entropy(similarity, labels), rtol=1e-5)
