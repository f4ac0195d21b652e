"""The Proxy-Anchor loss."""

import jax
import jax.numpy as jnp

from symm_jax import similarity
from symm_jax.losses import pair_loss, proxy_loss
from symm_jax.losses.proxy_loss import Embeddings, Labels, Loss, Proxies, Synthesis


def proxy_anchor_loss(
    embeddings: Embeddings,
    labels: Labels,
    proxies: Proxies,
    *,
    margin: float = 0.1,
    alpha: float = 32.0,
    synthesis: Synthesis = None,
    l2_normalize: bool = True,
    axis_name: str | None = None,
) -> Loss:
    """Proxy-Anchor loss (Kim et al., CVPR 2020, equation 4).

    The mean, over the proxies p with an image of their class in the batch, of

        log(1 + sum over images x of the class of p of e^(-alpha (s(x, p) - margin)))

    plus the mean, over all proxies p, of

        log(1 + sum over images x of other classes of e^(alpha (s(x, p) + margin)))

    where s is the cosine.

    Args:
      embeddings: (n, dim) floating.
      labels: (n,) integer, rows of `proxies`. A label outside is an error; under jit, where it cannot be seen, the loss
        is NaN.
      proxies: (classes, dim) floating: one learnt vector per class.
      margin: required cosine of an image and the proxy of its class, and its negative of other classes, 0 or more.
      alpha: factor of the cosines, above 0. It weighs the images of a proxy by their difficulty.
      synthesis: `synthesis.ProxySynthesis` or `synthesis.MemVir`, which add classes, or None.
      l2_normalize: scale embeddings and proxies to unit norm. False: they are compared as they are.
      axis_name: name of the mapped axis that splits the batch. The sums are over the images of all devices. None: the
        batch is not split.

    Returns:
      Scalar, float32 (float64 for float64 input): the mean over the proxies, the same on every device.

    Raises:
      ValueError: a shape, a dtype, a label or an option is wrong, or a label or embedding does not fit JAX's 32 bits.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.eye(2)
      >>> loss = proxy_anchor_loss(x, jnp.arange(2), x, margin=0.0, alpha=1.0)
      >>> print(f"{loss:.4f}")  # log(1 + exp(-1)) + log(1 + exp(0))
      1.0064
    """
    pair_loss.check_number("margin", margin)
    pair_loss.check_number("alpha", alpha, above=0)
    batch = proxy_loss.prepare(
        "proxy_anchor_loss",
        embeddings,
        labels,
        proxies,
        synthesis=synthesis,
        l2_normalize=l2_normalize,
        axis_name=axis_name,
    )
    cosines, is_own, is_other = proxy_loss.cosines(batch), proxy_loss.is_own(batch), proxy_loss.is_other(batch)
    if batch.row_exists is not None:
        is_own, is_other = is_own & batch.row_exists[:, None], is_other & batch.row_exists[:, None]
    sums = (
        similarity.log_sum_exp(-alpha * (cosines - margin), is_own, axis=0),
        similarity.log_sum_exp(alpha * (cosines + margin), is_other, axis=0),
        jnp.any(is_own, axis=0),
    )
    # Each device has summed over its rows. The sum over the devices comes before the outer logarithm.
    pull, push, present = similarity.gather(jax.tree.map(lambda x: x[None], sums), axis_name)
    pull, push = (jax.nn.softplus(jax.nn.logsumexp(x, axis=0)) for x in (pull, push))
    loss = jnp.sum(pull) / jnp.maximum(jnp.sum(jnp.any(present, axis=0)), 1) + jnp.mean(push, where=batch.class_exists)
    return proxy_loss.require_known(batch, loss)
