"""Single layers of GoogLeNet, value and all gradients, beside what XLA makes of the plain formulation.

    python benchmarks/layers.py             # about a minute on two cores
    python benchmarks/layers.py --pairs=64

"max_of_three" is max pooling as two passes of the maximum of three neighbours, whose gradient needs no scatter. On a
CPU the convolution whose gradients are written out is compared too. Milliseconds are medians of rounds by turns.
"""

import argparse
from collections.abc import Callable

import checkout  # noqa: F401
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from losses import print_row
from training import rates

from symm_jax.models import layers_cpu
from symm_jax.models.pooling import max_of_three


def two_passes(x, stride, padding):
    x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    return max_of_three(max_of_three(x, 2, stride), 1, stride)


def reduce_window(x, stride, padding):
    return nn.max_pool(jnp.pad(x, ((0, 0), padding, padding, (0, 0))), (3, 3), (stride, stride))


POOLS = {  # shape of an image, stride, padding
    "pool1, stride 2": ((114, 114, 64), 2, (0, 1)),
    "pool2, stride 2": ((57, 57, 192), 2, (0, 0)),
    "pool of 3b, stride 1": ((28, 28, 256), 1, (1, 1)),
    "pool of 4d, stride 1": ((14, 14, 512), 1, (1, 1)),
    "pool3, stride 2": ((28, 28, 480), 2, (0, 1)),
}


def program(function: Callable, inputs: list, options: tuple, repeats: int) -> Callable:
    """Computes the value and all gradients `repeats` times, and waits."""

    def run(cotangent, *inputs):
        y, vjp = jax.vjp(lambda *inputs: function(*inputs, *options), *inputs)
        return y, vjp(cotangent)

    cotangent, run = function(*inputs, *options), jax.jit(run)
    return lambda: jax.block_until_ready([run(cotangent, *inputs) for _ in range(repeats)][-1])


def main() -> None:
    on_gpu = jax.default_backend() == "gpu"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=64 if on_gpu else 16)
    parser.add_argument("--rounds", type=int, default=10 if on_gpu else 5)
    arguments = parser.parse_args()
    images, repeats = 2 * arguments.pairs, 20 if on_gpu else 1
    rng = np.random.default_rng(0)

    def row(name, mine, plain, shapes, *options):
        inputs = [jax.device_put(rng.normal(size=shape).astype(np.float32)) for shape in shapes]
        inputs[0] = jnp.maximum(inputs[0], 0)
        programs = {key: program(f, inputs, options, repeats) for key, f in (("ours", mine), ("XLA", plain))}
        seconds = (1 / rate for rate in rates(programs, repeats, arguments.rounds).values())
        print_row(name, *(f"{1e3 * s:,.2f}" for s in seconds))

    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {images} images, float32\n")
    print_row("value and gradients", "ours, ms", "XLA's, ms")
    print_row(*["---"] * 3)
    if not on_gpu:
        shapes = [(images, 57, 57, 64), (3, 3, 64, 192)]
        row("conv2, 3x3", layers_cpu.conv, layers_cpu.plain_conv, shapes, 1)
    for name, (shape, stride, padding) in POOLS.items():
        row(f"{name}, max_of_three", two_passes, reduce_window, [(images, *shape)], stride, padding)


if __name__ == "__main__":
    main()
