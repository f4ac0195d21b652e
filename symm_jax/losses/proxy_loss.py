"""The common part of the proxy losses: checks of arguments, cosines of images and proxies, and the cross-entropy.

A proxy is a learnt vector that stands for a class. A proxy loss compares each image with the proxies of all classes
instead of with other images. Each loss is a formula over one matrix, the cosines (n, classes):

    batch = prepare("my_loss", embeddings, labels, proxies, ...)  # checked, of unit norm
    values = cosines(batch)  # (n, classes)
    target = own(batch, values)  # (n,), of each image with the proxy of its class
    return cross_entropy(batch, scale * values, scale * (target - margin))

A synthesis of classes (synthesis/classes.py) acts within `prepare`: it adds rows to the batch, and classes to the
proxies. The formulas then see a larger matrix. Rows and classes of it may not exist yet: `mean` and `is_other` leave
them out.

Across devices the rows are split, and every device has all proxies. The value is the mean over the rows of this device.
The gradient of the proxies is then that of this device's rows. The mean over the devices is the gradient of the whole
batch, as for the parameters of the network.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer

from symm_jax import dtypes, similarity
from symm_jax.losses import pair_loss
from symm_jax.synthesis.classes import Classes, MemVir, ProxySynthesis, extend

Embeddings = Float[ArrayLike, "n dim"]
Labels = Integer[ArrayLike, " n"]
Proxies = Float[ArrayLike, "classes dim"]
Centers = Float[ArrayLike, "classes per_class dim"]
Loss = Float[Array, ""]
Synthesis = ProxySynthesis | MemVir | None


def prepare(
    loss: str,
    embeddings: ArrayLike,
    labels: ArrayLike,
    proxies: ArrayLike,
    *,
    synthesis: Synthesis,
    l2_normalize: bool,
    axis_name: str | None,
    dimensions: tuple[int, ...] = (2,),
) -> Classes:
    """Checks the arguments of a proxy loss, and applies its synthesis.

    With `l2_normalize`, embeddings and proxies get unit norm.

    Args:
      loss: the function's name, for messages.
      embeddings: (n, dim).
      labels: (n,).
      proxies: (classes, dim) or (classes, per class, dim).
      synthesis: an option of all proxy losses.
      l2_normalize: an option of all proxy losses.
      axis_name: an option of all proxy losses.
      dimensions: the numbers of dimensions of proxies that the loss takes.

    Raises:
      ValueError: shapes, dtypes, labels or options do not fit.
    """
    x, p = dtypes.to_device(embeddings, "embeddings"), dtypes.to_device(proxies, "proxies")
    y = dtypes.to_device(labels, "labels")
    _check(x, y, p, l2_normalize)
    if p.ndim not in dimensions:
        shapes = {2: "(classes, dim)", 3: "(classes, per class, dim)"}
        raise ValueError(f"{loss} takes proxies {' or '.join(shapes[d] for d in dimensions)}, got {p.shape}")
    _check_range(labels, len(p))
    _check_synthesis(loss, synthesis, p)
    dtype = jnp.promote_types(jnp.promote_types(x.dtype, p.dtype), jnp.float32)
    x, p = x.astype(dtype), p.astype(dtype)
    if l2_normalize:
        x, p = similarity.normalize(x), similarity.normalize(p)
    batch = Classes(x, dtypes.widen(y), p, len(x))
    return batch if synthesis is None else extend(synthesis, batch, l2_normalize=l2_normalize, axis_name=axis_name)


def cosines(batch: Classes) -> jax.Array:
    """The products of images and proxies, (n, classes), for one proxy per class."""
    return similarity.product(batch.embeddings, batch.proxies)


def cosines_of_each(batch: Classes) -> list[jax.Array]:
    """The same for several proxies per class: one matrix for the first proxy of each class, one for the second, ...

    Sums and maxima over the proxies of a class are then elementwise, which XLA fuses.
    """
    return [similarity.product(batch.embeddings, batch.proxies[:, k]) for k in range(batch.proxies.shape[1])]


def is_own(batch: Classes) -> jax.Array:
    """Whether a column is the class of the row, (n, classes)."""
    return batch.labels[:, None] == jnp.arange(len(batch.proxies), dtype=batch.labels.dtype)[None, :]


def is_other(batch: Classes) -> jax.Array:
    """Whether a column is another class that exists, (n, classes)."""
    others = ~is_own(batch)
    return others if batch.class_exists is None else others & batch.class_exists[None, :]


def own(batch: Classes, values: jax.Array) -> jax.Array:
    """The value of each row in the column of its class, (n,)."""
    return jnp.sum(jnp.where(is_own(batch), values, 0), axis=1)


def cross_entropy(batch: Classes, logits: jax.Array, target: jax.Array) -> Loss:
    """Mean over rows of -log(e^t / (e^t + sum over the other classes of e^logit)), where t is `target` (n,)."""
    return mean(batch, jax.nn.softplus(similarity.log_sum_exp(logits, is_other(batch), axis=1) - target))


def mean(batch: Classes, losses: jax.Array) -> Loss:
    """The mean over rows. A label outside the proxies gives NaN: where labels are traced, `prepare` cannot check."""
    if batch.row_exists is not None:
        losses = jnp.where(batch.row_exists, losses, 0)
    return require_known(batch, jnp.sum(losses) / batch.number)


def require_known(batch: Classes, loss: Loss) -> Loss:
    """The loss, or NaN where a label is outside the proxies."""
    known = (batch.labels >= 0) & (batch.labels < len(batch.proxies))
    return jnp.where(jnp.all(known), loss, jnp.nan)


def _check_synthesis(loss: str, synthesis: object, proxies: jax.Array) -> None:
    if synthesis is None:
        return
    pair_loss.require_created(synthesis)
    ours = "ProxySynthesis or MemVir, which make new classes beside proxies"
    if not isinstance(synthesis, (ProxySynthesis, MemVir)):
        if place := getattr(synthesis, "place", None):
            fact = f"{type(synthesis).__name__} {place}"
        elif callable(synthesis):
            fact = "A synthesis of points needs pairs of images, and a proxy loss compares no pairs"
        else:
            fact = f"{synthesis!r} is no synthesis"
        raise ValueError(f"{loss} takes the syntheses {ours}. {fact}.")
    if proxies.ndim == 3:
        raise ValueError(
            f"{loss} with proxies {proxies.shape} takes no synthesis. {type(synthesis).__name__} needs one proxy per "
            "class, (classes, dim): the centres of different classes have no order that matches."
        )


def _check(x: jax.Array, y: jax.Array, p: jax.Array, l2_normalize: object) -> None:
    if x.ndim != 2 or not x.size:
        raise ValueError(f"embeddings must be (n, dim), not empty; got {x.shape}")
    if p.ndim not in (2, 3) or not p.size or p.shape[-1] != x.shape[1]:
        raise ValueError(
            f"proxies must be (classes, dim) = (classes, {x.shape[1]}) for embeddings {x.shape}, or "
            f"(classes, per class, dim), not empty; got {p.shape}"
        )
    for name, array in (("embeddings", x), ("proxies", p)):
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{name} must have a floating dtype, got {array.dtype}")
    if y.shape != x.shape[:1]:
        raise ValueError(f"labels must be (n,) = {x.shape[:1]} for embeddings {x.shape}, got {y.shape}")
    pair_loss.check_integers(y, " the rows of the proxies,")
    pair_loss.check_flag("l2_normalize", l2_normalize)


def _check_range(labels: ArrayLike, classes: int) -> None:
    try:
        known = np.asarray(labels)
    except jax.errors.TracerArrayConversionError:
        return
    outside = known[(known < 0) | (known >= classes)]
    if outside.size:
        raise ValueError(
            f"labels must be from 0 to {classes - 1}, the rows of the proxies; got {outside[0]} and {outside.size - 1} "
            "others outside. Number the classes from 0: np.unique(labels, return_inverse=True)[1]."
        )
