"""Recall@k against the recorded values and a slow loop, with ties, lone classes and broken input."""

import numpy as np
import pytest

from symm_jax import metrics

RECORDED = np.load("tests/data/evaluation.npz")


@pytest.mark.parametrize("case", ["balanced", "many_classes", "imbalanced"])
@pytest.mark.parametrize("block_size", [64, 1024])
def test_recall_equals_the_recorded(case, block_size):
    ks = (1, 2, 4, 8, 10, 100)
    recall = metrics.recall_at_k(RECORDED[f"{case}/embeddings"], RECORDED[f"{case}/labels"], ks, block_size=block_size)
    assert recall == {k: pytest.approx(float(RECORDED[f"{case}/recall@{k}"]), abs=1e-9) for k in ks}


def test_recall_equals_a_slow_loop_with_lone_classes():
    rng = np.random.default_rng(0)
    embeddings, labels = rng.normal(size=(50, 4)), np.append(rng.integers(0, 8, 48), [90, 91])
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    found = {1: [], 5: []}
    for i in range(48):
        order = [j for j in np.argsort(-unit @ unit[i]) if j != i]
        for k in found:
            found[k].append(any(labels[j] == labels[i] for j in order[:k]))
    expected = {k: pytest.approx(np.mean(v)) for k, v in found.items()}
    assert metrics.recall_at_k(embeddings, labels, (1, 5), block_size=7) == expected


def test_a_collapsed_network_scores_nothing():
    assert metrics.recall_at_k(np.ones((6, 3)), np.repeat([0, 1], 3), (1, 2, 3, 4)) == {1: 0, 2: 0, 3: 0, 4: 1}


@pytest.mark.parametrize(
    ("embeddings", "labels", "ks", "message"),
    [
        (np.ones((3, 2)), np.zeros(4, int), (1,), r"\(3, 2\) and \(4,\)"),
        (np.full((3, 2), np.nan), np.zeros(3, int), (1,), "NaN"),
        (np.ones((3, 2)), np.zeros(3, int), (0,), "at least 1"),
        (np.ones((3, 2)), np.arange(3), (1,), "no class has two"),
    ],
)
def test_bad_input_is_named(embeddings, labels, ks, message):
    with pytest.raises(ValueError, match=message):
        metrics.recall_at_k(embeddings, labels, ks)
