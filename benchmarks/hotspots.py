"""Where the time of a training step goes: the operations that take most of it, and whether memory bounds it.

    PYTHONPATH=. python benchmarks/hotspots.py           # GoogLeNet's Symm + N-pair step; 64 pairs of 227 px on a GPU
    PYTHONPATH=. python benchmarks/hotspots.py --pairs=8 --steps=2

Times are from JAX's profiler: of kernels on a GPU, of XLA's operations on a CPU, where several run at once. Bytes and
operations of a step are those that XLA counts, before it keeps anything in caches.
"""

import argparse
import collections
import gzip
import json
import tempfile
import time
from pathlib import Path

import jax
from losses import print_row
from training import random_batch

from configs import car_symm_npair
from symm_jax import train

TOP = 15


def operations(folder: Path) -> dict[str, float]:
    """Milliseconds by name of operation, of all traced steps, longest first."""
    (path,) = folder.rglob("perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    processes = {e["pid"]: e["args"]["name"] for e in events if e.get("name") == "process_name"}
    threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e.get("name") == "thread_name"}
    found = collections.Counter()
    for event in events:
        thread = threads.get((event.get("pid"), event.get("tid")), "")
        on_gpu = "GPU" in processes.get(event.get("pid"), "") and thread.startswith("Stream")
        if "dur" in event and (on_gpu or "hlo_op" in event.get("args", {})):
            found[event["name"]] += event["dur"] / 1e3
    return dict(found.most_common())


def main() -> None:
    on_gpu = jax.default_backend() == "gpu"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=64 if on_gpu else 16)
    parser.add_argument("--steps", type=int, default=10 if on_gpu else 3)
    parser.add_argument("--dtype", default="bfloat16" if on_gpu else "float32")
    arguments = parser.parse_args()
    config = car_symm_npair.get_config()
    config.model.dtype = arguments.dtype
    recipe = train.create_recipe(config)
    state = train.replicate(train.create_state(config, recipe))
    batch = jax.device_put(jax.tree.map(lambda x: x[None], random_batch(arguments.pairs)))
    step = train.pmap_train_step(recipe)
    counted = step.lower(state, batch).compile().cost_analysis()
    state, _ = jax.block_until_ready(step(state, batch))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, create_perfetto_trace=True):
            for _ in range(arguments.steps):
                state, _ = step(state, batch)
            jax.block_until_ready(state)
            seconds = (time.perf_counter() - start) / arguments.steps
        found = operations(Path(folder))
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {arguments.pairs} pairs, {arguments.dtype}")
    print(
        f"a step: {1e3 * seconds:,.1f} ms, {counted['flops'] / seconds / 1e12:,.3f} TFLOP/s, "
        f"{counted['bytes accessed'] / seconds / 1e9:,.0f} GB/s\n"
    )
    print_row("operation", "ms a step", "share")
    print_row(*["---"] * 3)
    total = sum(found.values())
    for name, spent in list(found.items())[:TOP]:
        print_row(name[:70], f"{spent / arguments.steps:,.2f}", f"{100 * spent / total:.0f} %")


if __name__ == "__main__":
    main()
