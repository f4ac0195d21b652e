"""Compiles programs for an H100 on a machine without one, and prints what they launch and move.

    pip install jax jax-cuda13-plugin jax-cuda13-pjrt  # of one version; no CUDA, no driver
    python benchmarks/compile_counts.py                # minutes: the step programs are large
    python benchmarks/compile_counts.py --only=loss

Nothing runs and nothing is tuned, so a program on a card may differ: XLA then times candidates and chooses. Bytes are
those of each kernel's operands and results, as if no cache kept them (`benchmarks/compiled.py`). Ranking repeats one
program, so only its turns are counted.
"""

import argparse
import functools
import os
import time
import unittest.mock
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ["JAX_PLATFORMS"] = "cpu"  # the plugin would look for a card, and be dropped

import checkout  # noqa: F401
import compiled
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from losses import print_row

from configs import car_symm_npair
from symm_jax import devices, losses
from symm_jax.data import augment
from symm_jax.devices import AXIS
from symm_jax.models import googlenet
from symm_jax.training.batches import Batch
from symm_jax.training.recipe import create_recipe
from symm_jax.training.step import create_state, train_step

PAIRS, SIZE = 64, 227
LOSS_PAIRS = (64, 4_096, 16_384, 65_536)
IMAGES = 60_502  # of Stanford Online Products' test split


class Program(NamedTuple):
    """A compiled program: its counts, the bytes that it needs for intermediate arrays, seconds to compile."""

    counts: compiled.Counts
    temporaries: int
    seconds: float


@functools.cache
def h100s(count: int) -> np.ndarray:
    """So many H100s of one machine, to compile for."""
    target = (Path(__file__).parent / "h100.txtpb").read_text()
    try:
        found = topologies.get_topology_desc(platform="cuda", target_config=target, topology=f"1x1x{count}")
        return np.array(found.devices)
    except NotImplementedError as error:
        raise SystemExit(f"{error}; install this jax's CUDA plugin: docs/benchmarks.md names the packages") from error


def compile_program(function: Callable, *arguments: Any, donate: tuple[int, ...] = ()) -> Program:
    """Compiles function(*arguments) for one H100, under the axis of the training step.

    Args:
      function: traced as on a GPU.
      *arguments: trees of arrays or of shapes.
      donate: numbers of the arguments whose memory may be reused.
    """
    mesh = jax.sharding.Mesh(h100s(1), (AXIS,))
    spec = jax.sharding.PartitionSpec()
    everywhere = jax.sharding.NamedSharding(mesh, spec)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), arguments)
    mapped = jax.shard_map(function, mesh=mesh, in_specs=(spec,) * len(arguments), out_specs=spec, check_vma=False)
    start = time.perf_counter()
    with unittest.mock.patch.object(jax, "default_backend", lambda: "gpu"):
        lowered = jax.jit(mapped, donate_argnums=donate).lower(*shapes)
    program: Any = lowered.compile()
    seconds = time.perf_counter() - start
    return Program(compiled.count(program.as_text()), program.memory_analysis().temp_size_in_bytes, seconds)


def step(dtype: str) -> Program:
    """A training step of GoogLeNet in the setting of the paper: augmentation, Symm + N-pair, penalty and Adam."""
    config = car_symm_npair.get_config()
    config.model.dtype = dtype
    recipe = create_recipe(config)
    side = augment.stored_side(SIZE, enlarge=1.125, max_margin=0.05)
    shapes: list[Any] = [
        jax.ShapeDtypeStruct((PAIRS, 2, side, side, 3), jnp.uint8),
        jax.ShapeDtypeStruct((PAIRS, 2, 2), jnp.float32),
        jax.ShapeDtypeStruct((PAIRS,), jnp.int32),
    ]
    batch = Batch(*shapes)
    state = jax.eval_shape(functools.partial(create_state, recipe))
    return compile_program(lambda state, batch: train_step(state, batch, recipe), state, batch, donate=(0,))


def loss(pairs: int) -> Program:
    """Value and gradients of Symm + N-pair, 512 dimensions, blocks of the default size."""
    function = losses.from_config(car_symm_npair.get_config().losses)

    def value_and_gradients(anchor, positive, labels):
        return jax.value_and_grad(lambda a, p: function(a, p, labels)[0], (0, 1))(anchor, positive)

    embeddings = jax.ShapeDtypeStruct((pairs, 512), jnp.float32)
    return compile_program(value_and_gradients, embeddings, embeddings, jax.ShapeDtypeStruct((pairs,), jnp.int32))


def inception(dtype: str) -> Program:
    """Value and gradients of the Inception module 3b for 128 images."""
    module = googlenet.Inception(googlenet.INCEPTION["3b"], dtype=jnp.dtype(dtype))
    x = jax.ShapeDtypeStruct((2 * PAIRS, 28, 28, 256), jnp.dtype(dtype))
    variables = jax.eval_shape(module.init, jax.random.key(0), x)

    def value_and_gradients(variables, x, dy):
        y, vjp = jax.vjp(module.apply, variables, x)
        return y, vjp(dy)

    return compile_program(value_and_gradients, variables, x, jax.eval_shape(module.apply, variables, x))


PROGRAMS: dict[str, Callable[[], Program]] = (
    {f"step, {dtype}": functools.partial(step, dtype) for dtype in ("float32", "bfloat16")}
    | {f"inception 3b, {dtype}": functools.partial(inception, dtype) for dtype in ("float32", "bfloat16")}
    | {f"loss of {pairs:,} pairs": functools.partial(loss, pairs) for pairs in LOSS_PAIRS}
)


def ranking_turns() -> int:
    """Products of a ranking of all images, each of the queries of a tile with the whole gallery."""
    with devices.traced_for("gpu"):
        return -(-IMAGES // devices.block_sizes().ranking_rows)


def rows(only: str) -> Iterator[tuple[str, ...]]:
    """The rows of the table, each when its program is compiled."""
    for name, create in PROGRAMS.items():
        if only in name:
            p = create()
            yield (
                name,
                f"{p.counts.kernels:,}",
                f"{p.counts.bytes / 1e9:.2f}",
                f"{p.temporaries / 1e6:,.0f}",
                f"{p.seconds:.0f}",
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="programs whose name has this in it")
    arguments = parser.parse_args()
    print(f"compiled for an H100, jax {jax.__version__}; nothing ran\n", flush=True)
    print_row("program", "kernels", "GB moved", "temporaries, MB", "compiled in, s")
    print_row(*["---"] * 5)
    for row in rows(arguments.only):
        print_row(*row)
    print(f"\nranking of {IMAGES:,} images: {ranking_turns()} turns, with MAP@R too")


if __name__ == "__main__":
    main()
