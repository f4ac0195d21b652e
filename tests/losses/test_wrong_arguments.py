"""Wrong arguments and options of losses: each error names what is wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symm_jax import losses, queues, synthesis

X = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
CLASSES = np.array([0, 0, 1, 2, 0, 2, 3, 3])
PAIRS = (np.ones((8, 6), np.float32), np.ones((8, 6), np.float32), np.arange(8))
ASYMMETRIC = np.eye(8, dtype=bool)
ASYMMETRIC[2, 5] = True
QUEUE = queues.create((jax.ShapeDtypeStruct((5,), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)), 5)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    "loss", [losses.npair_loss, losses.angular_loss, losses.triplet_loss, losses.lifted_structure_loss]
)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, p, l: (a, p[:3], l), r"\(8, 6\) and \(3, 6\)"),
        (lambda a, p, l: (a[0], p[0], l), r"\(6,\)"),
        (lambda a, p, l: (a[:0], p[:0], l[:0]), r"\(0, 6\)"),
        (lambda a, p, l: (a, p, l[:2]), r"\(2,\)"),
        (lambda a, p, l: (a.astype(int), p.astype(int), l), "int"),
        (lambda a, p, l: (a, p.astype(jnp.bfloat16), l), "float32 and bfloat16"),
        (lambda a, p, l: (a, p, l.astype(np.float32)), "float32"),
        (lambda a, p, l: (a, p, l.astype(str)), "must be arrays of numbers"),
        (lambda a, p, l: (a, p, None), "must be arrays of numbers"),
    ],
)
def test_wrong_arguments_of_pair_losses(loss, change, message):
    with pytest.raises(ValueError, match=message):
        loss(*change(*PAIRS))


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        (losses.npair_loss, {"candidates": "all"}, "candidates must be one of"),
        (losses.npair_loss, {"positives": "own"}, "positives must be mined or original, got 'own'"),
        (losses.npair_loss, {"block_size": 0}, "block_size .* got 0"),
        (losses.npair_loss, {"with_winners": True, "synthesis": None}, "with_winners needs a synthesis"),
        (losses.angular_loss, {"degrees": 90}, "degrees must be between 0 and 90, got 90"),
        (losses.angular_loss, {"degrees": "45"}, "degrees must be a Python number, .* got '45'"),
        (losses.npair_loss, {"scale": -16.0}, "scale must be .* above 0; got -16.0"),
        (losses.npair_loss, {"scale": "16"}, "scale"),
        (losses.npair_loss, {"l2_reg": -5.0}, "l2_reg must be .* 0 or more; got -5.0"),
        (losses.npair_loss, {"l2_normalize": "False"}, "l2_normalize must be True or False, got 'False'"),
        (losses.npair_loss, {"synthesis": "symmetric"}, "synthesis must be a function, .* got 'symmetric'"),
        (losses.npair_loss, {"candidates": [(0, 1)]}, "candidates must be one of"),
        (losses.triplet_loss, {"mining": "semi"}, "mining must be all, semihard or hard; got 'semi'"),
        (losses.triplet_loss, {"margin": -1.0}, "margin"),
        (losses.lifted_structure_loss, {"margin": float("nan")}, "margin"),
    ],
)
def test_wrong_options_of_pair_losses(loss, options, message):
    with pytest.raises(ValueError, match=message):
        loss(*PAIRS, **({"synthesis": synthesis.symmetric} | options))


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((X[0], CLASSES), {}, r"embeddings must be \(n, dim\), or \(n, 2, dim\) .* got \(5,\)"),
        ((X[:0], CLASSES[:0]), {}, r"not empty; got \(0, 5\)"),
        ((X.reshape(2, 4, 5), CLASSES[:2]), {}, r"got \(2, 4, 5\)"),
        ((X.astype(int), CLASSES), {}, "embeddings must have a floating dtype, got int"),
        ((X, CLASSES[:3]), {}, r"labels must be \(n,\) = \(8,\).* got \(3,\)"),
        ((X, CLASSES.astype(np.float32)), {}, "labels must be integers, got float32"),
        ((X, None), {}, "give either labels"),
        ((X, CLASSES), {"positives": np.eye(8, dtype=bool)}, "give either labels"),
        ((X, None), {"positives": np.eye(7, dtype=bool)}, r"positives must be \(8, 8\) bool, .* got \(7, 7\) bool"),
        ((X, None), {"positives": np.eye(8)}, r"positives must be .* got \(8, 8\) float64"),
        ((X, None), {"positives": ASYMMETRIC}, r"symmetric; 2 entries are not, such as \(2, 5\): True and False"),
        (
            (X, CLASSES),
            {"synthesis": synthesis.symmetric},
            r"a synthesis of points needs pairs: embeddings \(n, 2, dim\)",
        ),
        ((X, CLASSES), {"synthesis": "symmetric"}, "synthesis must be a function, .* got 'symmetric'"),
        ((X, CLASSES), {"queue": 4096}, r"queue must be a symm_jax.queues.Queue with .* got int"),
        ((X, CLASSES), {"queue": QUEUE._replace(entries=(X,))}, r"queue must be .* got \(\(8, 5\),\)"),
        ((X[:, 1:], CLASSES), {"queue": QUEUE}, r"embeddings \(size, 4\) and .* got \(5, 5\) and \(5,\)"),
        ((X, CLASSES), {"queue": QUEUE._replace(entries=(X, 1.0 * CLASSES))}, "integer labels; got .* float32"),
        ((X, None), {"queue": QUEUE, "positives": np.eye(8, dtype=bool)}, "positives say nothing about"),
        (
            (X.reshape(4, 2, 5), CLASSES[:4]),
            {"queue": QUEUE, "synthesis": synthesis.symmetric},
            "a queue holds images, not pairs",
        ),
        ((X, CLASSES), {"with_winners": True}, "with_winners needs a synthesis"),
        ((X, CLASSES), {"block_size": 0}, "block_size .* got 0"),
        ((X, CLASSES), {"l2_normalize": 1}, "l2_normalize must be True or False, got 1"),
        ((X, CLASSES), {"candidates": "all"}, "candidates must be one of"),
        ((X, CLASSES), {"temperature": 0}, "temperature must be .* above 0; got 0"),
        ((X, CLASSES), {"temperature": float("nan")}, "temperature must be .* got nan"),
    ],
)
def test_wrong_arguments_of_batch_losses(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        losses.supcon_loss(*arguments, **options)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("contrastive", {"negative_margin": -1.0}, "negative_margin must be .* got -1.0"),
        ("multi_similarity", {"beta": 0.0}, "beta must be .* above 0; got 0.0"),
        ("multi_similarity", {"mining": "own"}, "mining must be all or hard; got 'own'"),
        ("ntxent", {"temperature": 0.0}, "temperature must be .* above 0; got 0.0"),
        ("circle", {"gamma": "80"}, "gamma must be .* got '80'"),
        ("margin", {"mining": "distance_weighted"}, "needs one PRNG key, .* got None"),
        ("margin", {"mining": "distance_weighted", "key": 3}, "needs one PRNG key, .* got 3"),
        ("margin", {"mining": "hard"}, "mining must be all or distance_weighted; got 'hard'"),
        ("margin", {"beta": np.ones(3, np.float32)}, "labels must index beta, from 0 to 2; they are 0 to 3"),
        ("margin", {"beta": np.ones((4, 2), np.float32)}, r"beta must be .* got float32 \(4, 2\)"),
        ("smooth_ap", {"temperature": 0.0}, "temperature must be .* above 0; got 0.0"),
        ("recall_at_k", {"ks": ()}, r"ks must be integers above 0, one at least; got \(\)"),
        ("recall_at_k", {"ks": (0, 1)}, r"got \(0, 1\)"),
        ("recall_at_k", {"rank_temperature": 0}, "rank_temperature must be .* got 0"),
    ],
)
def test_wrong_options_of_batch_losses(name, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(losses, f"{name}_loss")(X, CLASSES, **options)
    if name == "margin" and "beta" in options:
        with pytest.raises(ValueError, match="needs labels|beta must be"):
            losses.margin_loss(X, None, positives=np.eye(8, dtype=bool), **options)
