"""Labels and embeddings of 64 bits: they keep their meaning, or are refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symm_jax import dtypes, losses, synthesis
from symm_jax.losses import adapters
from symm_jax.synthesis import ProxySynthesis

pytestmark = pytest.mark.usefixtures("without_shape_checks")
RNG = np.random.default_rng(0)
ANCHOR, POSITIVE = RNG.normal(size=(2, 4, 3)).astype(np.float32)
KEY = jax.random.key(0)
FAR = [5, 5 + 2**32, 7, 7 + 2**32]


@pytest.mark.parametrize("loss", losses.LOSSES.values(), ids=losses.LOSSES)
@pytest.mark.parametrize(
    "labels",
    [np.array(FAR), FAR, np.array(FAR, np.uint64), np.array([-(2**31) - 1, 0, 1, 2])],
    ids=["int64", "list", "uint64", "negative"],
)
def test_labels_that_int32_cannot_hold_are_refused(loss, labels):
    if adapters.takes_batch(loss):
        with pytest.raises(ValueError, match=r"labels contain integers that u?int32 cannot hold"):
            loss(ANCHOR, labels)
        loss = adapters.on_pairs(loss)
    with pytest.raises(ValueError, match=r"labels contain integers that u?int32 cannot hold.*np\.unique\(labels"):
        loss(ANCHOR, POSITIVE, labels)
    with pytest.raises(ValueError, match=r"int32 cannot hold"):  # inside jit too, where the labels are a constant
        jax.eval_shape(lambda a, p: loss(a, p, labels), ANCHOR, POSITIVE)


def test_labels_that_int32_holds_are_taken():
    for labels in ([0, 1, 1, 2], np.array([-9, 2**31 - 1, 0, -(2**31)]), np.array([0, 9, 9, 2**32 - 1], np.uint64)):
        assert dtypes.to_device(labels, "labels").tolist() == np.asarray(labels).tolist()
    for labels in (np.array([0.0, 1, 1, 2]), np.array([True, False, False, True]), [-1, 2**63, 0, 0]):
        with pytest.raises(ValueError, match=r"labels must be integers, got .*np\.unique"):
            losses.npair_loss(ANCHOR, POSITIVE, labels)


PROXIES = RNG.normal(size=(300, 3)).astype(np.float32)
WITH_PROXIES = [losses.norm_softmax_loss, losses.cosface_loss, losses.proxy_anchor_loss, losses.proxy_nca_loss]
WITH_PROXIES += [losses.arcface_loss, functools.partial(losses.norm_softmax_loss, synthesis=ProxySynthesis(KEY))]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint16, np.uint32])
@pytest.mark.parametrize("loss", WITH_PROXIES)
def test_labels_may_be_narrower_than_the_number_of_classes(loss, dtype):
    labels = np.array([44, 1, 100, 44])
    np.testing.assert_array_equal(loss(ANCHOR, labels.astype(dtype), PROXIES), loss(ANCHOR, labels, PROXIES))


def test_a_beta_of_each_class_is_found_by_narrow_labels():
    beta, labels = np.linspace(0.5, 1.5, 300, dtype=np.float32), np.array([44, 1, 100, 44])
    loss = jax.jit(functools.partial(losses.margin_loss, beta=beta))
    np.testing.assert_array_equal(loss(ANCHOR, labels.astype(np.int8)), loss(ANCHOR, labels))
    with pytest.raises(ValueError, match="from 0 to 299; they are -1 to 100"):
        losses.margin_loss(ANCHOR, np.array([-1, 1, 100, 44], np.int8), beta=beta)


def test_traced_labels_in_a_list():
    labels = [jnp.int32(i) for i in (0, 1, 1, 2)]
    assert jax.eval_shape(lambda *labels: losses.npair_loss(ANCHOR, POSITIVE, [*labels]), *labels).shape == ()


@pytest.mark.parametrize("number", [1e39, 1e-50])
@pytest.mark.parametrize(
    "function",
    [
        lambda a: losses.npair_loss(a, a, np.arange(4)),
        lambda a: losses.npair_loss(ANCHOR.astype(np.float64), a, np.arange(4)),
        lambda a: synthesis.symmetric(a, a),
        lambda a: synthesis.interpolated(a, a),
        lambda a: synthesis.points(jnp.zeros((4, 2, 2)), a, a),
    ],
)
def test_embeddings_that_float32_cannot_hold_are_refused(function, number):
    embeddings = ANCHOR.astype(np.float64)
    embeddings[2] = number
    with pytest.raises(ValueError, match=r"1 rows that float32 cannot hold.* row 2 is 1e"):
        function(embeddings)
