"""Value and gradient of Symm + N-pair for large batches, compared with the formula in PyTorch on the same device.

    pip install torch  # optional: the peer
    python benchmarks/large_batch.py                # 16,384 and 65,536 pairs on a GPU, fewer on a CPU
    python benchmarks/large_batch.py --pairs 512 --out rows.md

"PyTorch" builds the four points and takes the maximum of the six products, one after the other. "compiled" is the same
function after torch.compile, on a GPU. "in blocks" is our loss with block_size=256. It has no row where "ours" is the
same program: above 4,096 pairs on a CPU. All programs multiply in full float32, not in TF32. Embeddings have 512
dimensions. Times are medians of five rounds. Memory is the memory that XLA reserves for intermediate arrays, or the
peak memory of PyTorch on a GPU. A row says so if the program runs out of memory. PyTorch runs first, because JAX keeps
its memory. Set XLA_PYTHON_CLIENT_PREALLOCATE=false. Otherwise PyTorch gets a quarter of the GPU's memory. Each row is
printed, and with --out appended to a file, as soon as it is known.
"""

import argparse
import functools
import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import losses
import numpy as np
from losses import DIM, LOSSES, compiled, median_seconds, random_batch

from symm_jax import devices

ROUNDS = 5
ROWS_IN_BLOCKS = 256  # of "in blocks"
OUT_OF_MEMORY = "RESOURCE_EXHAUSTED", "out of memory", "can't allocate memory"  # of XLA, CUDA and PyTorch on a CPU


def print_row(*cells: str, out: Path | None) -> None:
    losses.print_row(*cells)
    if out:
        with out.open("a") as file:
            file.write(f"| {' | '.join(cells)} |\n")


def torch_loss(anchor, positive):
    """The formula of losses.py in PyTorch, where every pair is a class."""
    import torch

    def mirrored(point, axis):
        return 2 * (point * axis).sum(1, keepdim=True) / (axis * axis).sum(1, keepdim=True) * axis - point

    points = anchor, positive, mirrored(positive, anchor), mirrored(anchor, positive)
    logits = functools.reduce(torch.maximum, (x @ y.T for x, y in itertools.combinations(points, 2)))
    labels = torch.arange(len(anchor), device=anchor.device)
    l2 = 0.25 * 0.002 * (anchor.square().sum(1).mean() + positive.square().sum(1).mean())
    return torch.nn.functional.cross_entropy(logits, labels) + l2


def run_torch(n: int, compile: bool) -> tuple[float, str, float]:
    """Seconds, memory in GB and value."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    loss = torch.compile(torch_loss, dynamic=False) if compile else torch_loss
    anchor, positive = (torch.tensor(x, device=device, requires_grad=True) for x in random_batch(n)[:2])

    def run():
        value = loss(anchor, positive)
        torch.autograd.grad(value, (anchor, positive))
        return value.item()

    def run_and_wait():
        run()
        if device == "cuda":
            torch.cuda.synchronize()

    seconds = median_seconds({"": run_and_wait}, ROUNDS)[""]
    return seconds, f"{torch.cuda.max_memory_allocated() / 1e9:.2f}" if device == "cuda" else "", run()


def run_ours(n: int, variant: str) -> tuple[float, str, float]:
    """Seconds, memory in GB and value."""
    run, megabytes, (value, _) = compiled(LOSSES["Symm + N-pair"][variant], random_batch(n))
    return *median_seconds({"": run}, ROUNDS).values(), f"{megabytes / 1e3:.2f}", float(value)


def row(n: int, name: str, run: Callable[[], tuple[float, str, float]], out: Path | None) -> float | None:
    """Prints the row of a program. Returns its value, or None if it did not run."""
    try:
        seconds, memory, value = run()
    except ImportError:
        print_row(f"{n:,}", name, "not installed", "", "", out=out)
    except (RuntimeError, MemoryError) as error:
        print(error, file=sys.stderr)
        short = any(text in str(error) for text in OUT_OF_MEMORY)
        print_row(f"{n:,}", name, "out of memory" if short else f"failed: {type(error).__name__}", "", "", out=out)
    else:
        print_row(f"{n:,}", name, f"{1e3 * seconds:,.1f}", memory, f"{value:.5f}", out=out)
        return value


def torch_rows(n: int, out: Path | None) -> list[float | None]:
    found = [row(n, "PyTorch", functools.partial(run_torch, n, compile=False), out)]
    if jax.default_backend() == "gpu":
        found.append(row(n, "PyTorch, compiled", functools.partial(run_torch, n, compile=True), out))
    return found


def our_variants(n: int) -> list[str]:
    """The programs that differ: without `block_size` the loss takes the same blocks for many pairs on a CPU."""
    same = n > 4096 and devices.block_sizes().loss_rows == ROWS_IN_BLOCKS
    return ["ours"] if same else ["ours", "in blocks"]


def main() -> None:
    sizes = [16_384, 65_536] if jax.default_backend() == "gpu" else [1024, 4096]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=sizes)
    parser.add_argument("--out", type=Path, help="append the rows to this file")
    arguments = parser.parse_args()
    sizes, out = arguments.pairs, arguments.out
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, dim {DIM}, Symm + N-pair, value and gradient\n")
    print_row("pairs", "program", "ms", "memory, GB", "loss", out=out)
    print_row(*["---"] * 5, out=out)
    values = {n: torch_rows(n, out) for n in sizes}
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        sys.modules["torch"].cuda.empty_cache()
    for n in sizes:
        for variant in our_variants(n):
            values[n].append(row(n, variant, functools.partial(run_ours, n, variant), out))
    for found in values.values():
        known = [value for value in found if value is not None]
        np.testing.assert_allclose(known, known[-1], rtol=1e-5)


if __name__ == "__main__":
    main()
