"""The Proxy-NCA loss, in the form of ProxyNCA++ and in the original form."""

import jax.numpy as jnp

from symm_jax import similarity
from symm_jax.losses import pair_loss, proxy_loss
from symm_jax.losses.proxy_loss import Embeddings, Labels, Loss, Proxies, Synthesis


def proxy_nca_loss(
    embeddings: Embeddings,
    labels: Labels,
    proxies: Proxies,
    *,
    scale: float = 9.0,
    with_positive: bool = True,
    synthesis: Synthesis = None,
    l2_normalize: bool = True,
    axis_name: str | None = None,
) -> Loss:
    """ProxyNCA++ loss (ECCV 2020), or with_positive=False: Proxy-NCA (Movshovitz-Attias et al., ICCV 2017).

    Mean over rows of -log(e^(-scale d_y^2) / sum over classes c of e^(-scale d_c^2)), where d_c is the distance of the
    image and the proxy of class c, and y is the class of the image. Proxy-NCA sums over the other classes only, and its
    scale is 1.

    Args:
      embeddings: (n, dim) floating.
      labels: (n,) integer, rows of `proxies`. A label outside is an error; under jit, where it cannot be seen, the loss
        is NaN.
      proxies: (classes, dim) floating: one learnt vector per class.
      scale: factor of the squared distances (inverse temperature), above 0.
      with_positive: whether the sum includes the class of the image.
      synthesis: `synthesis.ProxySynthesis` or `synthesis.MemVir`, which add classes, or None.
      l2_normalize: scale embeddings and proxies to unit norm. False: they have unit norm.
      axis_name: name of the mapped axis that splits the batch. None: the batch is not split.

    Returns:
      Scalar, float32 (float64 for float64 input): the mean over the rows of this device.

    Raises:
      ValueError: a shape, a dtype, a label or an option is wrong, or a label or embedding does not fit JAX's 32 bits.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.eye(2)
      >>> print(f"{proxy_nca_loss(x, jnp.arange(2), x, scale=0.5):.4f}")  # log(1 + exp(-0.5 x 2))
      0.3133
    """
    pair_loss.check_number("scale", scale, above=0)
    if not isinstance(with_positive, bool):
        raise ValueError(f"with_positive must be True or False, got {with_positive!r}")
    batch = proxy_loss.prepare(
        "proxy_nca_loss",
        embeddings,
        labels,
        proxies,
        synthesis=synthesis,
        l2_normalize=l2_normalize,
        axis_name=axis_name,
    )
    logits = 2 * scale * proxy_loss.cosines(batch)  # d^2 = 2 - 2 cosine, and the 2 cancels
    target = proxy_loss.own(batch, logits)
    if with_positive:
        return proxy_loss.cross_entropy(batch, logits, target)
    others = proxy_loss.is_other(batch)
    ratio = similarity.log_sum_exp(logits, others, axis=1) - target
    return proxy_loss.mean(batch, jnp.where(jnp.any(others, axis=1), ratio, 0))
