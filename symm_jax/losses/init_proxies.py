"""The proxies to start from, drawn as the paper of each loss draws them."""

import math

import jax
from jaxtyping import Array, Float, Key

from symm_jax import errors

# (classes, per class, dim) -> the largest absolute value of a uniform distribution, or the standard deviation of a
# normal one. Uniform ones are PyTorch's for a layer with such weights, normal ones have a constant or Kaiming's fan out.
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
PER_CLASS = {"arcface": 1, "soft_triple": 10}  # the defaults of those that may have several proxies per class
