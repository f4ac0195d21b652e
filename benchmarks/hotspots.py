"""Where the time of a training step goes: the operations that take most of it, and what memory and arithmetic allow.

    python benchmarks/hotspots.py           # GoogLeNet's Symm + N-pair step; 64 pairs of 227 px on a GPU
    python benchmarks/hotspots.py --pairs=8 --steps=2

Times are from JAX's profiler: of all kernels and copies in a GPU's streams, or of XLA's operations on a CPU, where
several run at once. The reading of a GPU's profile follows the names of its planes and lines and has never met a real
one.

Operations are those of the network, counted from its layers; bytes those that XLA counts in the compiled step, where it
does, before anything is kept in caches. On a GPU the bytes leave out what cuDNN and cuBLAS read and write, which XLA
does not know: they are a lower bound, and so is the time that they imply.
"""

import argparse
import collections
import math
import tempfile
import time
from pathlib import Path

import checkout  # noqa: F401
import jax
from jax.profiler import ProfileData
from losses import print_row
from training import OPERATIONS, PEAK, random_batch

from configs import car_symm_npair
from symm_jax.training import batches
from symm_jax.training.recipe import create_recipe
from symm_jax.training.step import create_state, pmap_train_step

TOP = 15
BANDWIDTH = {"H100": 3.35e12, "H200": 4.8e12}  # bytes a second of the SXM cards' memory, as NVIDIA gives it


def operations(profile: ProfileData) -> dict[str, float]:
    """Milliseconds by name of operation, of all traced steps, longest first."""
    planes = list(profile.planes)
    gpus = [plane for plane in planes if plane.name.startswith("/device:GPU:")]
    found = collections.Counter()
    for plane in gpus or planes:
        # A GPU's other lines, such as "XLA Ops", hold the time of the same kernels again.
        for line in (line for line in plane.lines if not gpus or line.name.startswith("Stream")):
            for event in line.events:
                if gpus or "hlo_op" in dict(event.stats):
                    found[event.name] += event.duration_ns / 1e6
    return dict(found.most_common())


def bound(work: float, moved: float, dtype: str) -> str:
    """What a card's figures imply for so many operations and bytes; empty where the card or the bytes are unknown."""
    bandwidth = next((value for name, value in BANDWIDTH.items() if name in jax.devices()[0].device_kind), None)
    if bandwidth is None or math.isnan(moved):
        return ""
    arithmetic, memory = 1e3 * work / PEAK[dtype], 1e3 * moved / bandwidth
    return (
        f"at the card's peaks: {arithmetic:,.2f} ms of arithmetic, {memory:,.2f} ms of memory traffic; "
        f"bound by {'memory' if memory > arithmetic else 'arithmetic'}\n"
    )


def main() -> None:
    on_gpu = jax.default_backend() == "gpu"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=64 if on_gpu else 16)
    parser.add_argument("--steps", type=int, default=10 if on_gpu else 3)
    parser.add_argument("--dtype", default="bfloat16" if on_gpu else "float32")
    arguments = parser.parse_args()
    config = car_symm_npair.get_config()
    config.model.dtype = arguments.dtype
    recipe = create_recipe(config)
    state = batches.replicate(create_state(recipe))
    batch = jax.device_put(jax.tree.map(lambda x: x[None], random_batch(arguments.pairs)))
    step = pmap_train_step(recipe).lower(state, batch).compile()
    work = 2 * arguments.pairs * OPERATIONS
    moved = (step.cost_analysis() or {}).get("bytes accessed", float("nan"))
    state, _ = jax.block_until_ready(step(state, batch))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            start = time.perf_counter()
            for _ in range(arguments.steps):
                state, _ = step(state, batch)
            jax.block_until_ready(state)
            seconds = (time.perf_counter() - start) / arguments.steps
        (path,) = Path(folder).rglob("*.xplane.pb")
        found = operations(ProfileData.from_file(str(path)))
    total = sum(found.values())
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {arguments.pairs} pairs, {arguments.dtype}")
    print(
        f"a step: {1e3 * seconds:,.1f} ms, in operations {total / arguments.steps:,.1f} ms; {work / 1e12:,.3f} TFLOP "
        f"and {moved / 1e9:,.1f} GB, {work / moved:,.1f} FLOP a byte; {work / seconds / 1e12:,.3f} TFLOP/s, "
        f"{moved / seconds / 1e9:,.0f} GB/s"
    )
    print(bound(work, moved, arguments.dtype))
    print_row("operation", "ms a step", "share")
    print_row(*["---"] * 3)
    for name, spent in list(found.items())[:TOP]:
        print_row(name[:70], f"{spent / arguments.steps:,.2f}", f"{100 * spent / total:.0f} %")


if __name__ == "__main__":
    main()
