"""Syntheses by name, for configs.

A synthesis of points is a function. The others are NamedTuples: their first field is `key`, which gets the PRNG key of
the step, or `queue`, and the other fields are their options.
"""

from collections.abc import Callable
from typing import Any

from symm_jax import signatures
from symm_jax.synthesis.classes import MemVir, ProxySynthesis
from symm_jax.synthesis.mixtures import Metrix, SiMix
from symm_jax.synthesis.plane import check, interpolated, symmetric

SYNTHESES: dict[str, Callable[..., Any]] = {
    "symmetric": symmetric,
    "interpolated": interpolated,
    "proxy_synthesis": ProxySynthesis,
    "memvir": MemVir,
    "simix": SiMix,
    "metrix": Metrix,
}


def makes_points(function: Callable[..., Any]) -> bool:
    """Whether a value of SYNTHESES is a synthesis of points in the plane of a pair: a function, and no NamedTuple."""
    return not isinstance(function, type)


def register(name: str, function: Callable[..., Any]) -> None:
    """Adds a synthesis of points to SYNTHESES, so that a config can name it: {"name": "npair", "synthesis": NAME}.

    Call this function in the config file or in a module that the config file imports.

    Args:
      name: the name in configs.
      function: (anchor (n, dim), positive (n, dim), *, options with defaults) -> coefficients (n, points, 2).

    Raises:
      ValueError: the name is taken, or the function breaks the contract of a synthesis: see `check`.

    Example:
      >>> import jax.numpy as jnp
      >>> from symm_jax.synthesis import with_originals
      >>> def halfway(anchor, positive, *, at=0.5):
      ...     return with_originals(jnp.tile(jnp.array([1 - at, at]), (len(anchor), 1, 1)))
      >>> register("halfway", halfway)
      >>> del SYNTHESES["halfway"]
    """
    signatures.register("synthesis", name, function, SYNTHESES, check)
