"""Time and memory of value and gradients of the proxy losses, compared with pytorch-metric-learning.

    python benchmarks/proxy_losses.py              # the table, about four minutes on two cores
    python benchmarks/proxy_losses.py proxy_anchor # one loss

Embeddings have 512 dimensions. SoftTriple and the sub-centres of ArcFace have 3 proxies per class. Gradients are those
of embeddings and proxies. Rounds alternate between the programs, and a time is the median over the rounds. Memory is
what XLA reserves for intermediate arrays, beside the arguments and the gradients. "matrices" is that memory without two
copies of embeddings and proxies (of unit norm, and their gradients), in units of one (n, classes) matrix, or
(n, 3 classes). pytorch-metric-learning is optional (pip install torch pytorch-metric-learning).
"""

import argparse
import statistics
from collections.abc import Callable

import checkout  # noqa: F401
import jax
import numpy as np
from losses import DIM, median_seconds, print_row

from symm_jax import losses

SIZES = {(256, 100): 30, (2048, 100): 15, (256, 11_318): 7, (2048, 11_318): 3}  # (images, classes): rounds
CENTERS = 3

LOSSES = {
    "norm_softmax": losses.norm_softmax_loss,
    "cosface": losses.cosface_loss,
    "arcface": losses.arcface_loss,
    "arcface, sub-centres": losses.arcface_loss,
    "proxy_nca": losses.proxy_nca_loss,
    "proxy_anchor": losses.proxy_anchor_loss,
    "soft_triple": losses.soft_triple_loss,
}


def random_batch(name: str, n: int, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    centers = name in ("soft_triple", "arcface, sub-centres")
    proxies = rng.normal(size=(classes, CENTERS, DIM) if centers else (classes, DIM)).astype(np.float32)
    labels = rng.integers(0, classes, n)
    own = proxies[labels, 0] if centers else proxies[labels]
    return (0.3 * own + rng.normal(size=own.shape)).astype(np.float32), labels, proxies


def compiled(loss: Callable, batch: tuple) -> tuple[Callable, float, jax.Array]:
    """Returns a function without arguments to time, its intermediate memory in bytes, and the loss."""
    batch = tuple(jax.device_put(x) for x in batch)
    program = jax.jit(jax.value_and_grad(loss, argnums=(0, 2))).lower(*batch).compile()

    def run():
        return jax.block_until_ready(program(*batch))

    return run, program.memory_analysis().temp_size_in_bytes, run()[0]


def torch_peer(name: str, batch: tuple) -> tuple[Callable, float] | None:
    """Returns a function without arguments to time, and the loss; None where nothing is installed."""
    try:
        import torch
        from pytorch_metric_learning import losses as peers
    except ImportError:
        return None
    x, labels, proxies = batch
    classes = len(proxies)
    make = {
        "norm_softmax": lambda: (peers.NormalizedSoftmaxLoss(classes, DIM, temperature=0.05), "W"),
        "cosface": lambda: (peers.CosFaceLoss(classes, DIM, margin=0.35, scale=64), "W"),
        "arcface": lambda: (peers.ArcFaceLoss(classes, DIM, margin=28.6, scale=64), "W"),
        "arcface, sub-centres": lambda: (
            peers.SubCenterArcFaceLoss(num_classes=classes, embedding_size=DIM, margin=28.6, scale=64, sub_centers=3),
            "W",
        ),
        "proxy_nca": lambda: (peers.ProxyNCALoss(classes, DIM, softmax_scale=9), "proxies"),
        "proxy_anchor": lambda: (peers.ProxyAnchorLoss(classes, DIM, margin=0.1, alpha=32), "proxies"),
        "soft_triple": lambda: (peers.SoftTripleLoss(classes, DIM, centers_per_class=CENTERS), "fc"),
    }
    loss, weight = make[name]()
    parameter = getattr(loss, weight)
    flat = torch.tensor(proxies.reshape(-1, DIM))
    with torch.no_grad():
        parameter.copy_(flat.T if parameter.shape[0] == DIM else flat)
    embeddings, labels = torch.tensor(x), torch.tensor(labels)

    def run():
        parameter.grad = None
        leaf = embeddings.clone().requires_grad_()
        value = loss(leaf, labels)
        value.backward()
        return value

    return run, run().item()


def main(names: list[str]) -> None:
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, dim {DIM}, value and gradients; ratios to ours\n")
    print_row("images", "classes", "loss", "ours, ms", "pytorch-metric-learning, ms", "memory, MB", "matrices")
    print_row(*["---"] * 7)
    ratios = []
    for (n, classes), rounds in SIZES.items():
        for name in names:
            batch = random_batch(name, n, classes)
            per_class = batch[2].size // (classes * DIM)
            matrix = 4 * n * classes * per_class
            ours, memory, value = compiled(LOSSES[name], batch)
            programs = {"ours": ours}
            if peer := torch_peer(name, batch):
                programs["peer"] = peer[0]
                np.testing.assert_allclose(value, peer[1], rtol=1e-4, err_msg=name)
            ms = {key: 1e3 * x for key, x in median_seconds(programs, rounds).items()}
            theirs = ""
            if peer:
                ratios.append(ms["peer"] / ms["ours"])
                theirs = f"{ms['peer']:.2f} ({ratios[-1]:.2f}x)"
            matrices = (memory - 8 * (batch[0].size + batch[2].size)) / matrix
            figures = f"{ms['ours']:.2f}", theirs, f"{memory / 1e6:.1f}", f"{matrices:.1f}"
            print_row(f"{n:,}", f"{classes:,}", name, *figures)
    if ratios:
        print(f"\nmedian ratio {statistics.median(ratios):.2f}x, smallest {min(ratios):.2f}x")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*LOSSES, []], help="losses; default all")
    main(parser.parse_args().names or [*LOSSES])
