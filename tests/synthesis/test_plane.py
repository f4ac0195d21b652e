"""Synthetic points compared with recorded outputs of the original, their properties, and the contract of syntheses."""

from pathlib import Path

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symm_jax import synthesis

RECORDED = np.load("tests/records/losses.npz")
VECTORS = hnp.arrays(np.float32, (5, 6), elements=st.floats(-3, 3, width=32))


@pytest.mark.parametrize("batch", ["small", "repeated_labels", "paper_batch", "odd"])
def test_mirror_images_match_the_original(batch):
    anchor, positive = RECORDED[f"{batch}/anchor"], RECORDED[f"{batch}/positive"]
    points = synthesis.points(synthesis.symmetric(anchor, positive), anchor, positive)
    np.testing.assert_array_equal(points[:, 0], anchor)
    np.testing.assert_array_equal(points[:, 1], positive)
    for k, name in ((2, "symmetric_of_positive_about_anchor"), (3, "symmetric_of_anchor_about_positive")):
        np.testing.assert_allclose(points[:, k], RECORDED[f"{batch}/{name}"], rtol=1e-4, atol=1e-5)


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


def test_rescaling_gives_the_length_of_the_axis():
    anchor, positive = np.random.default_rng(0).normal(size=(2, 5, 6)).astype(np.float32)
    coefficients = synthesis.symmetric(anchor, positive, ratio=1.5, norm_ratio=0.3, rescale=True)
    made = synthesis.points(coefficients, anchor, positive)
    np.testing.assert_allclose(np.linalg.norm(made[:, 2], axis=1), np.linalg.norm(anchor, axis=1), rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(made[:, 3], axis=1), np.linalg.norm(positive, axis=1), rtol=1e-5)


@pytest.mark.parametrize("num", [1, 2, 5])
def test_interpolated_points_divide_the_segment_into_equal_parts(num):
    anchor, positive = np.random.default_rng(1).normal(size=(2, 5, 6)).astype(np.float32)
    raw = synthesis.interpolated(anchor, positive, num=num, l2_normalize=False)
    made = synthesis.points(raw, anchor, positive)[:, 2:]
    line = np.concatenate([anchor[:, None], made, positive[:, None]], axis=1)
    steps = np.diff(line, axis=1)
    np.testing.assert_allclose(steps, np.tile((positive - anchor)[:, None] / (num + 1), (1, num + 1, 1)), atol=1e-5)
    unit = synthesis.points(synthesis.interpolated(anchor, positive, num=num), anchor, positive)[:, 2:]
    np.testing.assert_allclose(unit, made / np.linalg.norm(made, axis=-1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("function", [synthesis.symmetric, synthesis.interpolated])
def test_degenerate_pairs_have_finite_points_and_gradients(function):
    anchor = np.array([[0, 0], [0, 0], [1, 2], [1, 2], [1, 2]], np.float32)
    positive = np.array([[0, 0], [3, 4], [0, 0], [1, 2], [-1, -2]], np.float32)  # the last: the middle is 0
    value, gradients = jax.value_and_grad(
        lambda a, p: jnp.sum(jnp.sin(synthesis.points(function(a, p), a, p))), argnums=(0, 1)
    )(anchor, positive)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in gradients)


def test_coefficients_of_bfloat16_embeddings_are_made_in_float32():
    anchor, positive = np.random.default_rng(2).normal(size=(2, 64, 512)).astype(jnp.bfloat16)
    wide = anchor.astype(np.float32), positive.astype(np.float32)
    np.testing.assert_array_equal(synthesis.symmetric(anchor, positive), synthesis.symmetric(*wide))


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("options", [{"ratio": "a"}, {"ratio": float("nan")}, {"norm_ratio": None}])
def test_a_wrong_ratio_is_named(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be a finite Python number"):
        synthesis.symmetric(np.ones((2, 3)), np.ones((2, 3)), **options)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("num", [0, 1.5, "2"])
def test_a_wrong_number_of_points_is_named(num):
    with pytest.raises(ValueError, match="num must be"):
        synthesis.interpolated(np.ones((2, 3)), np.ones((2, 3)), num=num)


@pytest.fixture
def registry(monkeypatch):
    """Removes registered syntheses after the test."""
    monkeypatch.setattr(synthesis.registry, "SYNTHESES", synthesis.SYNTHESES.copy())
    return synthesis.registry.SYNTHESES


@pytest.mark.parametrize("name", ["symmetric", "interpolated"])
def test_shipped_syntheses_keep_the_contract_and_are_documented(name):
    synthesis.check(name, synthesis.SYNTHESES[name])
    assert f"`synthesis.{name}(" in Path("docs/losses.md").read_text()


def halfway(anchor, positive, *, at=0.5):
    return synthesis.with_originals(jnp.tile(jnp.array([1 - at, at]), (len(anchor), 1, 1)))


def test_a_registered_synthesis_is_in_the_registry(registry):
    synthesis.register("halfway", halfway)
    assert registry["halfway"] is halfway


def to_the_mean(anchor, positive):
    t = jnp.mean(anchor, axis=0) @ positive.T
    return synthesis.with_originals(jnp.stack([t, 1 - t], axis=-1)[:, None])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda a, p: jnp.full((len(a), 3, 2), 0.5), r"originals first.*with_originals"),
        (lambda a, p: synthesis.with_originals(jnp.zeros((len(a), 7, 2))), r"2 to 8 points; got \(4, 9, 2\)"),
        (lambda a, p: a, r"\(4, points, 2\) for anchor \(4, 3\).*got \(4, 3\)"),
        (lambda a, p: None, "got NoneType"),
        (lambda a, p: jnp.zeros((len(a), 3, 2), int), "floating coefficients, got int32"),
        (lambda a, p, c: a, "must take 2 positional arguments"),
        (lambda a, p, *, at: a, "must give its option 'at' a default"),
        (lambda a, p: 1 / 0, "ZeroDivisionError"),
        (lambda a, p: halfway(a, p) + jnp.log(-1.0), "originals first"),
        (lambda a, p: synthesis.with_originals((p / (a - p))[:, None, :2]), "finite coefficients.*equal points"),
        (
            lambda a, p: synthesis.with_originals(jnp.linalg.norm(a - p, axis=1)[:, None, None] * jnp.ones((1, 1, 2))),
            "finite gradients.*equal points",
        ),
        (to_the_mean, "row i from row i"),
    ],
)
def test_a_broken_contract_of_a_synthesis_is_named(function, message, registry):
    with pytest.raises(ValueError, match=r"synthesis 'mine'[^\n]*" + message):
        synthesis.register("mine", function)
    assert "mine" not in registry
