"""The proxy losses against pytorch-metric-learning, loops in float64, several devices and bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import slow_proxy_losses as slow

from symm_jax import losses
from symm_jax.losses import PROXY_LOSSES

RECORDED = np.load("tests/records/proxy_losses.npz")
VARIANTS = PROXY_LOSSES | {
    "original proxy_nca": functools.partial(losses.proxy_nca_loss, with_positive=False, scale=1.0),
    "sub-centres": losses.arcface_loss,
    "soft_triple with regulariser": functools.partial(losses.soft_triple_loss, center_reg=0.2),
}
each_loss = pytest.mark.parametrize("name", VARIANTS)


def takes_centers(name):
    return "soft_triple" in name or name == "sub-centres"


def recorded_batch(case):
    return [RECORDED[f"{case}/{key}"] for key in ("embeddings", "labels", "proxies", "centers")]


def small_batch(n=8, classes=5):
    """Rows of some of the recorded classes; class 3 has none."""
    embeddings, labels, proxies, centers = recorded_batch("uneven")
    rows = np.flatnonzero((labels < classes) & (labels != 3))[:: 2 if n == 8 else 1][:n]
    assert len(rows) == n
    return [embeddings[rows], labels[rows], proxies[:classes], centers[:classes]]


def value_and_gradients(embeddings, labels, proxies, centers, **options):
    """{name: (value, (gradient, gradient of the proxies))} of every loss."""
    return {
        name: jax.value_and_grad(functools.partial(loss, **options), argnums=(0, 2))(
            embeddings, labels, centers if takes_centers(name) else proxies
        )
        for name, loss in VARIANTS.items()
    }


all_losses = jax.jit(value_and_gradients)  # one program for all batches of one shape


def assert_close(ours, theirs, name, rtol=1e-5, gradient_tolerance=1e-4):
    (value, gradients), (expected, expected_gradients) = ours, theirs
    np.testing.assert_allclose(value, expected, rtol=rtol, atol=1e-7, err_msg=name)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        atol = gradient_tolerance * np.abs(other).max() + 1e-9
        np.testing.assert_allclose(gradient, other, rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize("case", ["pairs", "mperclass", "uneven"])
def test_matches_pytorch_metric_learning(case):
    ours = all_losses(*recorded_batch(case))
    for name in PROXY_LOSSES:
        gradients = [RECORDED[f"{case}/{name}/{key}"] for key in ("gradient", "proxy_gradient")]
        assert_close(ours[name], (RECORDED[f"{case}/{name}/loss"], gradients), name)


@pytest.mark.parametrize(
    ("name", "options", "reference"),
    [
        ("arcface", {"degrees": 100.0, "scale": 4.0}, lambda x, y, p, **o: slow.arcface(x, y, p[:, None], **o)),
        ("sub-centres", {"degrees": 28.6, "scale": 8.0}, slow.arcface),
        ("original proxy_nca", {"scale": 2.0}, slow.proxy_nca),
        ("soft_triple", {"margin": 0.1, "scale": 5.0, "gamma": 0.3, "center_reg": 0.2}, slow.soft_triple),
    ],
    ids=["arcface beyond 180 degrees", "sub-centres", "original proxy_nca", "soft_triple with regulariser"],
)
def test_options_match_loops_in_float64(name, options, reference):
    embeddings, labels, proxies, centers = small_batch(n=12)
    embeddings[:3] *= -1  # angles beyond 90 degrees
    proxies = centers if takes_centers(name) else proxies
    expected = reference(embeddings.astype(np.float64), labels, proxies.astype(np.float64), **options)
    ours = jax.jit(functools.partial(VARIANTS[name], **options))(embeddings, labels, proxies)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


@pytest.mark.parametrize("devices", [2, 4])
def test_devices_that_share_the_batch_agree_with_one(devices):
    def run_device(*batch):
        local = value_and_gradients(*batch, axis_name="devices")
        return {name: (jax.lax.pmean((value, g[1]), "devices"), g[0]) for name, (value, g) in local.items()}

    batch = small_batch()
    whole = all_losses(*batch)
    split = [x.reshape(devices, -1, *x.shape[1:]) for x in batch[:2]]
    run = jax.pmap(run_device, axis_name="devices", in_axes=(0, 0, None, None))
    for name, ((values, of_proxies), gradients) in run(*split, *batch[2:]).items():
        # Each device's loss is a mean over 1 / devices of the rows.
        gradients = np.asarray(gradients).reshape(batch[0].shape) / devices
        for value, of_proxy in zip(values, of_proxies, strict=True):
            assert_close((value, (gradients, of_proxy)), whole[name], name, gradient_tolerance=2e-5)


@pytest.mark.parametrize("kind", ["zero", "identical", "one class of images", "one class", "huge", "tiny"])
def test_degenerate_batches_are_finite(kind):
    embeddings, labels, proxies, centers = (x.copy() for x in small_batch())
    if kind == "zero":
        embeddings[1], proxies[2], centers[2] = 0, 0, 0
    if kind == "identical":
        embeddings[:] = proxies[:] = centers[:] = embeddings[0]
    if kind == "one class of images":
        labels[:] = 1
    if kind == "one class":
        labels[:], proxies, centers = 0, proxies[:1], centers[:1]
    if kind in ("huge", "tiny"):
        factor = np.float32(1e37 if kind == "huge" else 1e-30)
        embeddings, proxies, centers = factor * embeddings, factor * proxies, factor * centers
    for name, result in all_losses(embeddings, labels, proxies, centers).items():
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(result)), name


def test_dtypes_and_transformations():
    batch = small_batch()

    def values(embeddings, labels, proxies, centers):
        own = {name: centers if takes_centers(name) else proxies for name in VARIANTS}
        return {name: loss(embeddings, labels, own[name]) for name, loss in VARIANTS.items()}

    ours = all_losses(*batch)
    half = jax.jit(values)(batch[0].astype(jnp.bfloat16), *batch[1:])  # proxies stay float32
    twice = [np.stack([x, x[::-1]]) for x in batch[:2]]
    mapped = jax.jit(jax.vmap(values, in_axes=(0, 0, None, None)))(*twice, *batch[2:])
    with jax.enable_x64(True):
        wide = jax.eval_shape(value_and_gradients, *(x.astype(np.float64) if x.dtype.kind == "f" else x for x in batch))
    for name, (value, _) in ours.items():
        assert half[name].dtype == np.float32, name
        np.testing.assert_allclose(half[name], value, rtol=0.05, atol=0.02, err_msg=name)
        np.testing.assert_allclose(mapped[name], [value, value], rtol=1e-5, err_msg=name)
        assert {x.dtype for x in jax.tree.leaves(wide[name])} == {np.dtype(np.float64)}, name


def test_labels_that_cannot_be_seen_give_nan_outside_the_proxies():
    batch = small_batch()
    for outside in (-1, 5):
        labels = batch[1].copy()
        labels[2] = outside
        for name, (value, _) in all_losses(batch[0], labels, *batch[2:]).items():
            assert np.isnan(value), name


@pytest.mark.parametrize("name", sorted(PROXY_LOSSES.keys() - {"soft_triple"}))
def test_online_products_step_in_little_memory(name):
    classes, n, dim = 11_318, 128, 64
    batch = (np.zeros((n, dim), np.float32), np.zeros(n, np.int32), np.zeros((classes, dim), np.float32))
    program = jax.jit(jax.value_and_grad(PROXY_LOSSES[name], argnums=(0, 2))).lower(*batch).compile()
    copies = 2 * 4 * classes * dim  # proxies of unit norm, and their gradient
    assert program.memory_analysis().temp_size_in_bytes <= 2 * 4 * n * classes + copies


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
    embeddings, labels, proxies, centers = small_batch()
    proxies = centers if takes_centers(name) else proxies
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
        batch = small_batch()
        VARIANTS[name](*batch[:2], batch[3 if takes_centers(name) else 2], **options)


@pytest.mark.usefixtures("without_shape_checks")
def test_a_number_of_proxies_that_the_loss_does_not_take_is_named():
    embeddings, labels, proxies, _ = small_batch()
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
    with pytest.raises(ValueError, match="'cosface' has one proxy per class; leave per_class out"):
        losses.init_proxies("cosface", key, 5, 6, per_class=3)
