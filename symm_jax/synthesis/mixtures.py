"""Mixed similarities: a synthetic image is a mixture of two embeddings, so its similarities are mixtures of theirs.

SiMix adds virtual images to a batch. Metrix adds to each row of similarities a second one, with mixed labels. Neither
builds more than one point per image. losses/batch.py and losses/rows.py apply them.

The random numbers of an image depend on the key and on its position in the whole batch, so they are the same on any
number of devices.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from symm_jax import similarity


class SiMix(NamedTuple):
    """SiMix (Patel et al., CVPR 2022): virtual images between two images of one class.

    Each image x of unit norm gets one virtual image of its class,

        v = t x + (1 - t) y

    with t uniform in (0, 1). y is the next image of the class, in the order of the whole batch; the first follows the
    last. v is not scaled to unit norm, so each similarity with v is the mixture of those with x and y. Virtual images
    are rows and columns as the others are: n images become 2 n. The paper mixes all pairs of a class; with two images
    per class that is the same. For an image alone in its class v = x, a copy that is not its positive.

    It goes with the batch losses, with labels, and with a queue.

    Args:
      key: PRNG key, another one in each step.

    Example:
      >>> from symm_jax.losses import supcon_loss
      >>> x, labels = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), jnp.array([0, 0, 1])
      >>> loss = supcon_loss(x, labels, synthesis=SiMix(jax.random.key(0)))
    """

    key: Key[Array, ""]

    place = "makes virtual images beside those of a batch, so it goes with the batch losses"


class Metrix(NamedTuple):
    """Metrix (Venkataramanan et al., ICLR 2022) of embeddings: mixtures with negatives, and mixed labels.

    Each step draws lam from Beta(alpha, alpha), one for all, and with equal chance what the negatives are mixed with:
    one positive of the row, drawn for each row, or the row's image itself. With its similarity s_1 and that of a
    negative s_0, the mixture has the similarity

        lam s_1 + (1 - lam) s_0

    and counts lam as a positive and 1 - lam as a negative. Squared distances mix alike; for unit vectors that is the
    distance of the mixed similarity. The loss is that of the batch plus a weight x that of the mixtures. A row without
    a positive has no mixtures with positives.

    It goes with losses of the form tau(sigma+(sum of y rho+(s)) + sigma-(sum of (1 - y) rho-(s))): contrastive_loss
    and multi_similarity_loss, with labels, and with a queue.

    Args:
      key: PRNG key, another one in each step.
      alpha: both parameters of the Beta distribution, above 0.
      positive_weight: weight of mixtures with positives, 0 or more.
      anchor_weight: weight of mixtures with the row's own image, 0 or more.

    Example:
      >>> from symm_jax.losses import contrastive_loss
      >>> x, labels = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), jnp.array([0, 0, 1])
      >>> loss = contrastive_loss(x, labels, synthesis=Metrix(jax.random.key(0)))
    """

    key: Key[Array, ""]
    alpha: float = 2.0
    positive_weight: float = 0.4
    anchor_weight: float = 0.3

    place = (
        "gives mixtures of a positive and a negative, which count in part as each, so it goes with losses of a sum "
        "over positives and a sum over negatives: contrastive_loss and multi_similarity_loss"
    )


Mixture = SiMix | Metrix


class MixedRows(NamedTuple):
    """What Metrix draws for the rows of a device."""

    value: jax.Array  # (n,), of each row with its drawn positive, or with itself
    shares: jax.Array  # (n, 2), lam and 1 - lam; zeros for a row without mixtures
    weight: jax.Array  # scalar


def create_virtual(
    simix: SiMix, x: jax.Array, label: jax.Array, position: jax.Array, axis_name: str | None
) -> tuple[jax.Array, jax.Array]:
    """Creates the virtual image of each image, (n, dim). Also says which images are alone in their class, (n,).

    Args:
      simix: the synthesis.
      x: embeddings (n, dim) of this device.
      label: (n,).
      position: (n,), in the whole batch.
      axis_name: the mapped axis that splits the batch.
    """
    images, labels = similarity.gather((x, label), axis_name)
    mate, size = _find_classmate(label, position, labels)
    t = jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(simix.key, i), dtype=x.dtype))(position)[:, None]
    return t * x + (1 - t) * images[mate], size == 1


def draw_mixed_rows(
    metrix: Metrix, x: jax.Array, label: jax.Array, position: jax.Array, axis_name: str | None, *, distance: bool
) -> MixedRows:
    """Draws the mixtures of each row. With `distance`, values are closenesses -|x - y|^2 / 2.

    Args:
      metrix: the synthesis.
      x: embeddings (n, dim) of this device.
      label: (n,).
      position: (n,), in the whole batch.
      axis_name: the mapped axis that splits the batch.
      distance: see above.
    """
    share_key, kind_key, mate_key = jax.random.split(metrix.key, 3)
    share = draw_share(share_key, metrix.alpha, x.dtype)
    with_anchors = jax.random.bernoulli(kind_key)
    images, labels = similarity.gather((x, label), axis_name)
    mate, size = _find_classmate(label, position, labels, mate_key)
    y = jnp.where(with_anchors, x, images[mate])
    value = -0.5 * jnp.sum(jnp.square(x - y), axis=1) if distance else jnp.sum(x * y, axis=1)
    shares = jnp.where((with_anchors | (size > 1))[:, None], jnp.stack([share, 1 - share])[None, :], 0)
    return MixedRows(value, shares, jnp.where(with_anchors, metrix.anchor_weight, metrix.positive_weight))


def draw_share(key: jax.Array, alpha: float, dtype: jnp.dtype) -> jax.Array:
    """Draws a scalar from Beta(alpha, alpha), in closed form: `jax.random.beta` takes seconds to compile.

    Ulrich (1984) gives (1 + c) / 2 of Beta(alpha + 1, alpha + 1). That is a ratio of variables of Gamma(alpha + 1), and
    such a variable times U^(1 / alpha) is of Gamma(alpha).
    """
    radius, angle, u, v = jax.random.uniform(key, (4,), dtype, minval=jnp.finfo(dtype).tiny)
    c = jnp.sqrt(1 - radius ** (2 / (2 * alpha + 1))) * jnp.cos(2 * jnp.pi * angle)
    return jax.nn.sigmoid(jnp.log1p(c) - jnp.log1p(-c) + (jnp.log(u) - jnp.log(v)) / alpha)


def _find_classmate(
    label: jax.Array, position: jax.Array, labels: jax.Array, key: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """The position of the next image of the class, cyclic, and the number of images of the class, each (n,).

    With a key it is any other image of the class. An image alone in its class gets itself.
    """
    order = jnp.argsort(labels, stable=True)
    ordered = labels[order]
    first = jnp.searchsorted(ordered, label, side="left")
    size = jnp.searchsorted(ordered, label, side="right") - first
    step = 1
    if key is not None:
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(position)
        step = jax.vmap(lambda key, size: jax.random.randint(key, (), 1, size))(keys, size)
    place = jnp.argsort(order)[position] - first
    return order[first + (place + step) % size], size
