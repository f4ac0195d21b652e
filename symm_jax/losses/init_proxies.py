"""The proxies to start from, drawn as the paper of each loss draws them."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from symm_jax import errors

PER_CLASS = {"arcface": None, "soft_triple": 10}  # the losses that take the option `per_class`, and its default
# (classes, per class, dim) -> the bound of a uniform distribution, or the standard deviation of a normal one.
_UNIFORM = {
    "norm_softmax": lambda classes, per_class, dim: dim**-0.5,
    "cosface": lambda classes, per_class, dim: dim**-0.5,
    "arcface": lambda classes, per_class, dim: dim**-0.5,
    "soft_triple": lambda classes, per_class, dim: (classes * per_class) ** -0.5,
}
_NORMAL = {
    "proxy_nca": lambda classes, per_class, dim: 1 / 8,
    "proxy_anchor": lambda classes, per_class, dim: math.sqrt(2 / classes),
}


def init_proxies(
    name: str, key: Key[Array, ""], classes: int, dim: int, *, per_class: int | None = None
) -> Float[Array, "classes dim"] | Float[Array, "classes per_class dim"]:
    """Draws the first proxies of a loss.

    - norm_softmax, cosface and arcface: uniform, up to 1 / sqrt(dim). CosFace and ArcFace do not say theirs.
    - proxy_nca: normal, with standard deviation 1/8.
    - proxy_anchor: normal, with standard deviation sqrt(2 / classes): Kaiming's, by the fan out.
    - soft_triple: uniform, up to 1 / sqrt(classes per_class): Kaiming's with a = sqrt(5), by the fan in of its layer.

    All losses divide proxies by their norms, so the scale decides only how fast proxies turn at first.

    Args:
      name: the loss, as a config names it.
      key: typed PRNG key.
      classes: number of training classes.
      dim: embedding dimension.
      per_class: proxies per class, for arcface (the paper: 3) and soft_triple (the paper: 10), which needs it. None:
        one, without an axis for it.

    Returns:
      (classes, dim), or with `per_class` (classes, per_class, dim) float32.

    Raises:
      InputError: the loss is not known or takes no per_class, or a number is not an integer above 0.

    Example:
      >>> init_proxies("proxy_anchor", jax.random.key(0), classes=98, dim=512).shape
      (98, 512)
    """
    rule = errors.lookup("proxy loss", name, _UNIFORM | _NORMAL, argument="losses")
    sizes = {"classes": classes, "dim": dim, "per_class": 1 if per_class is None else per_class}
    for what, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            fact = f"{what} of {name!r} must be an integer, 1 or more; got {size!r}"
            raise errors.InputError(fact, argument="losses")
    if per_class is not None and name not in PER_CLASS:
        raise errors.InputError(f"{name!r} has one proxy per class; leave per_class out", argument="losses")
    if name == "soft_triple" and per_class is None:
        raise errors.InputError("soft_triple needs per_class, such as 10", argument="losses")
    scale = rule(classes, sizes["per_class"], dim)
    shape = (classes, dim) if per_class is None else (classes, per_class, dim)
    if name in _UNIFORM:
        return jax.random.uniform(key, shape, jnp.float32, minval=-scale, maxval=scale)
    return scale * jax.random.normal(key, shape, jnp.float32)
