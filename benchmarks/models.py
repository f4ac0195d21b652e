"""Prints the table of docs/models.md: what each backbone is, and images a second of a forward pass and a training step.

    python benchmarks/models.py [NAME ...]  # about five minutes for all on two CPU cores

Random weights, batches of 32 random images, the better of two runs. A training step is the gradient of N-pair and an
update of Adam.
"""

import sys
import time

import checkout  # noqa: F401
import jax
import jax.numpy as jnp
import numpy as np
import optax
from losses import print_row

from symm_jax import losses, models

BATCH = 32
SIDES = 128, 224


def main() -> None:
    print(f"{jax.device_count()} x {jax.devices()[0].device_kind}, jax {jax.__version__}\n")
    speeds = [f"{what}, {side} px" for side in SIDES for what in ("forward", "training")]
    print_row("model", "parameters", "features", *speeds)
    print_row(*["---"] * 7)
    for name in sys.argv[1:] or models.BACKBONES:
        backbone = models.BACKBONES[name].module()
        shapes = jax.eval_shape(backbone.init_with_output, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
        count = sum(x.size for x in jax.tree.leaves(shapes[1]))
        print_row(name, f"{count / 1e6:,.2f} M", str(shapes[0].shape[1]), *(f"{x:,.1f}" for x in speed_of(name)))


def speed_of(name: str) -> list[float]:
    """Images per second: forward and training at the first side, then at the second."""
    model, optimizer = models.create(name), optax.adam(1e-4)
    found = []
    for side in SIDES:
        images = np.random.default_rng(0).integers(0, 256, (BATCH, side, side, 3), dtype=np.uint8)
        params = jax.jit(model.init)(jax.random.key(0), images)
        state = optimizer.init(params)

        def loss(params, images):
            embeddings = model.apply(params, images)
            labels = jnp.arange(BATCH // 2)
            return losses.npair_loss(*jnp.split(embeddings, 2), labels, l2_normalize=True, scale=16.0)

        def step(params, state, images, loss=loss):
            updates, state = optimizer.update(jax.grad(loss)(params, images), state)
            return optax.apply_updates(params, updates), state

        found += [_speed(model.apply, params, images), _speed(step, params, state, images)]
    return found


def _speed(function, *arguments) -> float:
    function, best = jax.jit(function), float("inf")
    jax.block_until_ready(function(*arguments))
    for _ in range(2):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        best = min(best, time.perf_counter() - start)
    return BATCH / best


if __name__ == "__main__":
    main()
