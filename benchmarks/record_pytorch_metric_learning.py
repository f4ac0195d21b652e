"""Writes tests/records/pytorch_metric_learning.npz: what pytorch-metric-learning gives where formulas coincide.

    pip install torch pytorch-metric-learning
    python benchmarks/record_pytorch_metric_learning.py

The file in the repository was made with pytorch-metric-learning 2.9.0 and torch 2.13.0, in float64.
"""

from pathlib import Path

import numpy as np
import torch
from pytorch_metric_learning import distances, losses, miners, reducers


def main():
    rng = np.random.default_rng(7)
    anchor = rng.normal(size=(12, 6))
    positive = anchor + 0.7 * rng.normal(size=(12, 6))
    record = {"anchor": anchor, "positive": positive}
    squared = distances.LpDistance(normalize_embeddings=True, p=2, power=2)
    triplet = losses.TripletMarginLoss(margin=0.3, distance=squared, reducer=reducers.MeanReducer())
    cases = {
        "triplet_all": (triplet, None),
        "triplet_hard": (triplet, miners.BatchHardMiner(distance=squared)),
        "triplet_semihard": (
            triplet,
            miners.BatchEasyHardMiner(pos_strategy="easy", neg_strategy="semihard", distance=squared),
        ),
        "lifted_structure": (
            losses.LiftedStructureLoss(neg_margin=0.8, distance=distances.LpDistance(normalize_embeddings=True, p=2)),
            None,
        ),
    }
    labels = torch.arange(12).repeat(2)
    for name, (loss, miner) in cases.items():
        pair = [torch.tensor(x, requires_grad=True) for x in (anchor, positive)]
        embeddings = torch.cat(pair)
        value = loss(embeddings, labels, miner(embeddings, labels) if miner else None)
        value.backward()
        record[f"{name}/loss"] = value.item()
        record[f"{name}/grad_anchor"], record[f"{name}/grad_positive"] = (x.grad.numpy() for x in pair)
        print(name, value.item())
    np.savez_compressed(Path(__file__).parents[1] / "tests/records/pytorch_metric_learning.npz", **record)


if __name__ == "__main__":
    main()
