"""Smooth ranks of the positives of a row, for the losses that approximate a metric of retrieval."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def rank_positives(
    values: jax.Array, positive: jax.Array, masks: tuple[jax.Array, ...], temperature: float
) -> tuple[jax.Array, ...]:
    """Ranks the positives of each row: 1 + the sum over z, other than p, of sigmoid((s_z - s_p) / temperature).

    It goes through the positives of all rows one by one, so memory is that of a few arrays like `values`.

    Args:
      values: s, (rows, columns).
      positive: (rows, columns) bool, the p.
      masks: each (rows, columns) bool: the z of one kind of rank.
      temperature: width of the sigmoid.

    Returns:
      For each mask, (rows, columns): the ranks at the positives, 1 elsewhere.
    """
    return _rank(values, positive, masks, temperature)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _rank(values, positive, masks, temperature):
    def step(chosen, ranks):
        ahead = jnp.where(chosen, 0, _sigmoid(values, chosen, temperature))
        sums = [jnp.sum(jnp.where(mask, ahead, 0), axis=1, keepdims=True) for mask in masks]
        return tuple(jnp.where(chosen, 1 + x, rank) for x, rank in zip(sums, ranks, strict=True))

    return _fold_positives(step, positive, tuple(jnp.ones_like(values) for _ in masks))


def _forward(values, positive, masks, temperature):
    return _rank(values, positive, masks, temperature), (values, positive, masks)


def _backward(temperature, residuals, cotangents):
    values, positive, masks = residuals

    def step(chosen, gradient):
        ahead = _sigmoid(values, chosen, temperature)
        weights = [jnp.sum(jnp.where(chosen, w, 0), axis=1, keepdims=True) for w in cotangents]
        weight = sum(jnp.where(mask, w, 0) for mask, w in zip(masks, weights, strict=True))
        slope = jnp.where(chosen, 0, ahead * (1 - ahead) / temperature * weight)
        return gradient + jnp.where(chosen, -jnp.sum(slope, axis=1, keepdims=True), slope)

    return _fold_positives(step, positive, jnp.zeros_like(values)), None, None


_rank.defvjp(_forward, _backward)


def _sigmoid(values: jax.Array, chosen: jax.Array, temperature: float) -> jax.Array:
    own = jnp.sum(jnp.where(chosen, values, 0), axis=1, keepdims=True)
    return jax.nn.sigmoid((values - own) / temperature)


def _fold_positives(step: Callable[[jax.Array, Any], Any], positive: jax.Array, start: Any) -> Any:
    """Folds `step(chosen, carry)`. `chosen` marks the first positive of each row, then the second, and so on."""
    number = jnp.cumsum(positive, axis=1, dtype=jnp.int32)

    def next_step(k, carry):
        return step(positive & (number == k + 1), carry)

    return jax.lax.fori_loop(0, jnp.max(number), next_step, start)
