"""Collectives of a training step over several H100s, as XLA compiles it on a machine without a GPU.

    pip install jax-cuda13-plugin jax-cuda13-pjrt   # Python 3.12; nothing else of CUDA is needed
    python benchmarks/collectives.py                # 64 pairs over 8 H100s; about two minutes on two cores

The step is GoogLeNet's with Symm + N-pair, the batch of all devices being --pairs. Nothing runs. "meanwhile" counts the
kernels that XLA schedules between the start and the end of a collective that is asynchronous: work that may hide it.
"""

import argparse
import os
import re

os.environ["JAX_PLATFORMS"] = "cpu"  # else the plugin looks for a GPU

import checkout  # noqa: F401
import jax
import numpy as np
from compile_counts import h100s
from losses import print_row
from training import random_batch

from configs import car_symm_npair
from symm_jax.devices import AXIS, traced_for
from symm_jax.training.recipe import create_recipe
from symm_jax.training.step import create_state, train_step

SIZES = {"f32": 4, "bf16": 2, "s32": 4}
KERNELS = "fusion", "custom-call", "copy", "sort", "dot", "convolution"


def compile_step(devices: int, pairs: int, dtype: str) -> str:
    """The scheduled program of one device."""
    config = car_symm_npair.get_config()
    config.model.dtype, config.batch_size = dtype, 2 * pairs
    recipe = create_recipe(config)
    everywhere, split = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec(AXIS)
    mesh = jax.sharding.Mesh(h100s(devices), AXIS)

    def shapes(tree, spec):
        sharding = jax.sharding.NamedSharding(mesh, spec)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((pairs, *x.shape[1:]), x.dtype), random_batch(1))
    step = jax.shard_map(
        lambda state, batch: train_step(state, batch, recipe),
        mesh=mesh,
        in_specs=(everywhere, split),
        out_specs=everywhere,
        check_vma=False,
    )
    state = jax.eval_shape(lambda: create_state(recipe))
    with traced_for("gpu"):
        lowered = jax.jit(step, donate_argnums=0).lower(shapes(state, everywhere), shapes(batch, split))
    return lowered.compile().as_text()


def megabytes(shapes: str) -> float:
    arrays = re.findall(rf"\b({'|'.join(SIZES)})\[([\d,]*)\]", shapes)
    return sum(SIZES[kind] * np.prod([int(n) for n in sides.split(",") if n]) for kind, sides in arrays) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=64, help="of all devices")
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()
    text = compile_step(arguments.devices, arguments.pairs, arguments.dtype)
    entry = text[re.search(r"^ENTRY", text, re.MULTILINE).start() :]
    instructions = re.findall(r"^ +(?:ROOT )?%([\w.\-]+) = (.*?) ([\w\-]+)\((.*)$", entry, re.MULTILINE)
    print(f"jax {jax.__version__}, {arguments.devices} H100s, {arguments.pairs} pairs, {arguments.dtype}\n")
    print_row("collective", "result, MB", "starts after kernels", "meanwhile", "asynchronous")
    print_row(*["---"] * 5)
    kernels, started = 0, {}
    for name, shapes, operation, rest in instructions:
        kernels += operation in KERNELS
        if re.fullmatch(r"(all|reduce|collective)-[a-z-]+-start", operation):
            started[name] = kernels, '"is_sync":true' not in rest
        elif re.fullmatch(r"(all|reduce|collective)-[a-z-]+-done", operation):
            before, asynchronous = started[re.match(r"%?([\w.\-]+)", rest)[1]]
            cells = f"{megabytes(shapes):,.3f}", f"{before:,}", f"{kernels - before:,}", "yes" if asynchronous else "no"
            print_row(operation.removesuffix("-done"), *cells)
        elif re.fullmatch(r"all-(reduce|gather|to-all)|reduce-scatter|collective-permute", operation):
            print_row(operation, f"{megabytes(shapes):,.3f}", f"{kernels:,}", "0", "no")
    print(f"\n{kernels:,} kernels in all")


if __name__ == "__main__":
    main()
