"""Single layers of GoogLeNet, value and all gradients, beside what XLA makes of the plain formulation.

    python benchmarks/layers.py             # about two minutes on two cores
    python benchmarks/layers.py --pairs=64

"ours" is the form that the platform of this machine gets. Milliseconds are medians of rounds by turns.
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

from symm_jax.models import layers


def conv_relu(x, kernel, bias, stride):
    pad = [(kernel.shape[0] // 2,) * 2] * 2
    y = jax.lax.conv_general_dilated(x, kernel, (stride, stride), pad, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return nn.relu(y + bias)


def max_pool(x, stride, padding):
    return nn.max_pool(jnp.pad(x, ((0, 0), padding, padding, (0, 0))), (3, 3), (stride, stride))


def local_response_norm(x, kind):
    del kind  # "reference"
    squares = jax.lax.reduce_window(x * x, 0.0, jax.lax.add, (1, 1, 1, 11), (1, 1, 1, 1), [(0, 0)] * 3 + [(5, 5)])
    return x * (1 + 1e-4 * squares) ** -0.75


CASES = {  # our layer, the plain one, shapes of an image and of weights, options
    "conv2, 3x3": (layers.conv_relu, conv_relu, [(57, 57, 64), (3, 3, 64, 192), (192,)], [1]),
    "3x3 of 3b": (layers.conv_relu, conv_relu, [(28, 28, 128), (3, 3, 128, 192), (192,)], [1]),
    "5x5 of 3b": (layers.conv_relu, conv_relu, [(28, 28, 32), (5, 5, 32, 96), (96,)], [1]),
    "3x3 of 4e": (layers.conv_relu, conv_relu, [(14, 14, 160), (3, 3, 160, 320), (320,)], [1]),
    "normalisation after conv2": (layers.local_response_norm, local_response_norm, [(57, 57, 192)], ["reference"]),
    "pool1, stride 2": (layers.max_pool, max_pool, [(114, 114, 64)], [2, (0, 1)]),
    "pool2, stride 2": (layers.max_pool, max_pool, [(57, 57, 192)], [2, (0, 0)]),
    "pool of 3b, stride 1": (layers.max_pool, max_pool, [(28, 28, 256)], [1, (1, 1)]),
    "pool of 4d, stride 1": (layers.max_pool, max_pool, [(14, 14, 512)], [1, (1, 1)]),
    "pool3, stride 2": (layers.max_pool, max_pool, [(28, 28, 480)], [2, (0, 1)]),
}


def program(function: Callable, inputs: list, options: list, repeats: int) -> Callable:
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
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {images} images, float32\n")
    print_row("value and gradients", "ours, ms", "XLA's, ms")
    print_row(*["---"] * 3)
    for name, (mine, plain, (shape, *others), options) in CASES.items():
        inputs = [jax.device_put(rng.normal(size=s).astype(np.float32)) for s in [(images, *shape), *others]]
        inputs[0] = jnp.maximum(inputs[0], 0)
        programs = {key: program(f, inputs, options, repeats) for key, f in (("ours", mine), ("XLA", plain))}
        seconds = (1 / rate for rate in rates(programs, repeats, arguments.rounds).values())
        print_row(name, *(f"{1e3 * s:,.2f}" for s in seconds))


if __name__ == "__main__":
    main()
