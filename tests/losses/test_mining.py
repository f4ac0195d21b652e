"""The hardest pair of points against points built and compared one by one."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symm_jax import devices, losses, synthesis
from symm_jax.losses import candidates, mining
from symm_jax.losses.candidates import Rule

RULES = {
    "unordered": Rule(candidates.lookup_pairs("unordered", 4)),
    "ordered with a mix": Rule(candidates.lookup_pairs("ordered", 4), mix=(3.0, 2.0)),
    "product with a mix": Rule(candidates.lookup_pairs("product", 4), mix=(1.0, -0.5)),
    "distance": Rule(candidates.lookup_pairs("product", 4), distance=True),
    "distance, few": Rule(((0, 1), (3, 2), (2, 2)), distance=True),
    "one": Rule(((2, 3),)),
}


MIRRORED = functools.partial(synthesis.symmetric, ratio=1.7)


def built(rows, columns, rule):
    """The largest value over built points, (n, N), and the winning candidate's number."""
    rows, columns = (synthesis.points(MIRRORED(*pair), *pair) for pair in (rows, columns))
    k, l = np.array(rule.candidates).T
    if rule.distance:
        values = -0.5 * jnp.sum((rows[:, None, k] - columns[None, :, l]) ** 2, axis=-1)
    else:
        x, y = rule.mix
        values = jnp.einsum("ncd,mcd->nmc", x * rows[:, k] + y * rows[:, l], columns[:, l])
    return jnp.max(values, axis=2), jnp.argmax(values, axis=2)


def mined(rows, columns, rule):
    return mining.find_hardest(*(mining.create_points(*pair, MIRRORED) for pair in (rows, columns)), rule)


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_hardest_and_its_gradient_are_those_of_built_points(rule, n):
    rng = np.random.default_rng(n)
    rows, columns = rng.normal(size=(2, n, 5)).astype(np.float32), rng.normal(size=(2, 4, 5)).astype(np.float32)
    weight = rng.normal(size=(n, 4)).astype(np.float32)

    def with_gradient(function):
        def weighted(rows, columns):
            values, winners = function(rows, columns, rule)
            return jnp.sum(weight * values), (values, winners)

        return jax.jit(jax.grad(weighted, argnums=(0, 1), has_aux=True))(rows, columns)

    gradients, (value, winner) = with_gradient(mined)
    expected_gradients, (expected, number) = with_gradient(built)
    np.testing.assert_allclose(value, expected, atol=2e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(winner, np.array([16 * k + l for k, l in rule.candidates])[number])
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max())


def test_every_use_of_an_entry_sees_one_winner():
    # Of a class with itself mirror images tie with the originals, up to rounding: a.p = a.mirror(p) = mirror(a).p.
    # Each of them has the gradient of a.p, but half of one and half of another has not.
    rng = np.random.default_rng(0)
    anchor = rng.normal(size=(64, 512)).astype(np.float32) / 20
    positive = anchor + rng.normal(size=(64, 512)).astype(np.float32) / 20
    rule = RULES["unordered"]

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def gradient(anchor, positive):
        points = mining.create_points(anchor, positive, synthesis.symmetric)
        return jnp.trace(mining.find_hardest(points, points, rule)[0])

    gradients = gradient(anchor, positive)
    np.testing.assert_allclose(gradients[0], positive, atol=1e-5)
    np.testing.assert_allclose(gradients[1], anchor, atol=1e-5)


def test_hardest_within_a_class_is_the_diagonal():
    anchor, positive = np.random.default_rng(1).normal(size=(2, 6, 5)).astype(np.float32)
    pair, rule = (jnp.asarray(anchor), jnp.asarray(positive)), RULES["unordered"]
    within = mining.find_hardest_within(mining.create_points(*pair, MIRRORED), rule.candidates)
    np.testing.assert_allclose(within, np.diag(built(pair, pair, rule)[0]), rtol=1e-4)


def test_winners_are_counted():
    winners = jnp.array([[1, 18, 35], [1, 1, 19]], jnp.uint8)
    where = jnp.array([[True, True, False], [True, True, True]])
    counts = candidates.count_winners(winners, where, 4)
    expected = np.zeros((4, 4), int)
    expected[0, 1], expected[1, 2], expected[1, 3] = 3, 1, 1
    np.testing.assert_array_equal(counts, expected)


def test_candidates_are_those_of_their_names():
    points = range(3)
    assert set(candidates.lookup_pairs("unordered", 3)) == set(itertools.combinations(points, 2))
    assert set(candidates.lookup_pairs("ordered", 3)) == set(itertools.permutations(points, 2))
    assert set(candidates.lookup_pairs("product", 3)) == set(itertools.product(points, points))
    with pytest.raises(ValueError, match="unordered, ordered, product; got 'all'"):
        candidates.lookup_pairs("all", 3)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    "function",
    [
        lambda a, p: a,
        lambda a, p: jnp.ones((3, 4, 2)),
        lambda a, p: jnp.ones((5, 1, 2)),
        lambda a, p: jnp.ones((5, 9, 2)),
        lambda a, p: None,
    ],
)
def test_a_synthesis_that_returns_something_else_is_refused(function):
    with pytest.raises(ValueError, match=r"synthesis must return coefficients.*\(5, points, 2\)"):
        mining.create_points(jnp.ones((5, 3)), jnp.ones((5, 3)), function)


@pytest.mark.parametrize(("platform", "rows"), [("cpu", 64), ("gpu", 2048), ("tpu", 2048)])
def test_a_cpu_has_small_blocks_and_a_gpu_large_ones(platform, rows):
    with devices.traced_for(platform):
        assert mining.square_block_size(4096) == rows


@pytest.mark.parametrize(("n", "loops"), [(1024, False), (1025, True)])
def test_a_small_loss_without_mining_is_one_block(n, loops):
    embeddings, labels = jax.ShapeDtypeStruct((n, 2), jnp.float32), jax.ShapeDtypeStruct((n,), jnp.int32)
    with devices.traced_for("cpu"):
        program = jax.make_jaxpr(jax.grad(losses.npair_loss))(embeddings, embeddings, labels)
    assert ("scan[" in str(program)) == loops
