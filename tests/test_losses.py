"""Losses and synthesis against the recorded outputs of the original, slow formulas, and what they must obey."""

import functools

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symm_jax import errors, losses, similarity, synthesis

RECORDED = np.load("tests/data/losses.npz")
CASES = [
    k.rsplit("/", 1)[0] for k in RECORDED.files if k.endswith("/loss") and "npair" in k.split("/")[1].split("|")[0]
]
SYMMETRIC_NPAIR = functools.partial(losses.npair_loss, synthesis=synthesis.symmetric)


def loss_of(variant):
    """The loss that a recorded variant such as "symm_npair|ratio=3.0|l2_reg=True" names."""
    name, *options = variant.split("|")
    options = dict(option.split("=") for option in options)
    if name == "npair":
        return losses.npair_loss
    symmetric = functools.partial(
        synthesis.symmetric,
        ratio=float(options.get("ratio", 2)),
        norm_ratio=float(options.get("norm_ratio", 1)),
        rescale=options.get("rescale_to_axis_norm") == "True",
    )
    return functools.partial(
        losses.npair_loss,
        synthesis=symmetric,
        l2_normalize=options.get("l2_norm") == "True",
        l2_reg=0.002 if options["l2_reg"] == "True" else 0.0,
    )


def test_the_record_is_whole():
    assert len(CASES) == 4 * 8


@pytest.mark.parametrize("case", CASES)
def test_matches_the_original(case):
    batch, variant = case.split("/")
    arguments = [RECORDED[f"{batch}/{name}"] for name in ("anchor", "positive", "labels")]
    value, gradients = jax.jit(jax.value_and_grad(loss_of(variant), argnums=(0, 1)))(*arguments)
    np.testing.assert_allclose(value, RECORDED[f"{case}/loss"], rtol=1e-5)
    for name, gradient in zip(("anchor", "positive"), gradients, strict=True):
        expected = RECORDED[f"{case}/grad_{name}"]
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=5e-5 * np.abs(expected).max())


@pytest.mark.parametrize("batch", ["small", "repeated_labels", "paper_batch", "odd"])
def test_mirror_images_match_the_original(batch):
    anchor, positive = RECORDED[f"{batch}/anchor"], RECORDED[f"{batch}/positive"]
    points = synthesis.points(synthesis.symmetric(anchor, positive), anchor, positive)
    np.testing.assert_array_equal(points[:, 0], anchor)
    np.testing.assert_array_equal(points[:, 1], positive)
    for k, name in ((2, "symmetric_of_positive_about_anchor"), (3, "symmetric_of_anchor_about_positive")):
        np.testing.assert_allclose(points[:, k], RECORDED[f"{batch}/{name}"], rtol=1e-4, atol=1e-5)


VECTORS = hnp.arrays(np.float32, (5, 6), elements=st.floats(-3, 3, width=32))


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(VECTORS, VECTORS)
def test_mirroring_keeps_length_and_similarity_to_the_axis(anchor, positive):
    hypothesis.assume((np.linalg.norm(anchor, axis=1) > 0.5).all())
    mirror = synthesis.points(synthesis.symmetric(anchor, positive), anchor, positive)[:, 2]
    tolerance = 1e-3 * (1 + np.abs(positive).max()) ** 2
    np.testing.assert_allclose(np.linalg.norm(mirror, axis=1), np.linalg.norm(positive, axis=1), atol=tolerance)
    np.testing.assert_allclose((mirror * anchor).sum(1), (positive * anchor).sum(1), atol=10 * tolerance)
    twice = synthesis.points(synthesis.symmetric(anchor, mirror), anchor, mirror)[:, 2]
    np.testing.assert_allclose(twice, positive, atol=10 * tolerance)


def test_hardest_is_the_largest_over_built_points():
    rng = np.random.default_rng(0)
    anchor, positive = rng.normal(size=(2, 7, 5)).astype(np.float32)
    coefficients = synthesis.symmetric(anchor, positive)
    points = np.asarray(synthesis.points(coefficients, anchor, positive), np.float64)
    candidates = [(0, 1), (3, 2), (2, 2)]
    expected = np.max([points[:, k] @ points[:, l].T for k, l in candidates], axis=0)
    np.testing.assert_allclose(similarity.hardest(anchor, positive, coefficients, candidates), expected, atol=1e-4)


@pytest.mark.parametrize("loss", [losses.npair_loss, SYMMETRIC_NPAIR])
@pytest.mark.parametrize("l2_normalize", [False, True])
def test_loss_does_not_depend_on_order_or_rotation(loss, l2_normalize):
    rng = np.random.default_rng(1)
    anchor, positive = rng.normal(size=(2, 8, 6)).astype(np.float32)
    labels = np.arange(8) % 5
    loss = functools.partial(loss, l2_normalize=l2_normalize, scale=3.0)
    value = loss(anchor, positive, labels)
    order, rotation = rng.permutation(8), np.linalg.qr(rng.normal(size=(6, 6)))[0].astype(np.float32)
    np.testing.assert_allclose(loss(anchor[order], positive[order], labels[order]), value, rtol=1e-5)
    np.testing.assert_allclose(loss(anchor @ rotation, positive @ rotation, labels), value, rtol=1e-5)
    assert abs(loss(anchor, positive[order], labels) - value) > 1e-2  # a wrong pairing must not go unseen


@pytest.mark.parametrize("loss", [losses.npair_loss, SYMMETRIC_NPAIR])
@pytest.mark.parametrize("l2_normalize", [False, True])
@pytest.mark.parametrize("degenerate", ["zero", "identical", "one class", "huge"])
def test_degenerate_batches_have_finite_values_and_gradients(loss, l2_normalize, degenerate):
    rng = np.random.default_rng(2)
    anchor, positive = rng.normal(size=(2, 4, 6)).astype(np.float32)
    labels = np.arange(4)
    if degenerate == "zero":
        anchor[1] = positive[1] = positive[2] = 0
    if degenerate == "identical":
        positive = anchor
    if degenerate == "one class":
        labels = np.zeros(4, int)
    if degenerate == "huge":
        anchor, positive = anchor * 1e6, positive * 1e6
    function = functools.partial(loss, l2_normalize=l2_normalize)
    value, gradients = jax.value_and_grad(function, argnums=(0, 1))(anchor, positive, labels)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in gradients)


def test_bfloat16_embeddings_give_a_float32_loss():
    anchor, positive = (jnp.asarray(RECORDED[f"small/{name}"]) for name in ("anchor", "positive"))
    half = losses.npair_loss(anchor.astype(jnp.bfloat16), positive.astype(jnp.bfloat16), RECORDED["small/labels"])
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, RECORDED["small/npair/loss"], rtol=0.05)


@pytest.mark.parametrize("devices", [2, 4, 8])
@pytest.mark.parametrize("loss", [losses.npair_loss, SYMMETRIC_NPAIR])
def test_split_over_devices_is_the_whole(loss, devices):
    batch = [RECORDED[f"paper_batch/{name}"] for name in ("anchor", "positive", "labels")]
    value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(*batch)

    def share(anchor, positive, labels):
        local = functools.partial(loss, axis_name="devices")
        value, gradients = jax.value_and_grad(local, argnums=(0, 1))(anchor, positive, labels)
        return jax.lax.pmean(value, "devices"), gradients

    split = [x.reshape(devices, -1, *x.shape[1:]) for x in batch]
    split_value, split_gradients = jax.pmap(share, axis_name="devices")(*split)
    np.testing.assert_allclose(split_value, np.full(devices, value), rtol=1e-5)
    for whole, part in zip(gradients, split_gradients, strict=True):
        # Each device's loss is a mean over 1 / devices of the rows.
        np.testing.assert_allclose(part.reshape(whole.shape) / devices, whole, atol=1e-5 * np.abs(whole).max())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, p, l: (a, p[:3], l), r"\(8, 16\) and \(3, 16\)"),
        (lambda a, p, l: (a[0], p[0], l), r"\(16,\)"),
        (lambda a, p, l: (a, p, l[:2]), r"\(2,\)"),
        (lambda a, p, l: (a.astype(int), p.astype(int), l), "int"),
        (lambda a, p, l: (a, p, l.astype(np.float32)), "float32"),
    ],
)
def test_wrong_shapes_and_types_are_named(change, message):
    batch = change(*(RECORDED[f"small/{name}"] for name in ("anchor", "positive", "labels")))
    with pytest.raises(ValueError, match=message):
        losses.npair_loss(*batch)


def test_config_losses_are_summed_with_their_weights():
    batch = [RECORDED[f"small/{name}"] for name in ("anchor", "positive", "labels")]
    both = losses.from_config(({"name": "npair", "weight": 2.0}, {"name": "npair", "synthesis": "symmetric"}))
    expected = 2 * RECORDED["small/npair/loss"] + RECORDED["small/symm_npair|l2_norm=False|l2_reg=True/loss"]
    np.testing.assert_allclose(both(*batch), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "n_pair"}, "did you mean 'npair'"),
        ({"name": "npair", "synthesis": "symetric"}, "did you mean 'symmetric'"),
        ({"name": "npair", "scal": 2.0}, "did you mean 'scale'"),
        ({"name": "npair", "weight": -1.0}, "weight"),
        ({"name": "npair", "axis_name": "x"}, "no option 'axis_name'"),
    ],
)
def test_wrong_loss_configs_are_named(spec, message):
    with pytest.raises(errors.InputError, match=message):
        losses.from_config((spec,))
