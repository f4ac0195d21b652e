"""The optimiser compared with its formula in float64, the schedule at its boundaries, and ten recorded steps."""

import googlenet_weights
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from symm_jax import losses, models, optim
from symm_jax.models import googlenet
from symm_jax.training import batches
from symm_jax.training.recipe import Recipe
from symm_jax.training.step import State, pmap_train_step

RECORDED = np.load("tests/records/training.npz")
# Ten steps take longer than it takes to optimise this program a little. The flags of the tests optimise nothing.
OPTIMISED = {"xla_backend_optimization_level": 1, "xla_llvm_disable_expensive_passes": True}


def test_schedule_is_exact_at_every_boundary():
    schedule = jax.jit(optim.staircase_schedule(1e-4, 0.5, 5_000, 15_000, 1e-5))
    expected = {0: 1e-4, 4_999: 1e-4, 5_000: 5e-5, 9_999: 5e-5, 10_000: 2.5e-5, 14_999: 2.5e-5, 15_000: 1e-5}
    for step, rate in (expected | {15_001: 1e-5, 1_000_000: 1e-5}).items():
        assert float(schedule(step)) == np.float32(rate), step


def test_no_step_of_the_schedule_is_late():
    schedule = jax.jit(optim.staircase_schedule(1.0, 0.5, 41, 10_000, 0.0))  # 41 x (1 / 41) is below 1 in float32
    assert [float(schedule(step)) for step in (40, 41, 42, 81, 82)] == [1, 0.5, 0.5, 0.5, 0.25]


@pytest.mark.parametrize(("clip_norm", "backbone_rate"), [(0.0, 1.0), (5.0, 0.1)])
def test_update_rule_against_float64(clip_norm, backbone_rate):
    rng = np.random.default_rng(0)
    params = {"backbone": rng.normal(size=(4, 3)), "embedding": {"kernel": rng.normal(size=3)}}
    optimizer = optim.create(optax.constant_schedule(1e-3), eps=1e-3, clip_norm=clip_norm, backbone_rate=backbone_rate)
    state = optimizer.init(jax.tree.map(jnp.float32, params))
    m = v = jax.tree.map(np.zeros_like, params)
    for t in range(1, 6):
        gradients = jax.tree.map(lambda w: rng.normal(scale=3, size=w.shape), params)
        updates, state = optimizer.update(jax.tree.map(jnp.float32, gradients), state)
        gradients["embedding"]["kernel"] = 10 * gradients["embedding"]["kernel"]
        if clip_norm:
            gradients = jax.tree.map(lambda g: g * min(1, clip_norm / np.linalg.norm(g)), gradients)
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, gradients)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, v, gradients)
        rate = 1e-3 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        expected = jax.tree.map(lambda m, v, rate=rate: -rate * m / (np.sqrt(v) + 1e-3), m, v)
        expected["backbone"] = backbone_rate * expected["backbone"]
        jax.tree.map(lambda u, e: np.testing.assert_allclose(u, e, rtol=1e-5, atol=1e-8), updates, expected)


def test_weight_penalty_counts_every_array():
    params = {"backbone": {"bias": jnp.full(3, 2.0)}, "embedding": {"kernel": jnp.ones((2, 2))}}
    assert float(optim.weight_penalty(params)) == 0.5 * (3 * 4 + 4)


def test_replays_ten_recorded_steps_of_the_original(tmp_path, one_device):
    dim, stairs = 32, optim.staircase_schedule(1e-4, 0.5, 3, 7, 1e-5)
    recipe = Recipe(
        model=models.create("googlenet", dim=dim),
        image_size=227,
        loss=losses.from_config(({"name": "npair", "synthesis": "symmetric"},)),
        optimizer=optim.create(stairs),
        learning_rate=stairs,
        augment=lambda keys, images, short_side_ratio: images,
        weight_penalty=5e-3,
        key=jax.random.key(0),
    )
    embedding = {"kernel": jnp.asarray(RECORDED["embedding_kernel"]), "bias": jnp.zeros(dim)}
    backbone = googlenet.load_googlenet_mat(googlenet_weights.write(tmp_path / "weights.mat"))
    params = {"backbone": jax.tree.map(jnp.asarray, backbone), "embedding": embedding}
    state = batches.replicate(State(jnp.zeros((), jnp.int32), params, recipe.optimizer.init(params), {}))
    stream = [
        batches.Batch(images.swapaxes(0, 1)[None], np.ones((1, 6, 2, 2), np.float32), labels[None].astype(np.int32))
        for images, labels in zip(RECORDED["images"], RECORDED["labels"], strict=True)
    ]
    options = OPTIMISED if jax.default_backend() == "cpu" else None
    step = pmap_train_step(recipe).lower(state, stream[0]).compile(options)
    metrics = []
    for batch in stream:
        state, values = step(state, batch)
        metrics.append({name: float(x[0]) for name, x in values.items()})
    loss, penalty, rate = (np.array([m[k] for m in metrics]) for k in ("loss", "weight_penalty", "learning_rate"))
    np.testing.assert_allclose(rate, RECORDED["learning_rate"], rtol=1e-6)
    # Adam turns rounding errors into steps of the size of the learning rate. Later losses therefore match less closely.
    np.testing.assert_allclose(loss[0], RECORDED["loss"][0], rtol=1e-5)
    np.testing.assert_allclose(loss[1], RECORDED["loss"][1], rtol=5e-5)
    np.testing.assert_allclose(loss, RECORDED["loss"], rtol=0.03)
    np.testing.assert_allclose(penalty / 5e-3, RECORDED["l2_of_all_parameters"], rtol=1e-5)
    final = jax.tree.map(lambda x: x[0], state.params)
    backbone = final["backbone"]
    far = np.abs(final["embedding"]["kernel"] - RECORDED["final_embedding_kernel"]) > 2e-4
    assert far.mean() < 1e-4
    # A weight may differ by the sum of the ten learning rates, 5e-4. Few weights do.
    for ours, name in (
        (final["embedding"], "final_embedding_kernel"),
        (backbone["conv1_7x7_s2"], "final_conv1_7x7_s2"),
    ):
        difference = np.abs(ours["kernel"] - RECORDED[name])
        assert difference.max() < 6e-4
        assert difference.mean() < 3e-5
