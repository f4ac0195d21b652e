"""The ArcFace loss: softmax with a margin of the angle, and its form with several centres per class."""

import functools
import math

import jax.numpy as jnp

from symm_jax import similarity
from symm_jax.losses import pair_loss, proxy_loss
from symm_jax.losses.proxy_loss import Centers, Embeddings, Labels, Loss, Proxies, Synthesis


def arcface_loss(
    embeddings: Embeddings,
    labels: Labels,
    proxies: Proxies | Centers,
    *,
    degrees: float = 28.6,
    scale: float = 64.0,
    synthesis: Synthesis = None,
    l2_normalize: bool = True,
    axis_name: str | None = None,
) -> Loss:
    """ArcFace loss, the additive angular margin loss (Deng et al., CVPR 2019), and with sub-centres (ECCV 2020).

    Mean over rows of the cross-entropy of scale cos(angle_c + margin [c = y]) and the class y of the image, where
    angle_c is that of the image and the proxy of class c, and margin is `degrees`. Where the sum exceeds 180 degrees,
    the term is cos(angle_y) - margin sin(margin), with the margin in radians, so that it falls with the angle
    everywhere. With several proxies per class, the nearest of them counts.

    Args:
      embeddings: (n, dim) floating.
      labels: (n,) integer, rows of `proxies`. A label outside is an error; under jit, where it cannot be seen, the loss
        is NaN.
      proxies: (classes, dim) floating: one learnt vector per class; or (classes, per class, dim), the sub-centres. The
        paper has 3 per class.
      degrees: added to the angle of the image and the proxy of its class, in degrees, 0 or more and below 180.
      scale: factor of the cosines, above 0.
      synthesis: `synthesis.ProxySynthesis` or `synthesis.MemVir`, which add classes, or None. They need one proxy per
        class.
      l2_normalize: scale embeddings and proxies to unit norm. False: they have unit norm.
      axis_name: name of the mapped axis that splits the batch. None: the batch is not split.

    Returns:
      Scalar, float32 (float64 for float64 input): the mean over the rows of this device.

    Raises:
      ValueError: a shape, a dtype, a label or an option is wrong, or a label or embedding does not fit JAX's 32 bits.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.eye(2)
      >>> print(f"{arcface_loss(x, jnp.arange(2), x, degrees=60, scale=2.0):.4f}")  # log(1 + exp(-2 cos(60 degrees)))
      0.3133
    """
    pair_loss.check_number("degrees", degrees)
    if degrees >= 180:
        raise ValueError(f"degrees must be below 180, got {degrees!r}")
    pair_loss.check_number("scale", scale, above=0)
    batch = proxy_loss.prepare(
        "arcface_loss",
        embeddings,
        labels,
        proxies,
        synthesis=synthesis,
        l2_normalize=l2_normalize,
        axis_name=axis_name,
        dimensions=(2, 3),
    )
    if batch.proxies.ndim == 2:
        cosines = proxy_loss.cosines(batch)
    else:
        cosines = functools.reduce(jnp.maximum, proxy_loss.cosines_of_each(batch))
    margin = math.radians(degrees)
    cosine = proxy_loss.own(batch, cosines)
    sine = similarity.root((1 - cosine) * (1 + cosine))
    moved = cosine * math.cos(margin) - sine * math.sin(margin)
    moved = jnp.where(cosine >= -math.cos(margin), moved, cosine - margin * math.sin(margin))
    return proxy_loss.cross_entropy(batch, scale * cosines, scale * moved)
