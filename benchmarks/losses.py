"""Time and memory of value and gradient of the losses, compared with their formulas and pytorch-metric-learning.

    python benchmarks/losses.py              # the table, about five minutes on two cores
    python benchmarks/losses.py --pairs 64 1024
    python benchmarks/losses.py --large      # 65,536 pairs, with the peak memory of the process

"formula" builds the points, multiplies every candidate pair (6 products for Symm + N-pair, 24 for Symm + Angular), and
takes the maximum of the stacked products. "running maximum" takes pairwise maxima one after the other. "in blocks" is
our loss with block_size=256. Embeddings have 512 dimensions. Each round runs all programs in an order of its own. Each
timed run follows one of the same program, because runs right after PyTorch's are slower. A time is the median over the
rounds. Memory is the memory that XLA reserves for intermediate arrays. pytorch-metric-learning is
optional (pip install torch pytorch-metric-learning). It uses every image as an anchor, so it compares 2 n with 2 n
images. The other programs compare n with n images.
"""

import argparse
import functools
import itertools
import random
import resource
import statistics
import time
from collections.abc import Callable

import checkout  # noqa: F401
import jax
import jax.numpy as jnp
import numpy as np

from symm_jax import losses, synthesis

DIM = 512
ROUNDS = {64: 200, 1024: 15, 4096: 3}


def mirrored(point, axis):
    return 2 * jnp.sum(point * axis, 1, keepdims=True) / jnp.sum(axis * axis, 1, keepdims=True) * axis - point


def cross_entropy(logits, labels):
    same = (labels[:, None] == labels[None, :]).astype(logits.dtype)
    targets = same / jnp.sum(same, axis=1, keepdims=True)
    return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(logits, axis=1), axis=1))


def l2_term(anchor, positive):
    return 0.25 * 0.002 * (jnp.mean(jnp.sum(anchor**2, axis=1)) + jnp.mean(jnp.sum(positive**2, axis=1)))


def stacked(similarities):
    return jnp.max(jnp.stack(similarities), axis=0)


def running(similarities):
    return functools.reduce(jnp.maximum, similarities)


def npair_formula(anchor, positive, labels, symm=False, largest=stacked):
    points = [anchor, positive] + ([mirrored(positive, anchor), mirrored(anchor, positive)] if symm else [])
    logits = [x @ y.T for x, y in itertools.combinations(points, 2)]
    return cross_entropy(largest(logits), labels) + l2_term(anchor, positive)


def angular_formula(anchor, positive, labels, symm=False, largest=stacked):
    points = [anchor, positive] + ([mirrored(positive, anchor), mirrored(anchor, positive)] if symm else [])
    pairs = itertools.permutations(points, 2) if symm else [(anchor, positive)]
    own = jnp.eye(len(anchor), dtype=bool)
    logits = [jnp.where(own, 4 * (x @ y.T), 4 * ((x + y) @ y.T)) for x, y in pairs]
    return cross_entropy(largest(logits), labels) + l2_term(anchor, positive)


LOSSES = {
    "N-pair": {"ours": losses.npair_loss, "formula": npair_formula},
    "Angular": {"ours": losses.angular_loss, "formula": angular_formula},
    "Symm + N-pair": {
        "ours": functools.partial(losses.npair_loss, synthesis=synthesis.symmetric),
        "in blocks": functools.partial(losses.npair_loss, synthesis=synthesis.symmetric, block_size=256),
        "formula": functools.partial(npair_formula, symm=True),
        "running maximum": functools.partial(npair_formula, symm=True, largest=running),
    },
    "Symm + Angular": {
        "ours": functools.partial(losses.angular_loss, synthesis=synthesis.symmetric),
        "in blocks": functools.partial(losses.angular_loss, synthesis=synthesis.symmetric, block_size=256),
        "formula": functools.partial(angular_formula, symm=True),
        "running maximum": functools.partial(angular_formula, symm=True, largest=running),
    },
}
PEER = "pytorch-metric-learning"


def random_batch(n):
    """Anchors and positives about as similar as those of a network in training, one pair per class."""
    rng = np.random.default_rng(0)
    anchor = rng.normal(size=(n, DIM)).astype(np.float32)
    positive = anchor + rng.normal(size=(n, DIM)).astype(np.float32)
    return anchor / 20, positive / 20, np.arange(n)


def compiled(loss: Callable, batch: tuple) -> tuple[Callable, float, tuple]:
    """Returns a function without arguments to time, its intermediate memory in MB, and its result.

    The products of the formulas are in full float32, as ours are.
    """
    batch = [jax.device_put(x) for x in batch]
    with jax.default_matmul_precision("highest"):
        program = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(*batch).compile()

    def run():
        return jax.block_until_ready(program(*batch))

    return run, program.memory_analysis().temp_size_in_bytes / 1e6, run()


def torch_peer(name: str, batch: tuple) -> Callable | None:
    """Returns the loss of pytorch-metric-learning with this name, or None."""
    try:
        import torch
        from pytorch_metric_learning import distances
        from pytorch_metric_learning import losses as peers
    except ImportError:
        return None
    distance = distances.DotProductSimilarity(normalize_embeddings=False)
    peer = {"N-pair": lambda: peers.NPairsLoss(distance=distance), "Angular": lambda: peers.AngularLoss(alpha=45)}
    if name not in peer:
        return None
    loss = peer[name]()
    anchor, positive, labels = (torch.tensor(x) for x in batch)

    def run():
        embeddings = torch.cat([anchor, positive]).requires_grad_()
        loss(embeddings, torch.cat([labels, labels])).backward()

    return run


def median_seconds(programs: dict[str, Callable], rounds: int) -> dict[str, float]:
    """Each round runs all programs in an order of its own, each program once untimed and once timed."""
    times = {name: [] for name in programs}
    shuffled = random.Random(0)
    for name in itertools.chain(*(shuffled.sample(list(programs), len(programs)) for _ in range(rounds))):
        programs[name]()
        start = time.perf_counter()
        programs[name]()
        times[name].append(time.perf_counter() - start)
    return {name: statistics.median(t) for name, t in times.items()}


def compare(sizes: list[int]) -> None:
    others = ("in blocks", "formula", "running maximum", PEER)
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, dim {DIM}, value and gradient; ratios to ours\n")
    print_row("pairs", "loss", "ours, ms", *(f"{other}, ms" for other in others))
    print_row(*["---"] * (3 + len(others)))
    memories = []
    for n in sizes:
        batch, rounds = random_batch(n), ROUNDS.get(n, 5)
        for name, variants in LOSSES.items():
            programs, memory, values = {}, {}, {}
            for variant, loss in variants.items():
                programs[variant], memory[variant], (values[variant], _) = compiled(loss, batch)
            np.testing.assert_allclose(list(values.values()), values["formula"], rtol=1e-5)
            if peer := torch_peer(name, batch):
                programs[PEER] = peer
            ms = {key: 1e3 * x for key, x in median_seconds(programs, rounds).items()}
            print_row(f"{n:,}", name, *beside_ours(ms, others))
            memories.append((f"{n:,}", name, *beside_ours(memory, others[:-1])))
    print()
    print_row("pairs", "loss", "ours, MB", *(f"{other}, MB" for other in others[:-1]))
    print_row(*["---"] * (2 + len(others)))
    for row in memories:
        print_row(*row)


def beside_ours(figures: dict[str, float], others: tuple[str, ...]) -> list[str]:
    def cell(other):
        return f"{figures[other]:.2f} ({figures[other] / figures['ours']:.1f}x)" if other in figures else ""

    return [f"{figures['ours']:.2f}", *map(cell, others)]


def print_row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def large(n: int, block_size: int) -> None:
    loss = functools.partial(losses.npair_loss, synthesis=synthesis.symmetric, block_size=block_size)
    start = time.perf_counter()
    _, _, (value, gradients) = compiled(loss, random_batch(n))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    finite = all(bool(jnp.isfinite(g).all()) for g in gradients)
    print(
        f"Symm + N-pair, {n:,} pairs of dim {DIM}, block_size {block_size}: loss {value:.4f}, gradients "
        f"{'finite' if finite else 'NOT FINITE'}, {seconds:.0f} s, peak memory of the process {peak:.2f} GiB"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--pairs", type=int, nargs="+", help="default: the table's; 65536 with --large")
    parser.add_argument("--block_size", type=int, default=256, help="of --large")
    arguments = parser.parse_args()
    if arguments.large:
        for n in arguments.pairs or [65_536]:
            large(n, arguments.block_size)
    else:
        compare(arguments.pairs or list(ROUNDS))
