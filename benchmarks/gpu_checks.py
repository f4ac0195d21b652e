"""Checks of results on the device that is there, a line each: what the tests, which run on a CPU, cannot see.

    python benchmarks/gpu_checks.py

Steps are GoogLeNet's of the paper's setting on a GPU, and the demonstration's with 4 pairs on a CPU. Records are those
of the tests, and are met in full float32; steps run with the precision that training uses. A check that fails does
not end the others. The exit code is 1 if any failed.
"""

import functools
import sys
import tempfile
import time
from pathlib import Path

import checkout
import jax
import numpy as np
from training import random_batch

from configs import car_symm_npair, glyphs_symm_npair
from symm_jax import losses, metrics, models, synthesis
from symm_jax.devices import AXIS
from symm_jax.models import googlenet
from symm_jax.training import batches
from symm_jax.training.loop import unreplicate
from symm_jax.training.recipe import create_recipe
from symm_jax.training.step import create_state, pmap_train_step, train_step

sys.path.append(str(checkout.ROOT / "tests"))
import googlenet_weights

RECORDS = checkout.ROOT / "tests" / "records"
STEPS = 20
ON_GPU = jax.default_backend() == "gpu"


@functools.cache
def setting(dtype="float32"):
    """A recipe and a batch."""
    config = (car_symm_npair if ON_GPU else glyphs_symm_npair).get_config()
    config.model.dtype = dtype
    pairs = config.batch_size // 2 if ON_GPU else 4
    return create_recipe(config), random_batch(pairs, config.data.image_size)


def first_state(dtype="float32"):
    return jax.device_get(create_state(setting(dtype)[0]))


@functools.cache
def step_of(dtype):
    return pmap_train_step(setting(dtype)[0])


def after(state, steps, dtype="float32"):
    """State and metrics after so many steps with one batch."""
    step, ready = step_of(dtype), jax.device_put(jax.tree.map(lambda x: x[None], setting(dtype)[1]))
    state, values = batches.replicate(state), {}
    for _ in range(steps):
        state, values = step(state, ready)
    return jax.device_get(unreplicate((state, values)))


@functools.cache
def uninterrupted():
    return after(first_state(), STEPS)


def largest_difference(a, b) -> float:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.abs(np.float64(x) - np.float64(y)).max()) for x, y in pairs)


def equal_embeddings_have_no_recall():
    """The same embedding for all images, as of a network that has collapsed, finds nothing."""
    worst, n = 0.0, 5_000 if ON_GPU else 600
    for seed in range(3):
        one = np.random.default_rng(seed).normal(size=512).astype(np.float32)
        values = metrics.retrieval(np.tile(one, (n, 1)), np.arange(n) // 4, (1, 100))
        worst = max(worst, values["recall@1"], values["recall@100"])
    return worst == 0, f"largest recall {worst}"


def steps_repeat():
    """The same steps give the same bits."""
    apart = largest_difference(uninterrupted(), after(first_state(), STEPS))
    return apart == 0, f"{STEPS} steps twice, {apart:.1e} apart"


def steps_resume():
    """Steps that were interrupted in the middle give the same bits."""
    middle = after(first_state(), STEPS // 2)[0]
    apart = largest_difference(uninterrupted(), after(middle, STEPS - STEPS // 2))
    return apart == 0, f"interrupted after {STEPS // 2} steps, {apart:.1e} apart"


def pmap_is_jit():
    """A step through pmap is that through jit and shard_map."""
    recipe, batch = setting()
    here = jax.sharding.PartitionSpec()
    mesh = jax.sharding.Mesh(jax.local_devices()[:1], AXIS)
    step = jax.shard_map(
        functools.partial(train_step, recipe=recipe), mesh=mesh, in_specs=here, out_specs=here, check_vma=False
    )
    apart = largest_difference(jax.jit(step)(first_state(), batch)[0].params, after(first_state(), 1)[0].params)
    return apart <= 1e-6, f"parameters after a step, {apart:.1e} apart"


def bfloat16_is_finite():
    """Steps in bfloat16 stay finite."""
    state, values = after(first_state("bfloat16"), 3, "bfloat16")
    finite = all(np.isfinite(x).all() for x in jax.tree.leaves((state, values)))
    return finite, f"loss after 3 steps {values['loss']:.4f}, of float32 {after(first_state(), 3)[1]['loss']:.4f}"


def losses_meet_the_record():
    """Values and gradients of the original, 64 pairs."""
    record = np.load(RECORDS / "losses.npz")
    batch = [record[f"paper_batch/{name}"] for name in ("anchor", "positive", "labels")]
    angular = functools.partial(losses.angular_loss, degrees=45.0)
    known = {
        "npair": losses.npair_loss,
        "symm_npair|l2_norm=False|l2_reg=True": functools.partial(losses.npair_loss, synthesis=synthesis.symmetric),
        "angular|degree=45.0|l2_norm=False|l2_reg=True": angular,
        "symm_angular|degree=45.0|l2_norm=False|l2_reg=True": functools.partial(angular, synthesis=synthesis.symmetric),
    }
    worst = 0.0
    for variant, loss in known.items():
        value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(*batch)
        for ours, name in zip((value, *gradients), ("loss", "grad_anchor", "grad_positive"), strict=True):
            expected = record[f"paper_batch/{variant}/{name}"]
            worst = max(worst, float(np.abs(ours - expected).max() / np.abs(expected).max()))
    return worst <= 5e-5, f"{len(known)} losses, largest relative difference {worst:.1e}"


def googlenet_meets_the_record():
    """Activations of the original."""
    record, size = np.load(RECORDS / "googlenet.npz"), "size227" if ON_GPU else "size99"
    with tempfile.TemporaryDirectory() as folder:
        backbone = googlenet.load_googlenet_mat(googlenet_weights.write(Path(folder) / "weights.mat"))
    layer = {"kernel": record[f"{size}/embedding_kernel"], "bias": record[f"{size}/embedding_bias"]}
    model = models.create("googlenet", dim=64)
    found = jax.jit(model.apply)({"params": {"backbone": backbone, "embedding": layer}}, record[f"{size}/images"])
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    apart = float(np.abs(found - record[f"{size}/l2_normalized_embedding"]).max())
    return apart <= 2e-5, f"{size[4:]} px, normalised embeddings {apart:.1e} apart"


def main() -> None:
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}", flush=True)
    failed = 0
    for check, precision in (
        (equal_embeddings_have_no_recall, None),
        (losses_meet_the_record, "highest"),
        (googlenet_meets_the_record, "highest"),
        (steps_repeat, None),
        (steps_resume, None),
        (bfloat16_is_finite, None),
        (pmap_is_jit, None),
    ):
        start = time.perf_counter()
        try:
            with jax.default_matmul_precision(precision):
                passed, detail = check()
        except Exception as error:  # the other checks are worth running
            passed, detail = False, f"{type(error).__name__}: {str(error)[:300]}"
        failed += not passed
        seconds = time.perf_counter() - start
        print(f"{'passed' if passed else 'FAILED'}: {check.__doc__} {detail} ({seconds:.0f} s)", flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
