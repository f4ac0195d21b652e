"""What synthesis adds to a training step: the methods of a comparison beside each other, on made-up images.

    python benchmarks/synthesis_cost.py         # of configs/compare/glyphs.py
    python benchmarks/synthesis_cost.py cars    # of configs/compare/cars.py; ten minutes on two cores

A step is the one that training runs, on one device and a batch that lies ready: augmentation, network, loss, gradients
and optimiser. "symm_NAME" is the method NAME with synthesis; without such a NAME in the comparison it is left out.
Rounds alternate; times are medians.
"""

import argparse
import importlib
from collections.abc import Callable

import checkout  # noqa: F401
import jax
from losses import print_row
from training import random_batch, rates

from symm_jax.training import batches
from symm_jax.training.recipe import create_recipe
from symm_jax.training.step import create_state, pmap_train_step


def program(config, steps: int) -> Callable[[], None]:
    """Makes `steps` steps and waits for the last of them."""
    batch = random_batch(config.batch_size // 2, config.data.image_size)
    batch = jax.device_put(jax.tree.map(lambda x: x[None], batch))
    recipe = create_recipe(config)
    step, state = pmap_train_step(recipe), batches.replicate(create_state(recipe))

    def run():
        nonlocal state
        for _ in range(steps):
            state, _ = step(state, batch)
        jax.block_until_ready(state)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", nargs="?", default="glyphs", help="a file of configs/compare")
    parser.add_argument("--steps", type=int, default=2, help="in a round")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    methods = importlib.import_module(f"configs.compare.{arguments.comparison}").get_config().methods
    pairs = [(name, f"symm_{name}") for name in methods if f"symm_{name}" in methods]
    programs = {name: program(methods[name], arguments.steps) for pair in pairs for name in pair}
    seconds = {name: 1 / rate for name, rate in rates(programs, arguments.steps, arguments.rounds).items()}
    one = methods[pairs[0][0]]
    print(
        f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {one.model.name}, {one.batch_size} images of "
        f"{one.data.image_size} px a step\n"
    )
    print_row("loss", "step without synthesis, ms", "with, ms", "ratio")
    print_row(*["---"] * 4)
    for name, symm in pairs:
        before, after = seconds[name], seconds[symm]
        print_row(name, f"{1e3 * before:,.1f}", f"{1e3 * after:,.1f}", f"{after / before:.3f}")


if __name__ == "__main__":
    main()
