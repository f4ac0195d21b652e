"""The SoftTriple loss: several learnt centres per class."""

import functools

import jax
import jax.numpy as jnp

from symm_jax import similarity
from symm_jax.losses import pair_loss, proxy_loss
from symm_jax.losses.proxy_loss import Centers, Embeddings, Labels, Loss, Synthesis


def soft_triple_loss(
    embeddings: Embeddings,
    labels: Labels,
    proxies: Centers,
    *,
    margin: float = 0.01,
    scale: float = 20.0,
    gamma: float = 0.1,
    center_reg: float = 0.0,
    synthesis: Synthesis = None,
    l2_normalize: bool = True,
    axis_name: str | None = None,
) -> Loss:
    """SoftTriple loss (Qian et al., ICCV 2019, equations 7 and 9).

    Mean over rows of the cross-entropy of scale (S_c - margin [c = y]) and the class y of the image. S_c is a weighted
    mean of the cosines s_ck of the image and the centres k of class c, with the weights softmax_k(s_ck / gamma).

    The regulariser draws the K centres w_ck of a class together, so that superfluous ones merge: center_reg times the
    mean over classes of sum over pairs s < t of sqrt(2 - 2 w_cs.w_ct) / (K (K - 1)).

    Args:
      embeddings: (n, dim) floating.
      labels: (n,) integer, rows of `proxies`. A label outside is an error; under jit, where it cannot be seen, the loss
        is NaN.
      proxies: (classes, per class, dim) floating: several learnt vectors per class, its centres. The paper has 10 per
        class.
      margin: subtracted from S of the image and its class, 0 or more. It is the paper's delta.
      scale: factor of S, above 0. It is the paper's lambda.
      gamma: temperature of the weights of the centres, above 0.
      center_reg: weight of the regulariser, 0 or more. 0: none. The paper's tau, 0.2.
      synthesis: None. A synthesis of classes needs one proxy per class.
      l2_normalize: scale embeddings and proxies to unit norm. False: they have unit norm.
      axis_name: name of the mapped axis that splits the batch. None: the batch is not split.

    Returns:
      Scalar, float32 (float64 for float64 input): the mean over the rows of this device.

    Raises:
      ValueError: a shape, a dtype, a label or an option is wrong, or a label or embedding does not fit JAX's 32 bits.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.eye(2)
      >>> loss = soft_triple_loss(x, jnp.arange(2), x[:, None], margin=0.5, scale=2.0)
      >>> print(f"{loss:.4f}")  # one centre per class: log(1 + exp(-2 (1 - 0.5)))
      0.3133
    """
    pair_loss.check_number("margin", margin)
    pair_loss.check_number("scale", scale, above=0)
    pair_loss.check_number("gamma", gamma, above=0)
    pair_loss.check_number("center_reg", center_reg)
    batch = proxy_loss.prepare(
        "soft_triple_loss",
        embeddings,
        labels,
        proxies,
        synthesis=synthesis,
        l2_normalize=l2_normalize,
        axis_name=axis_name,
        dimensions=(3,),
    )
    cosines = proxy_loss.cosines_of_each(batch)
    largest = jax.lax.stop_gradient(functools.reduce(jnp.maximum, cosines))
    weights = [jnp.exp((cosine - largest) / gamma) for cosine in cosines]
    relaxed = functools.reduce(jnp.add, map(jnp.multiply, weights, cosines)) / functools.reduce(jnp.add, weights)
    loss = proxy_loss.cross_entropy(batch, scale * relaxed, scale * (proxy_loss.own(batch, relaxed) - margin))
    return loss + center_reg * _center_distance(batch.proxies) if center_reg else loss


def _center_distance(centers: jax.Array) -> jax.Array:
    """The regulariser: the mean over classes of the sum over pairs of centres of their distance / (K (K - 1))."""
    count = centers.shape[1]
    products = jax.vmap(similarity.product)(centers, centers)
    # The paper's 1e-5 keeps the gradient of merged centres finite.
    distances = jnp.where(jnp.triu(jnp.ones((count, count), bool), 1), similarity.root(2 + 1e-5 - 2 * products), 0)
    return jnp.mean(jnp.sum(distances, axis=(1, 2))) / max(1, count * (count - 1))
