"""Memory of a training step whose network sees a part of the batch at a time (`config.micro_batch`).

    python benchmarks/micro_batches.py            # compiles for the CPU and runs nothing; minutes
    python benchmarks/micro_batches.py --h100     # for an H100, without one: see compile_counts.py
    python benchmarks/micro_batches.py --run=512  # runs one step of 512 images, and prints the peak of this process

GoogLeNet at 227 px, Symm + N-pair, with augmentation and Adam, on one device, as XLA's compiler reports it:

- images: the batch as training images are stored, 284 px, uint8. The largest argument.
- embeddings: 512 float32 per image; the loss and the second pass hold them and their gradients.
- state: parameters and the two moments of Adam, float32. The new state takes the memory of the old one.
- temporaries: every other array of the program: the network between its passes, the gradient, the loss.
"""

import argparse
import functools
import resource
from typing import Any

import checkout  # noqa: F401
import compile_counts
import jax
import jax.numpy as jnp
import numpy as np
from losses import print_row

from configs import car_symm_npair
from symm_jax.data import augment
from symm_jax.devices import AXIS
from symm_jax.training.batches import Batch
from symm_jax.training.recipe import Recipe, create_recipe
from symm_jax.training.step import create_state, pmap_train_step, train_step

SIZE, MICRO_BATCH = 227, 128
BATCHES = (128, 512, 4_096)


def recipe_of(images: int) -> Recipe:
    config = car_symm_npair.get_config()
    config.batch_size, config.micro_batch = images, MICRO_BATCH
    return create_recipe(config)


def batch_of(images: int) -> Batch:
    """The shapes of a batch."""
    side = augment.stored_side(SIZE, enlarge=1.125, max_margin=0.05)
    shapes: list[Any] = [
        jax.ShapeDtypeStruct((images // 2, 2, side, side, 3), jnp.uint8),
        jax.ShapeDtypeStruct((images // 2, 2, 2), jnp.float32),
        jax.ShapeDtypeStruct((images // 2,), jnp.int32),
    ]
    return Batch(*shapes)


def temporaries(images: int, h100: bool) -> int:
    """The bytes of the intermediate arrays of a step."""
    recipe, batch = recipe_of(images), batch_of(images)
    state = jax.eval_shape(functools.partial(create_state, recipe))

    def step(state, batch):
        return train_step(state, batch, recipe)

    if h100:
        return compile_counts.compile_program(step, state, batch, donate=(0,)).temporaries
    arguments = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), (state, batch))
    program = jax.pmap(step, axis_name=AXIS, donate_argnums=0, devices=jax.devices()[:1]).lower(*arguments).compile()
    return program.memory_analysis().temp_size_in_bytes


def size(tree: Any) -> int:
    """The bytes of the arrays of a tree."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def run_step(images: int) -> None:
    """Runs one step and prints the largest memory of this process, before and after."""
    recipe, rng = recipe_of(images), np.random.default_rng(0)
    batch = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), batch_of(images))
    pixels = rng.integers(0, 256, batch.images.shape, dtype=np.uint8)
    batch = Batch(pixels, batch.short_side_ratio, np.arange(images // 2, dtype=np.int32))
    state, batch = jax.tree.map(lambda x: jnp.asarray(x)[None], (create_state(recipe), batch))
    step = pmap_train_step(recipe)
    step.lower(state, batch).compile()
    before = peak()
    state, metrics = step(state, batch)
    loss = float(jax.block_until_ready(metrics)["loss"][0])
    micro = MICRO_BATCH if images > MICRO_BATCH else 0
    print(f"{images:,} images, micro_batch {micro}: loss {loss:.4f}, images {pixels.nbytes / 1e6:,.0f} MB")
    print(f"peak of the process {before / 1e6:,.0f} MB before the step, {peak() / 1e6:,.0f} MB after it")


def peak() -> int:
    """The largest resident memory of this process so far, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=int, nargs="*", default=BATCHES, help="images of each batch to compile")
    parser.add_argument("--h100", action="store_true", help="compile for an H100")
    parser.add_argument("--run", type=int, default=0, metavar="IMAGES", help="run one step of so many images")
    arguments = parser.parse_args()
    if arguments.run:
        return run_step(arguments.run)
    print(f"compiled for {'an H100' if arguments.h100 else 'the CPU'}, jax {jax.__version__}; nothing ran\n")
    print_row("images of a batch", "micro_batch", "images, MB", "embeddings, MB", "state, MB", "temporaries, MB")
    print_row(*["---"] * 6)
    for images in arguments.images:
        state = jax.eval_shape(functools.partial(create_state, recipe_of(images)))
        parts = batch_of(images).images, jax.ShapeDtypeStruct((images, 512), jnp.float32), state
        row = [f"{size(part) / 1e6:,.1f}" for part in parts] + [f"{temporaries(images, arguments.h100) / 1e6:,.0f}"]
        print_row(f"{images:,}", str(MICRO_BATCH) if images > MICRO_BATCH else "0", *row)


if __name__ == "__main__":
    main()
