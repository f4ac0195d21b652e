"""The largest differences between every loss and its recorded reference: the table "parity" of docs/losses.md.

    python benchmarks/parity.py

It makes the comparisons of tests/losses, which fail above 1e-5 and 1e-4 (Smooth-AP and Recall@k: 1e-4 and 1e-3). Values
are compared relative to the recorded value, gradients relative to the largest entry of the recorded gradient.
"""

import importlib
import os
import sys
from pathlib import Path

import checkout  # noqa: F401
import jax
import numpy as np

from symm_jax import losses

TESTS = Path(__file__).resolve().parent.parent / "tests"
os.chdir(TESTS.parent)  # the records are named from there
sys.path[:0] = [str(TESTS), str(TESTS / "losses")]
batch, pair, proxy = (importlib.import_module(f"test_{name}losses") for name in ("batch_", "", "proxy_"))

PAIRS = {
    "triplet (all)": ("triplet_all", losses.triplet_loss, {"margin": 0.3}),
    "triplet (hard)": ("triplet_hard", losses.triplet_loss, {"margin": 0.3, "mining": "hard"}),
    "triplet (semihard)": ("triplet_semihard", losses.triplet_loss, {"margin": 0.3, "mining": "semihard"}),
    "lifted_structure": ("lifted_structure", losses.lifted_structure_loss, {"margin": 0.8}),
}


def compare(ours, theirs):
    """The relative differences of value and gradients."""
    (value, gradients), (expected, expected_gradients) = ours, theirs
    both = zip(gradients, expected_gradients, strict=True)
    pairs = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in both]
    return (
        abs(float(value) - float(expected)) / max(abs(float(expected)), 1e-7),
        max((np.abs(a - b).max() / max(np.abs(b).max(), 1e-9) for a, b in pairs), default=0.0),
    )


def original():
    """N-pair and Angular, with and without synthesis: outputs of the original's graph."""
    found = {}
    for case in pair.CASES:
        name, variant = case.split("/")
        arguments = [pair.RECORDED[f"{name}/{key}"] for key in ("anchor", "positive", "labels")]
        expected = pair.RECORDED[f"{case}/loss"], [pair.RECORDED[f"{case}/grad_{x}"] for x in ("anchor", "positive")]
        ours = pair.value_and_gradients(pair.recorded_loss(variant), arguments)
        found.setdefault(variant.split("|")[0], []).append(compare(ours, expected))
    return found


def triplets():
    """Triplet and Lifted-Structure: pytorch-metric-learning in float64."""
    record, found = np.load("tests/records/pytorch_metric_learning.npz"), {}
    arguments = record["anchor"].astype(np.float32), record["positive"].astype(np.float32), np.arange(12)
    for title, (name, loss, options) in PAIRS.items():
        expected = record[f"{name}/loss"], [record[f"{name}/grad_{x}"] for x in ("anchor", "positive")]
        ours = pair.value_and_gradients(lambda a, p, y, loss=loss, o=options: loss(a, p, y, **o), arguments)
        found[title] = [compare(ours, expected)]
    return found


def batches():
    """Batch losses: pytorch-metric-learning in float64; Smooth-AP and Recall@k: their formulas in float64."""
    found = {}
    for case in ("pairs", "mperclass", "uneven"):
        x, labels = batch.RECORDED[f"{case}/embeddings"].astype(np.float32), batch.RECORDED[f"{case}/labels"]
        for name in batch.LOSSES:
            value, gradient = batch.compiled(name)(x, labels)
            key = f"{case}/{name}/gradient"
            gradients = ([gradient], [batch.RECORDED[key]]) if key in batch.RECORDED else ([], [])
            theirs = batch.RECORDED[f"{case}/{name}/loss"], gradients[1]
            found.setdefault(name, []).append(compare((value, gradients[0]), theirs))
    return found


def proxies():
    """Proxy losses: pytorch-metric-learning in float64."""
    found = {}
    for case in ("pairs", "mperclass", "uneven"):
        ours = proxy.all_losses(*proxy.recorded_batch(case))
        for name in proxy.PROXY_LOSSES:
            gradients = [proxy.RECORDED[f"{case}/{name}/{key}"] for key in ("gradient", "proxy_gradient")]
            theirs = proxy.RECORDED[f"{case}/{name}/loss"], gradients
            found.setdefault(name, []).append(compare(ours[name], theirs))
    return found


def main():
    jax.config.update("jax_numpy_rank_promotion", "raise")
    print("| loss | value | gradients | cases |\n|---|---|---|---|")
    for part in (original, triplets, batches, proxies):
        for name, differences in part().items():
            value, gradient = np.max(differences, axis=0)
            print(f"| {name} | {value:.1e} | {gradient:.1e} | {len(differences)} |", flush=True)


if __name__ == "__main__":
    main()
