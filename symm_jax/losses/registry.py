"""Losses from a config: their names, weights, syntheses and options."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from symm_jax import errors
from symm_jax.losses.angular import angular_loss
from symm_jax.losses.candidates import lookup_pairs
from symm_jax.losses.lifted_structure import lifted_structure_loss
from symm_jax.losses.mining import Synthesis
from symm_jax.losses.npair import npair_loss
from symm_jax.losses.triplet import triplet_loss
from symm_jax.synthesis import SYNTHESES

LOSSES = {
    "npair": npair_loss,
    "angular": angular_loss,
    "triplet": triplet_loss,
    "lifted_structure": lifted_structure_loss,
}


def from_config(specs: Sequence[Mapping]) -> Callable[..., tuple[jax.Array, dict[str, jax.Array]]]:
    """The weighted sum of the losses that a config names.

    Args:
      specs: mappings with "name" (a key of LOSSES), optionally "weight" (default 1), "synthesis" (a key of SYNTHESES,
        or a mapping with "name" and the synthesis's own options; "" or None for none) and the loss's own options.

    Returns:
      loss(anchor, positive, labels, axis_name=None) -> (scalar, metrics): of each loss with synthesis the share of
      hardest negatives that take part of a synthetic point, "NAME/synthetic_share", and of each pair of points
      that is a candidate (k, l), "NAME/winner_k_l". Points are numbered as the synthesis returns them, the anchor
      being 0 and the positive 1. A name that was logged before gets its place in `specs`, as in "npair_2".

    Raises:
      InputError: unknown name or option, with the nearest known one; no losses at all.
    """
    if not specs:
        raise errors.InputError("it is empty; name at least one loss, such as dict(name='npair')", argument="losses")
    if not isinstance(specs, (tuple, list)) or not all(isinstance(spec, Mapping) for spec in specs):
        raise errors.InputError(
            f"it must be a tuple of mappings, such as ({{'name': 'npair'}},); got {specs!r}", argument="losses"
        )
    terms = [_term(spec) for spec in specs]
    # A second loss of one name with synthesis logs under its place in the config.
    logged = [name if "synthesis" in function.keywords else "" for name, _, function in terms]
    titles = [name if name not in logged[:i] else f"{name}_{i + 1}" for i, name in enumerate(logged)]

    def loss(anchor, positive, labels, axis_name=None):
        total, metrics = 0.0, {}
        for title, (_, weight, function) in zip(titles, terms, strict=True):
            value = function(anchor, positive, labels, axis_name=axis_name)
            if "synthesis" in function.keywords:
                value, winners = value
                metrics |= _describe(title, winners, function.keywords["candidates"])
            total += weight * value
        return total, metrics

    return loss


def find_synthesis(specs: Sequence[Mapping]) -> Synthesis | None:
    """The synthesis of the first loss in a config that has one, for figures."""
    return next((_synthesis(spec["synthesis"]) for spec in specs if spec.get("synthesis")), None)


def _describe(name: str, winners: jax.Array, candidates: str) -> dict[str, jax.Array]:
    synthetic = jnp.sum(winners) - jnp.sum(winners[:2, :2])
    pairs = lookup_pairs(candidates, len(winners))
    return {f"{name}/synthetic_share": synthetic} | {f"{name}/winner_{k}_{l}": winners[k, l] for k, l in pairs}


def _term(spec: Mapping) -> tuple[str, float, functools.partial]:
    options = dict(spec)
    name, weight = options.pop("name", ""), options.pop("weight", 1.0)
    if not name:
        raise errors.InputError(f"{dict(spec)} has no name; give one of {', '.join(LOSSES)}", argument="losses")
    function = errors.lookup("loss", name, LOSSES, argument="losses")
    if isinstance(weight, bool) or not (isinstance(weight, (int, float)) and 0 <= weight < float("inf")):
        raise errors.InputError(f"weight of {name!r} must be a finite number >= 0, got {weight!r}", argument="losses")
    synthesis = _synthesis(options.pop("synthesis", None))
    _check_options(repr(name), options, function, without=("synthesis", "axis_name", "with_winners"))
    if synthesis:
        candidates = options.get("candidates", inspect.signature(function).parameters["candidates"].default)
        options |= {"synthesis": synthesis, "candidates": candidates, "with_winners": True}
    function = functools.partial(function, **options)
    try:  # on shapes alone, so that a wrong value is found before any work
        jax.eval_shape(function, *2 * [jax.ShapeDtypeStruct((2, 2), "float32")], jax.ShapeDtypeStruct((2,), "int32"))
    except (TypeError, ValueError) as error:
        raise errors.InputError(f"{name!r} with {options}: {error}", argument="losses") from error
    return name, weight, function


def _synthesis(spec: str | Mapping | None) -> Synthesis | None:
    if not spec:
        return None
    options = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = options.pop("name", "")
    function = errors.lookup("synthesis", name, SYNTHESES, argument="losses")
    _check_options(f"synthesis {name!r}", options, function)
    return functools.partial(function, **options)


def _check_options(what: str, options: Mapping, function: Callable, without: Sequence[str] = ()) -> None:
    parameters = inspect.signature(function).parameters.items()
    known = [k for k, v in parameters if v.kind is v.KEYWORD_ONLY and k not in without]
    for key in options.keys() - set(known):
        raise errors.InputError(
            f"{what} has no option {key!r}{errors.suggest(key, known)}; options: {', '.join(known)}", argument="losses"
        )
