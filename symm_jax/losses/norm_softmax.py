"""The normalised softmax loss: classification by the cosine with the weights of each class."""

from symm_jax.losses import pair_loss, proxy_loss
from symm_jax.losses.proxy_loss import Embeddings, Labels, Loss, Proxies, Synthesis


def norm_softmax_loss(
    embeddings: Embeddings,
    labels: Labels,
    proxies: Proxies,
    *,
    temperature: float = 0.05,
    synthesis: Synthesis = None,
    l2_normalize: bool = True,
    axis_name: str | None = None,
) -> Loss:
    """Normalised softmax loss (Zhai and Wu, BMVC 2019).

    Mean over rows of -log(e^(s_y / temperature) / sum over classes c of e^(s_c / temperature)), where s_c is the cosine
    of the image and the proxy of class c, and y is the class of the image.

    Args:
      embeddings: (n, dim) floating.
      labels: (n,) integer, rows of `proxies`. A label outside is an error; under jit, where it cannot be seen, the loss
        is NaN.
      proxies: (classes, dim) floating: one learnt vector per class.
      temperature: divides the cosines, above 0.
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
      >>> print(f"{norm_softmax_loss(x, jnp.arange(2), x, temperature=1.0):.4f}")  # log(1 + exp(-1))
      0.3133
    """
    pair_loss.check_number("temperature", temperature, above=0)
    batch = proxy_loss.prepare(
        "norm_softmax_loss",
        embeddings,
        labels,
        proxies,
        synthesis=synthesis,
        l2_normalize=l2_normalize,
        axis_name=axis_name,
    )
    logits = proxy_loss.cosines(batch) / temperature
    return proxy_loss.cross_entropy(batch, logits, proxy_loss.own(batch, logits))
