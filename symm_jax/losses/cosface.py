"""The CosFace loss: softmax with a margin of the cosine."""

from symm_jax.losses import pair_loss, proxy_loss
from symm_jax.losses.proxy_loss import Embeddings, Labels, Loss, Proxies, Synthesis


def cosface_loss(
    embeddings: Embeddings,
    labels: Labels,
    proxies: Proxies,
    *,
    margin: float = 0.35,
    scale: float = 64.0,
    synthesis: Synthesis = None,
    l2_normalize: bool = True,
    axis_name: str | None = None,
) -> Loss:
    """CosFace loss, the large margin cosine loss (Wang et al., CVPR 2018).

    Mean over rows of the cross-entropy of scale (s_c - margin [c = y]) and the class y of the image, where s_c is the
    cosine of the image and the proxy of class c.

    Args:
      embeddings: (n, dim) floating.
      labels: (n,) integer, rows of `proxies`. A label outside is an error; under jit, where it cannot be seen, the loss
        is NaN.
      proxies: (classes, dim) floating: one learnt vector per class.
      margin: subtracted from the cosine of the image and the proxy of its class, 0 or more.
      scale: factor of the cosines, above 0.
      synthesis: `synthesis.ProxySynthesis` or `synthesis.MemVir`, which add classes, or None.
      l2_normalize: scale embeddings and proxies to unit norm. False: they are compared as they are.
      axis_name: name of the mapped axis that splits the batch. None: the batch is not split.

    Returns:
      Scalar, float32 (float64 for float64 input): the mean over the rows of this device.

    Raises:
      ValueError: a shape, a dtype, a label or an option is wrong, or a label or embedding does not fit JAX's 32 bits.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.eye(2)
      >>> print(f"{cosface_loss(x, jnp.arange(2), x, margin=0.5, scale=2.0):.4f}")  # log(1 + exp(-2 (1 - 0.5)))
      0.3133
    """
    pair_loss.check_number("margin", margin)
    pair_loss.check_number("scale", scale, above=0)
    batch = proxy_loss.prepare(
        "cosface_loss", embeddings, labels, proxies, synthesis=synthesis, l2_normalize=l2_normalize, axis_name=axis_name
    )
    cosines = proxy_loss.cosines(batch)
    return proxy_loss.cross_entropy(batch, scale * cosines, scale * (proxy_loss.own(batch, cosines) - margin))
