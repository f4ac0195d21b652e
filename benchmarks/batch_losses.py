"""Time and memory of value and gradient of the batch losses, compared with pytorch-metric-learning.

    pip install torch pytorch-metric-learning  # optional: their column
    python benchmarks/batch_losses.py          # the tables, about three minutes on two cores

Embeddings have 512 dimensions, four images per class. Rounds alternate between the two programs. A time is the median
over the rounds. Values are compared too, except those of Smooth-AP, where theirs is not the paper's equation.
pytorch-metric-learning has no Recall@k surrogate. It may use 6 GB: "memory" means that it needs more. Memory is what
XLA reserves for the intermediate arrays of n = 16,384, where losses work in blocks.
"""

import functools
import resource

import checkout  # noqa: F401
import jax
import jax.numpy as jnp
import numpy as np
from losses import DIM, median_seconds, print_row

from symm_jax import losses

ROUNDS = {256: 20, 2048: 4}
PEER_BYTES = 6e9
LOSSES = {
    "Contrastive": (losses.contrastive_loss, lambda peers: peers.ContrastiveLoss()),
    "Multi-Similarity": (losses.multi_similarity_loss, lambda peers: peers.MultiSimilarityLoss()),
    "Multi-Similarity, mined": (functools.partial(losses.multi_similarity_loss, mining="hard"), None),
    "SupCon": (losses.supcon_loss, lambda peers: peers.SupConLoss()),
    "NT-Xent": (losses.ntxent_loss, lambda peers: peers.NTXentLoss(temperature=0.07)),
    "Circle": (losses.circle_loss, lambda peers: peers.CircleLoss()),
    "Margin": (losses.margin_loss, lambda peers: peers.MarginLoss(triplets_per_anchor="all")),
    "Smooth-AP": (losses.smooth_ap_loss, lambda peers: peers.SmoothAPLoss()),
    "Recall@k": (losses.recall_at_k_loss, None),
}


def random_batch(n):
    """Embeddings about as similar as those of a network in training."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) // 4
    return (rng.normal(size=(n // 4, DIM))[labels] + rng.normal(size=(n, DIM))).astype(np.float32), labels


def compiled(loss):
    return jax.jit(jax.value_and_grad(loss))


def torch_peer(name, batch):
    """Returns value and gradient of the peer's loss as a function without arguments, or None."""
    try:
        import torch
        from pytorch_metric_learning import losses as peers
        from pytorch_metric_learning import miners
    except ImportError:
        return None
    if name == "Multi-Similarity, mined":
        loss, miner = peers.MultiSimilarityLoss(), miners.MultiSimilarityMiner()
    elif make := LOSSES[name][1]:
        loss, miner = make(peers), None
    else:
        return None
    x, labels = (torch.tensor(a) for a in batch)

    def run():
        embeddings = x.clone().requires_grad_()
        value = loss(embeddings, labels, miner(embeddings, labels)) if miner else loss(embeddings, labels)
        value.backward()
        return float(value.detach())

    return run


def compare(n, rounds):
    batch = random_batch(n)
    for name, (loss, _) in LOSSES.items():
        program = compiled(loss).lower(*batch).compile()
        arguments = [jax.device_put(a) for a in batch]
        programs = {"ours": lambda p=program, a=arguments: jax.block_until_ready(p(*a))}
        note = ""
        if peer := torch_peer(name, batch):
            try:
                value = peer()
                if name != "Smooth-AP":  # theirs is not the paper's equation
                    np.testing.assert_allclose(programs["ours"]()[0], value, rtol=2e-3)
                programs["peer"] = peer
            except (RuntimeError, MemoryError):
                note = "memory"
        ms = {key: 1e3 * x for key, x in median_seconds(programs, rounds).items()}
        if "peer" in ms:
            note = f"{ms['peer']:.1f} ({ms['peer'] / ms['ours']:.1f}x)"
        print_row(f"{n:,}", name, f"{ms['ours']:.2f}", note)


def main():
    limit = resource.getrlimit(resource.RLIMIT_DATA)[1]
    jax.devices()
    resource.setrlimit(resource.RLIMIT_DATA, (int(PEER_BYTES), limit))
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, dim {DIM}, value and gradient\n")
    print_row("images", "loss", "ours, ms", "pytorch-metric-learning, ms")
    print_row(*["---"] * 4)
    for n, rounds in ROUNDS.items():
        compare(n, rounds)
    print()
    print_row("loss", "memory of 16,384 images, MB")
    print_row(*["---"] * 2)
    shapes = jax.ShapeDtypeStruct((16_384, DIM), jnp.float32), jax.ShapeDtypeStruct((16_384,), jnp.int32)
    for name, (loss, _) in LOSSES.items():
        memory = compiled(loss).lower(*shapes).compile().memory_analysis().temp_size_in_bytes
        print_row(name, f"{memory / 1e6:.0f}")


if __name__ == "__main__":
    main()
