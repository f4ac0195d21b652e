"""Proxy losses by name, and the terms of a config that have proxies.

In training, proxies are parameters: params["proxies"] holds one array per term. A term gets the images of a batch in
turn: both of each pair with the label of the pair, or those of a shuffled epoch with their own labels.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jaxtyping import Array, Key

from symm_jax.losses.arcface import arcface_loss
from symm_jax.losses.cosface import cosface_loss
from symm_jax.losses.init_proxies import PER_CLASS, init_proxies
from symm_jax.losses.norm_softmax import norm_softmax_loss
from symm_jax.losses.proxy_anchor import proxy_anchor_loss
from symm_jax.losses.proxy_nca import proxy_nca_loss
from symm_jax.losses.soft_triple import soft_triple_loss

PROXY_LOSSES: dict[str, Callable] = {
    "norm_softmax": norm_softmax_loss,
    "cosface": cosface_loss,
    "arcface": arcface_loss,
    "proxy_nca": proxy_nca_loss,
    "proxy_anchor": proxy_anchor_loss,
    "soft_triple": soft_triple_loss,
}


def has_proxies(spec: Mapping[str, Any]) -> bool:
    """Whether a spec names a proxy loss."""
    return spec.get("name") in PROXY_LOSSES


def with_titles(specs: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """The specs, each with the key of its proxies and its queue: the name, or "NAME_2" for the second of a name."""
    names = [spec.get("name", "") for spec in specs]
    titles = [name if name not in names[:i] else f"{name}_{names[: i + 1].count(name)}" for i, name in enumerate(names)]
    return list(zip(titles, specs, strict=True))


def create_proxies(specs: Sequence[Mapping[str, Any]], key: Key[Array, ""], classes: int, dim: int) -> dict[str, Any]:
    """Draws the first proxies of the losses that a config names.

    Args:
      specs: as in `from_config`.
      key: typed PRNG key.
      classes: number of training classes.
      dim: embedding dimension.

    Returns:
      The argument `proxies` of the loss that `from_config` returns: one array per proxy loss, see `init_proxies`. {}
      without proxy losses.

    Example:
      >>> specs = ({"name": "npair"}, {"name": "soft_triple", "per_class": 4})
      >>> print(create_proxies(specs, jax.random.key(0), classes=98, dim=64)["soft_triple"].shape)
      (98, 4, 64)
    """
    proxies = {}
    for i, (title, spec) in enumerate(term for term in with_titles(specs) if has_proxies(term[1])):
        name = spec["name"]
        per_class = spec.get("per_class", PER_CLASS.get(name))
        proxies[title] = init_proxies(name, jax.random.fold_in(key, i), classes, dim, per_class=per_class)
    return proxies
