"""The training step with its input: images per second, beside the step alone on a batch that lies ready.

    python benchmarks/input_pipeline.py            # 64 pairs of 227 px on a GPU, 16 on a CPU
    python benchmarks/input_pipeline.py --dtype=float32

The step is GoogLeNet's with Symm + N-pair, augmentation included, on one device. "on the device" draws pairs from all
images there, many steps in one dispatch, on a GPU only (on a CPU, where training does not do so either, it did not end
within a minute, and so it has not been tried here to its end); "from the memory map" gathers them with a thread and
sends them ahead, as training does. Images are made up, as many as Cars196 has for training (8,054 in 98 classes) or 512
on a CPU, in the size that they are stored in, and the memory map has been written just before, so that it lies in the
page cache. A rate is the median of its rounds, and each row is printed when it is known.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import checkout  # noqa: F401
import jax
import numpy as np
from losses import print_row
from training import SIZE, random_batch, rates

from configs import car_symm_npair
from symm_jax.data import augment, pairs
from symm_jax.data.arrays import Arrays
from symm_jax.training import batches
from symm_jax.training.recipe import create_recipe
from symm_jax.training.step import create_state, pmap_train_step, pmap_train_steps

CLASSES = 98
ALONE = "a batch that lies ready"
RESIDENT = "drawn from images on the device"
FED = "fed from the memory map"


def made_up(n: int, path: Path) -> Arrays:
    """Arrays of noise, the images in a memory map."""
    side = augment.stored_side(SIZE, enlarge=1.125, max_margin=0.05)
    images = np.lib.format.open_memmap(path, "w+", np.uint8, (n, side, side, 3))
    rng = np.random.default_rng(0)
    for start in range(0, n, 256):
        images[start : start + 256] = rng.integers(0, 256, images[start : start + 256].shape, np.uint8)
    return Arrays(np.load(path, mmap_mode="r"), np.arange(n, dtype=np.int32) % CLASSES, np.ones((n, 2), np.float32))


def programs(config, arrays: Arrays, num_pairs: int, steps: int) -> dict[str, Callable[[], None]]:
    """Each makes `steps` steps and waits for the last of them."""
    recipe = create_recipe(config)
    table = pairs.class_table(arrays.labels, np.arange(len(arrays.labels)))
    step, many = pmap_train_step(recipe), pmap_train_steps(recipe, num_pairs)
    start = jax.device_get(create_state(recipe))
    states = {name: batches.replicate(start) for name in (ALONE, RESIDENT, FED)}
    stream = batches.prefetch(batches.generate(arrays, table, recipe.key, 0, 10**6, num_pairs, 1))
    resident = batches.replicate(batches.Resident(arrays.images, arrays.short_side_ratio, arrays.labels, table))
    ready = jax.device_put(jax.tree.map(lambda x: x[None], random_batch(num_pairs)))

    def one_by_one(name, next_batch):
        for _ in range(steps):
            states[name], _ = step(states[name], next_batch())
        jax.block_until_ready(states[name])

    def at_once():
        states[RESIDENT], _ = jax.block_until_ready(many(states[RESIDENT], resident, np.int32(steps)))

    found = {
        ALONE: lambda: one_by_one(ALONE, lambda: ready),
        FED: lambda: one_by_one(FED, lambda: next(stream)),
    }
    return found | ({RESIDENT: at_once} if jax.default_backend() == "gpu" else {})


def main() -> None:
    on_gpu = jax.default_backend() == "gpu"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=64 if on_gpu else 16)
    parser.add_argument("--dtype", default="bfloat16" if on_gpu else "float32")
    parser.add_argument("--images", type=int, default=8054 if on_gpu else 512)
    parser.add_argument("--steps", type=int, default=40 if on_gpu else 2, help="in a round")
    parser.add_argument("--rounds", type=int, default=5 if on_gpu else 3)
    arguments = parser.parse_args()
    config = car_symm_npair.get_config()
    config.model.dtype = arguments.dtype
    with tempfile.TemporaryDirectory() as folder:
        arrays = made_up(arguments.images, Path(folder) / "images.npy")
        count = 2 * arguments.pairs
        found = programs(config, arrays, arguments.pairs, arguments.steps)
        print(
            f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {count} images of {SIZE} px a step, "
            f"{arguments.dtype}, from {len(arrays.labels):,} images, {arrays.images.nbytes / 1e9:.2f} GB\n"
        )
        print_row("Symm + N-pair", "images/s", "of the step alone", "minutes for 20,000 steps")
        print_row(*["---"] * 4)
        rate = {}
        for name, run in found.items():
            rate |= rates({name: run}, count * arguments.steps, arguments.rounds)
            share = f"{100 * rate[name] / rate[ALONE]:.0f} %"
            print_row(name, f"{rate[name]:,.1f}", share, f"{20_000 * count / rate[name] / 60:,.1f}")


if __name__ == "__main__":
    main()
