"""The proxy losses against pytorch-metric-learning, loops in float64, several devices and bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import slow_proxy_losses as slow

from symm_jax import losses
from symm_jax.losses import PROXY_LOSSES

RECORDED = np.load("tests/data/proxy_losses.npz")
VARIANTS = PROXY_LOSSES | {
    "original proxy_nca": functools.partial(losses.proxy_nca_loss, with_positive=False, scale=1.0),
    "sub-centres": losses.arcface_loss,
    "soft_triple with regulariser": functools.partial(losses.soft_triple_loss, center_reg=0.2),
}
each_loss = pytest.mark.parametrize("name", VARIANTS)


def recorded_batch(case, name):
    several = "soft_triple" in name or name == "sub-centres"
    return [RECORDED[f"{case}/{key}"] for key in ("embeddings", "labels", "centers" if several else "proxies")]


def small_batch(name, n=8, classes=5):
    """Rows of some of the recorded classes; class 3 has none."""
    embeddings, labels, proxies = recorded_batch("uneven", name)
    rows = np.flatnonzero((labels < classes) & (labels != 3))[:: 3 if n < 9 else 1][:n]
    assert len(rows) == n
    return embeddings[rows], labels[rows], proxies[:classes]


@functools.cache
def value_and_gradients(name):
    """One program for all batches, so that batches of one shape are compiled once."""
    return jax.jit(jax.value_and_grad(VARIANTS[name], argnums=(0, 2)))


def assert_close(ours, theirs, rtol=1e-5, gradient_tolerance=1e-4):
    (value, gradients), (expected, expected_gradients) = ours, theirs
    np.testing.assert_allclose(value, expected, rtol=rtol, atol=1e-7)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(gradient, other, rtol=0, atol=gradient_tolerance * np.abs(other).max() + 1e-9)


@pytest.mark.parametrize("case", ["pairs", "mperclass", "uneven"])
@pytest.mark.parametrize("name", PROXY_LOSSES)
def test_matches_pytorch_metric_learning(name, case):
    gradients = [RECORDED[f"{case}/{name}/{key}"] for key in ("gradient", "proxy_gradient")]
    ours = value_and_gradients(name)(*recorded_batch(case, name))
    assert_close(ours, (RECORDED[f"{case}/{name}/loss"], gradients))


@pytest.mark.parametrize(
    ("name", "options", "reference"),
    [
        ("arcface", {"degrees": 100.0, "scale": 4.0}, lambda x, y, p, **o: slow.arcface(x, y, p[:, None], **o)),
        ("sub-centres", {"degrees": 28.6, "scale": 8.0}, slow.arcface),
        ("proxy_nca", {"scale": 1.0}, slow.proxy_nca),
        ("soft_triple", {"margin": 0.1, "scale": 5.0, "gamma": 0.3, "center_reg": 0.2}, slow.soft_triple),
    ],
    ids=["arcface beyond 180 degrees", "sub-centres", "original proxy_nca", "soft_triple with regulariser"],
)
def test_options_match_loops_in_float64(name, options, reference):
    batch = small_batch(name, n=12)
    batch[0][:3] *= -1  # angles beyond 90 degrees
    expected = reference(*(x.astype(np.float64) if x.dtype == np.float32 else x for x in batch), **options)
    given = {"with_positive": False} if name == "proxy_nca" else {}
    ours = VARIANTS[name](*batch, **options, **given)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


@each_loss
def test_devices_that_share_the_batch_agree_with_one(name):
    batch = small_batch(name)
    whole = value_and_gradients(name)(*batch)

    def run_device(embeddings, labels, proxies):
        local = functools.partial(VARIANTS[name], axis_name="devices")
        value, (gradient, of_proxies) = jax.value_and_grad(local, argnums=(0, 2))(embeddings, labels, proxies)
        return *jax.lax.pmean((value, of_proxies), "devices"), gradient

    for devices in (2, 4):
        split = [x.reshape(devices, -1, *x.shape[1:]) for x in batch[:2]]
        values, of_proxies, gradients = jax.pmap(run_device, axis_name="devices", in_axes=(0, 0, None))(
            *split, batch[2]
        )
        # Each device's loss is a mean over 1 / devices of the rows.
        gradients = np.asarray(gradients).reshape(batch[0].shape) / devices
        for value, of_proxy in zip(values, of_proxies, strict=True):
            assert_close((value, (gradients, of_proxy)), whole, gradient_tolerance=2e-5)


def degenerate_batches(name):
    for kind in ("zero", "identical", "one class of images", "huge", "tiny"):
        embeddings, labels, proxies = (x.copy() for x in small_batch(name))
        if kind == "zero":
            embeddings[1], proxies[2] = 0, 0
        if kind == "identical":
            embeddings[:] = proxies[:] = embeddings[0]
        if kind == "one class of images":
            labels[:] = 1
        if kind in ("huge", "tiny"):
            factor = np.float32(1e37 if kind == "huge" else 1e-30)
            embeddings, proxies = factor * embeddings, factor * proxies
        yield kind, (embeddings, labels, proxies)


@each_loss
def test_degenerate_batches_are_finite(name):
    for kind, batch in degenerate_batches(name):
        value, gradients = value_and_gradients(name)(*batch)
        assert all(np.isfinite(x).all() for x in (value, *gradients)), kind
    # An image on its proxy, and one class in all.
    embeddings, labels, proxies = small_batch(name)
    value, gradients = jax.value_and_grad(VARIANTS[name], argnums=(0, 2))(embeddings, 0 * labels, proxies[:1])
    assert all(np.isfinite(x).all() for x in (value, *gradients))


@each_loss
def test_dtypes_and_transformations(name):
    loss, batch = VARIANTS[name], small_batch(name)
    value, _ = value_and_gradients(name)(*batch)
    half = loss(batch[0].astype(jnp.bfloat16), *batch[1:])  # proxies stay float32
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, value, rtol=0.05, atol=0.02)
    twice = jax.vmap(loss, in_axes=(0, 0, None))(*(np.stack([x, x[::-1]]) for x in batch[:2]), batch[2])
    np.testing.assert_allclose(twice, [value, value], rtol=1e-5)
    with jax.enable_x64(True):
        embeddings, proxies = (x.astype(np.float64) for x in batch[::2])
        shapes = jax.eval_shape(jax.value_and_grad(loss, argnums=(0, 2)), embeddings, batch[1], proxies)
        assert {x.dtype for x in jax.tree.leaves(shapes)} == {np.dtype(np.float64)}


@each_loss
def test_labels_that_cannot_be_seen_give_nan_outside_the_proxies(name):
    embeddings, labels, proxies = small_batch(name)
    for outside in (-1, 5):
        labels = labels.copy()
        labels[2] = outside
        assert np.isnan(value_and_gradients(name)(embeddings, labels, proxies)[0])


def test_online_products_step_in_little_memory():
    classes, n, dim = 11_318, 128, 64
    shapes = [
        jax.ShapeDtypeStruct(s, t) for s, t in (((n, dim), "float32"), ((n,), "int32"), ((classes, dim), "float32"))
    ]
    for name in PROXY_LOSSES.keys() - {"soft_triple"}:
        program = jax.jit(jax.value_and_grad(PROXY_LOSSES[name], argnums=(0, 2))).lower(*shapes).compile()
        copies = 2 * 4 * classes * dim  # proxies of unit norm, and their gradient
        assert program.memory_analysis().temp_size_in_bytes <= 2 * 4 * n * classes + copies, name


@pytest.mark.usefixtures("without_shape_checks")
@each_loss
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y, p: (x[0], y, p), r"embeddings must be \(n, dim\), not empty; got \(48,\)"),
        (lambda x, y, p: (x[:0], y[:0], p), r"embeddings .* got \(0, 48\)"),
        (lambda x, y, p: (x, y, p[..., :7]), r"proxies must be \(classes, dim\) = \(classes, 48\) .* got \(5, .*7\)"),
        (lambda x, y, p: (x, y, p[:0]), r"proxies .* got \(0, "),
        (lambda x, y, p: (x, y, p[0, ..., 0]), r"proxies .* got \("),
        (lambda x, y, p: (x, y[:3], p), r"labels must be \(n,\) = \(8,\) .* got \(3,\)"),
        (lambda x, y, p: (x.astype(int), y, p), "embeddings must have a floating dtype, got int"),
        (lambda x, y, p: (x, y, p.astype(int)), "proxies must have a floating dtype, got int"),
        (lambda x, y, p: (x, y.astype(np.float32), p), "labels must be integers, .* got float32"),
        (lambda x, y, p: (x, y + 1, p), r"labels must be from 0 to 4, .* got 5 and"),
        (lambda x, y, p: (x, y - 1, p), "labels must be from 0 to 4, .* got -1 and"),
        (lambda x, y, p: (x, y + 2**32, p), "labels contain integers that int32 cannot hold"),
    ],
)
def test_wrong_arguments_are_named(name, change, message):
    embeddings, labels, proxies = small_batch(name)
    with pytest.raises(ValueError, match=message):
        VARIANTS[name](*change(embeddings, labels.astype(np.int64), proxies))


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("norm_softmax", {"temperature": 0.0}, "temperature must be .* above 0; got 0.0"),
        ("cosface", {"margin": -0.1}, "margin must be .* 0 or more; got -0.1"),
        ("cosface", {"scale": 0}, "scale must be .* above 0; got 0"),
        ("arcface", {"degrees": 180.0}, "degrees must be below 180, got 180.0"),
        ("arcface", {"scale": float("inf")}, "scale must be .* finite"),
        ("proxy_nca", {"scale": "9"}, "scale must be a Python number, .* got '9'"),
        ("proxy_nca", {"with_positive": 1}, "with_positive must be True or False, got 1"),
        ("proxy_anchor", {"alpha": 0.0}, "alpha must be .* above 0; got 0.0"),
        ("soft_triple", {"gamma": 0.0}, "gamma must be .* above 0; got 0.0"),
        ("soft_triple", {"center_reg": -1.0}, "center_reg must be .* 0 or more; got -1.0"),
        ("norm_softmax", {"l2_normalize": "False"}, "l2_normalize must be True or False, got 'False'"),
    ],
)
def test_wrong_options_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        VARIANTS[name](*small_batch(name), **options)


@pytest.mark.usefixtures("without_shape_checks")
def test_a_number_of_proxies_that_the_loss_does_not_take_is_named():
    embeddings, labels, proxies = small_batch("norm_softmax")
    with pytest.raises(ValueError, match=r"soft_triple_loss takes proxies \(classes, per class, dim\), got \(5, 48\)"):
        losses.soft_triple_loss(embeddings, labels, proxies)
    for loss in (losses.norm_softmax_loss, losses.cosface_loss, losses.proxy_nca_loss, losses.proxy_anchor_loss):
        with pytest.raises(ValueError, match=rf"{loss.__name__} takes proxies \(classes, dim\), got \(5, 1, 48\)"):
            loss(embeddings, labels, proxies[:, None])


def test_first_proxies_are_those_of_the_papers():
    key = jax.random.key(0)
    for name, deviation in {
        "norm_softmax": 64**-0.5 / 3**0.5,
        "cosface": 64**-0.5 / 3**0.5,
        "arcface": 64**-0.5 / 3**0.5,
        "proxy_nca": 1 / 8,
        "proxy_anchor": (2 / 500) ** 0.5,
        "soft_triple": (500 * 2) ** -0.5 / 3**0.5,
    }.items():
        per_class = 2 if name == "soft_triple" else None
        proxies = losses.init_proxies(name, key, 500, 64, per_class=per_class)
        assert proxies.shape == ((500, 2, 64) if per_class else (500, 64))
        np.testing.assert_allclose(np.std(proxies), deviation, rtol=0.02, err_msg=name)
        assert abs(np.mean(proxies)) < deviation / 20
    with pytest.raises(ValueError, match="unknown proxy loss 'proxy_anker'.*proxy_anchor"):
        losses.init_proxies("proxy_anker", key, 5, 6)
    with pytest.raises(ValueError, match="classes of 'arcface' must be an integer, 1 or more; got 0"):
        losses.init_proxies("arcface", key, 0, 6)
