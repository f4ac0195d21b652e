"""Syntheses of classes against their equations in float64, on several devices, and in what has no meaning."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symm_jax import losses, queues, synthesis
from symm_jax.synthesis.classes import find_partners

CLASSES, DIM, IMAGES, STEPS, GAP = 5, 3, 6, 2, 1
KEY = jax.random.key(1)
LOSSES = {
    "norm_softmax": functools.partial(losses.norm_softmax_loss, temperature=0.2),
    "original proxy_nca": functools.partial(losses.proxy_nca_loss, with_positive=False, scale=2.0),
    "proxy_anchor": functools.partial(losses.proxy_anchor_loss, alpha=4.0),
}
KINDS = ("ProxySynthesis", "MemVir")


def batch():
    """Eight rows. Class 3 has none, and a run of class 2 goes round the end."""
    rng = np.random.default_rng(0)
    labels = np.array([2, 0, 0, 1, 1, 4, 2, 2], np.int32)
    return rng.normal(size=(8, DIM)).astype(np.float32), labels, rng.normal(size=(CLASSES, DIM)).astype(np.float32)


def history(number=7):
    rng = np.random.default_rng(1)
    x, p = (rng.normal(size=(number, n, DIM)).astype(np.float32) for n in (IMAGES, CLASSES))
    return x, rng.integers(0, CLASSES, (number, IMAGES), np.int32), p


def filled_queue(pushes):
    queue = queues.create(tuple(x[0] for x in history()), STEPS * (GAP + 1) + 1)
    for step in range(pushes):
        queue = queues.push(queue, tuple(x[step : step + 1] for x in history()))
    return queue


def value_and_gradients(x, y, p, queue, names=tuple(LOSSES), **options):
    """{(loss, kind): (value, gradients of embeddings and proxies)}."""
    objects = synthesis.ProxySynthesis(KEY), synthesis.MemVir(queue, STEPS, GAP)
    return {
        (name, kind): jax.value_and_grad(functools.partial(LOSSES[name], synthesis=made, **options), argnums=(0, 2))(
            x, y, p
        )
        for name in names
        for kind, made in zip(KINDS, objects, strict=True)
    }


on_one_device = jax.jit(value_and_gradients, static_argnames="names")  # one program for all batches


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def mix(x, y, p, lam):
    """The rows and classes of Proxy Synthesis."""
    rows, labels, proxies = list(unit(x)), list(y), list(unit(p))
    for i in range(len(x)):
        j = next((i - d) % len(x) for d in range(1, len(x)) if y[i - d] != y[i])
        rows.append(unit(lam * unit(x[i]) + (1 - lam) * unit(x[j])))
        labels.append(len(proxies))
        proxies.append(unit(lam * unit(p[y[i]]) + (1 - lam) * unit(p[y[j]])))
    return np.array(rows), np.array(labels), np.array(proxies)


def add_past(x, y, p, pushes):
    """The rows and classes of MemVir."""
    rows, labels, proxies = list(unit(x)), list(y), list(unit(p))
    for i in range(1, STEPS + 1):
        if (step := pushes - i * (GAP + 1)) >= 0:
            past_x, past_y, past_p = (part[step] for part in history())
            rows += list(unit(past_x.astype(np.float64)))
            labels += list(len(proxies) + past_y)  # a step before it exists too, so classes follow without gaps
            proxies += list(unit(past_p.astype(np.float64)))
    return np.array(rows), np.array(labels), np.array(proxies)


def norm_softmax(x, y, p):
    logits = x @ p.T / 0.2
    return np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y])


def proxy_nca(x, y, p):
    weights = np.exp(-2 * ((x[:, None] - p[None]) ** 2).sum(-1))
    own = weights[np.arange(len(y)), y]
    return np.mean(-np.log(own / (weights.sum(1) - own)))


def proxy_anchor(x, y, p):
    s, own = x @ p.T, y[:, None] == np.arange(len(p))[None, :]
    pull = np.log(1 + (own * np.exp(-4 * (s - 0.1))).sum(0))
    push = np.log(1 + (~own * np.exp(4 * (s + 0.1))).sum(0))
    return pull.sum() / own.any(0).sum() + push.mean()


EQUATIONS = dict(zip(LOSSES, (norm_softmax, proxy_nca, proxy_anchor), strict=True))


def differentiate(function, x):
    """The gradient by central differences."""
    gradient = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[place] = 1e-6
        gradient[place] = (function(x + step) - function(x - step)) / 2e-6
    return gradient


def assert_close(ours, theirs, name, rtol=1e-5):
    np.testing.assert_allclose(ours[0], theirs[0], rtol=rtol, err_msg=str(name))
    for gradient, expected in zip(ours[1], theirs[1], strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-5 * np.abs(expected).max(), err_msg=str(name))


@pytest.mark.parametrize("pushes", [0, 3, 7])  # so many of both virtual steps exist: none, one, both
def test_values_and_gradients_match_the_equations(pushes):
    x, y, p = batch()
    lam = float(jax.random.beta(KEY, 0.4, 0.4))
    assert 0.01 < lam < 0.99
    wide = x.astype(np.float64), p.astype(np.float64)
    for (name, kind), ours in on_one_device(x, y, p, filled_queue(pushes)).items():
        extend = (
            functools.partial(mix, lam=lam) if kind == "ProxySynthesis" else functools.partial(add_past, pushes=pushes)
        )

        def value(x, p, name=name, extend=extend):
            return EQUATIONS[name](*extend(x, y, p))

        gradients = (
            differentiate(lambda x, v=value: v(x, wide[1]), wide[0]),
            differentiate(lambda p, v=value: v(wide[0], p), wide[1]),
        )
        assert_close(ours, (value(*wide), gradients), (name, kind))


@pytest.mark.parametrize("devices", [2, 4])  # four do not divide the six virtual rows of a step
def test_devices_that_share_the_batch_agree_with_one(devices):
    x, y, p = batch()
    queue = filled_queue(4)

    def run_device(x, y):
        local = value_and_gradients(x, y, p, queue, ("norm_softmax", "proxy_anchor"), axis_name="devices")
        return {name: (jax.lax.pmean((value, g[1]), "devices"), g[0]) for name, (value, g) in local.items()}

    split = [part.reshape(devices, -1, *part.shape[1:]) for part in (x, y)]
    whole = on_one_device(x, y, p, queue)
    for name, ((values, of_proxies), gradients) in jax.pmap(run_device, axis_name="devices")(*split).items():
        gradients = np.asarray(gradients).reshape(x.shape) / devices
        assert_close((values[0], (gradients, of_proxies[0])), whole[name], name)


@pytest.mark.parametrize("kind", ["zero", "identical", "one class", "opposite", "huge", "empty queue"])
def test_degenerate_batches_are_finite(kind):
    x, y, p = batch()
    queue = filled_queue(0 if kind == "empty queue" else 7)
    if kind == "zero":
        x[1], p[2] = 0, 0
        queue = jax.tree.map(jnp.zeros_like, queue)._replace(written=queue.written)
    if kind == "identical":
        x[:] = p[:] = x[0]
        queue = queue._replace(entries=(jnp.full_like(queue.entries[0], x[0]), *queue.entries[1:]))
    if kind == "one class":
        y[:] = 1
    if kind == "opposite":
        x[1::2], p[1::2] = -x[0], -p[0]
        x[::2], p[::2] = x[0], p[0]
    if kind == "huge":
        x, p = np.float32(1e37) * x, np.float32(1e37) * p
    for name, result in on_one_device(x, y, p, queue).items():
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result)), name


def test_a_label_outside_the_proxies_gives_nan_and_is_no_synthetic_class():
    x, y, p = batch()
    y[3] = CLASSES
    for name, (value, _) in on_one_device(x, y, p, filled_queue(7)).items():
        assert np.isnan(value), name


def test_dtypes():
    x, y, p = batch()
    queue = filled_queue(7)
    whole = on_one_device(x, y, p, queue)
    half = on_one_device(x.astype(jnp.bfloat16), y.astype(np.uint8), p, queue, names=("norm_softmax",))
    for name, (value, gradients) in half.items():
        assert value.dtype == np.float32 and gradients[0].dtype == jnp.bfloat16
        np.testing.assert_allclose(value, whole[name][0], rtol=0.02, err_msg=str(name))
    with jax.enable_x64(True):
        wide = jax.eval_shape(
            value_and_gradients, x.astype(np.float64), y.astype(np.int64), p.astype(np.float64), queue
        )
    assert {leaf.dtype for leaf in jax.tree.leaves(wide)} == {np.dtype(np.float64)}


def test_partners_are_the_nearest_rows_before_of_another_class():
    np.testing.assert_array_equal(find_partners(jnp.array(batch()[1])), [5, 0, 0, 2, 2, 4, 5, 5])
    np.testing.assert_array_equal(find_partners(jnp.array([3, 3, 3])), [0, 1, 2])


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("loss", "made", "message"),
    [
        (
            "cosface",
            lambda queue: synthesis.symmetric,
            "cosface_loss takes .* MemVir.* A synthesis of points needs pairs",
        ),
        ("cosface", lambda queue: "memvir", "'memvir' is no synthesis"),
        (
            "soft_triple",
            lambda queue: synthesis.ProxySynthesis(KEY),
            "ProxySynthesis needs one proxy per class.* centres",
        ),
        ("arcface", lambda queue: synthesis.MemVir(queue, 1, 1), "MemVir needs one proxy per class"),
        ("cosface", lambda queue: synthesis.ProxySynthesis(None), "ProxySynthesis needs one PRNG key.* got None"),
        ("cosface", lambda queue: synthesis.ProxySynthesis(KEY, alpha=0), "alpha of ProxySynthesis must be .* got 0"),
        ("cosface", lambda queue: synthesis.MemVir(queue), r"must hold steps \(gap \+ 1\) = 495 steps or more"),
        ("cosface", lambda queue: synthesis.MemVir(queue, steps=0), "steps of MemVir must be an integer, 1 or more"),
        ("cosface", lambda queue: synthesis.MemVir(queue, 1, gap=-1), "gap of MemVir must be an integer, 0 or more"),
        (
            "cosface",
            lambda queue: synthesis.MemVir(queue.entries, 1),
            "queue of MemVir must be a symm_jax.queues.Queue",
        ),
    ],
)
def test_what_has_no_meaning_is_refused(loss, made, message):
    x, y, p = batch()
    proxies = p[:, None] if loss in ("soft_triple", "arcface") else p
    with pytest.raises(ValueError, match=message):
        losses.PROXY_LOSSES[loss](x, y, proxies, synthesis=made(filled_queue(1)))
