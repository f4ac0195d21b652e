"""New classes beside proxies: synthetic rows and columns of the matrix of images and proxies.

A proxy loss is a formula over the cosines of n images and C proxies. A synthesis of classes makes a larger matrix of
the same meaning: more rows, which are embeddings, and more columns, which are the proxies of synthetic classes. The
formula does not change. losses/proxy_loss.py applies it.

It needs one proxy per class. With several, centre k of one class and centre k of another have nothing in common.
The numbers of a synthesis are fixed at compilation: create it inside the function that is compiled.
"""

import numbers
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from symm_jax import dtypes, queues, similarity
from symm_jax.queues import Queue


class ProxySynthesis(NamedTuple):
    """Proxy Synthesis (Gu et al., AAAI 2021): mixtures of two images, each a class of its own.

    Row i of the batch gets the partner j, the nearest row before it that is of another class; the first row follows the
    last. With one lam ~ Beta(alpha, alpha) for the batch,

        x~_i = l2(lam x_i + (1 - lam) x_j),    p~_i = l2(lam p_(y_i) + (1 - lam) p_(y_j))

    where l2 scales to unit norm, and p_(y_i) is the proxy of the class of row i. p~_i is the proxy of x~_i. So n rows
    and C proxies become 2 n rows and C + n proxies. In a batch of one class, j = i.

    Across devices, partners and synthetic proxies are those of the whole batch, in the order of the devices.

    Args:
      key: PRNG key, another one in each step, the same on every device.
      alpha: both parameters of the Beta distribution, above 0.

    Example:
      >>> import jax
      >>> from symm_jax.losses import norm_softmax_loss
      >>> def loss(embeddings, labels, proxies, key):
      ...     return norm_softmax_loss(embeddings, labels, proxies, synthesis=ProxySynthesis(key))
      >>> loss = jax.jit(loss)
    """

    key: Key[Array, ""]
    alpha: float = 0.4

    place = "makes new classes beside proxies, so it goes with the proxy losses of one proxy per class"


class MemVir(NamedTuple):
    """MemVir (Ko et al., ICCV 2021): the embeddings and proxies of past steps as virtual classes.

    Virtual step i = 1 .. `steps` is what was pushed i (gap + 1) steps ago: embeddings, with their labels, and the
    proxies of all classes. Its class c is a class of its own, c + i C. Every row, current or virtual, is compared with
    every proxy, current or virtual, and the loss is the mean over all rows. No gradient passes through the queue. A
    step that was not pushed yet has neither rows nor classes.

    n rows and C proxies become (1 + steps) n and (1 + steps) C. The queue takes 4 steps (gap + 1) (images dim + images
    + C dim) bytes on every device: 229 MB for 128 images, 98 classes, 512 dimensions and the defaults, which are the
    paper's for the normalised softmax.

    Across devices, virtual rows are divided among the devices.

    Args:
      queue: of (embeddings (images, dim), labels (images,), proxies (classes, dim)) per step, of at least
        steps (gap + 1) steps. `losses.create_queues` creates it in training.
      steps: number of virtual steps, 1 or more.
      gap: steps that are left out between two of them, 0 or more.

    Example:
      >>> import jax
      >>> from symm_jax import queues
      >>> from symm_jax.losses import norm_softmax_loss
      >>> def loss(embeddings, labels, proxies, queue):
      ...     value = norm_softmax_loss(embeddings, labels, proxies, synthesis=MemVir(queue, steps=5, gap=1))
      ...     new = embeddings[None], labels[None], proxies[None]  # one step, to be kept
      ...     return value, queues.push(queue, new)
      >>> loss = jax.jit(loss)
    """

    queue: Queue
    steps: int = 45
    gap: int = 10

    place = ProxySynthesis.place


class Classes(NamedTuple):
    """Rows and classes of a proxy loss, float32 or float64. The masks are None where all of them exist."""

    embeddings: jax.Array  # (rows, dim)
    labels: jax.Array  # (rows,), rows of `proxies`; others are unknown
    proxies: jax.Array  # (classes, dim) or (classes, per class, dim)
    number: jax.Array | int  # of rows that exist, as a mean over the devices
    row_exists: jax.Array | None = None  # (rows,) bool
    class_exists: jax.Array | None = None  # (classes,) bool


def extend(synthesis: ProxySynthesis | MemVir, real: Classes, *, l2_normalize: bool, axis_name: str | None) -> Classes:
    """The rows and classes with the synthetic ones, which follow the real ones.

    Args:
      synthesis: the synthesis.
      real: the rows of this device, and all classes, (classes, dim).
      l2_normalize: whether the rows and proxies were scaled to unit norm.
      axis_name: the mapped axis that splits the batch, or None.

    Raises:
      ValueError: an option or a queue is wrong.
    """
    known = (real.labels >= 0) & (real.labels < len(real.proxies))
    # An unknown label would be that of a synthetic class.
    real = real._replace(labels=jnp.where(known, real.labels, -1))
    if isinstance(synthesis, ProxySynthesis):
        return _mix(synthesis, real, axis_name)
    return _add_past(synthesis, real, l2_normalize, axis_name)


def _mix(synthesis: ProxySynthesis, real: Classes, axis_name: str | None) -> Classes:
    key, alpha = synthesis
    if not isinstance(alpha, numbers.Real) or not 0 < alpha < float("inf"):
        raise ValueError(f"alpha of ProxySynthesis must be a finite number above 0, got {alpha!r}")
    dtypes.require_key(key, "ProxySynthesis")
    x, y, p, n, *_ = real
    everyone, labels = similarity.gather((x, y), axis_name)
    partner = find_partners(labels)
    lam = jax.random.beta(key, alpha, alpha, dtype=p.dtype)

    def mix(a, b):
        return similarity.normalize(lam * a + (1 - lam) * b)

    first = 0 if axis_name is None else n * jax.lax.axis_index(axis_name)
    own = first + jnp.arange(n, dtype=y.dtype)
    return Classes(
        embeddings=jnp.concatenate([x, mix(x, everyone[partner[own]])]),
        labels=jnp.concatenate([y, len(p) + own]),
        proxies=jnp.concatenate([p, mix(p[labels], p[labels[partner]])]),
        number=2 * n,
    )


def find_partners(labels: jax.Array) -> jax.Array:
    """The nearest row before each row that has another label, cyclic, (n,). With one label, the row itself."""
    n = len(labels)
    rows = jnp.arange(n)
    begins = labels != jnp.roll(labels, 1)  # of a run of equal labels: its partner is the row before the run
    latest = jax.lax.cummax(jnp.where(begins, rows, -1))
    latest = jnp.where(latest < 0, latest[-1], latest)  # a run that goes round the end began there
    return jnp.where(jnp.any(begins), (latest - 1) % n, rows)


def _add_past(synthesis: MemVir, real: Classes, l2_normalize: bool, axis_name: str | None) -> Classes:
    queue, steps, gap = synthesis
    _check_queue(synthesis, real.proxies)
    x, y, p, n, *_ = real
    classes, dim = p.shape
    ago = (gap + 1) * jnp.arange(1, steps + 1)
    (past_x, past_y, past_p), exists = queues.take(queue, ago - 1)  # the newest entry is one step old
    images = past_x.shape[1]
    # This device's share of the virtual rows. The last rows may be a fill, where the devices do not divide them.
    devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    share = -(-images // devices)
    if axis_name is not None:
        own = share * jax.lax.axis_index(axis_name) + jnp.arange(share)
        past_x, past_y = (jnp.take(part, own, axis=1, mode="clip") for part in (past_x, past_y))
        is_row = exists[:, None] & (own < images)[None, :]
    else:
        is_row = jnp.broadcast_to(exists[:, None], (steps, images))
    known = (past_y >= 0) & (past_y < classes)
    past_y = jnp.where(known, past_y + classes * jnp.arange(1, steps + 1)[:, None], -1)
    past_x, past_p = past_x.reshape(-1, dim).astype(x.dtype), past_p.reshape(-1, dim).astype(p.dtype)
    if l2_normalize:
        past_x, past_p = similarity.normalize(past_x), similarity.normalize(past_p)
    return Classes(
        embeddings=jnp.concatenate([x, past_x]),
        labels=jnp.concatenate([y, past_y.reshape(-1).astype(y.dtype)]),
        proxies=jnp.concatenate([p, past_p]),
        number=n + jnp.sum(exists, dtype=p.dtype) * (images / devices),
        row_exists=jnp.concatenate([jnp.ones(n, bool), is_row.reshape(-1)]),
        class_exists=jnp.concatenate([jnp.ones(classes, bool), jnp.repeat(exists, classes)]),
    )


def _check_queue(synthesis: MemVir, proxies: jax.Array) -> None:
    queue, steps, gap = synthesis
    for name, value, least in (("steps", steps, 1), ("gap", gap, 0)):
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
            raise ValueError(f"{name} of MemVir must be an integer, {least} or more; got {value!r}")
    shapes = jax.tree.map(jnp.shape, queue.entries) if isinstance(queue, Queue) else None
    if not isinstance(shapes, tuple) or len(shapes) != 3 or [len(shape) for shape in shapes] != [3, 2, 3]:
        raise ValueError(
            "queue of MemVir must be a symm_jax.queues.Queue with the entries (embeddings (size, images, dim), labels "
            f"(size, images), proxies (size, classes, dim)); got {shapes or type(queue).__name__}"
        )
    x, y, p = shapes
    size, needed = x[0], steps * (gap + 1)
    if size < needed or y != x[:2] or p != (size, *proxies.shape) or x[2] != p[2]:
        raise ValueError(
            f"queue of MemVir must hold steps (gap + 1) = {needed} steps or more, of embeddings (images, dim), labels "
            f"(images,) and proxies (classes, dim) = {proxies.shape}; its entries are {shapes}"
        )
