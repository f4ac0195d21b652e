"""The gradient of a batch whose network does not fit into memory at once (Gao et al., RepL4NLP 2021, GradCache).

The network embeds the batch in parts without a gradient. The loss of all embeddings gives the gradient of each of them.
Then the network runs on each part again, and its gradient continues from there. The result is that of the whole batch.
Memory is that of one part, and of the embeddings.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def value_and_grad(
    embed: Callable[[Any, Any], jax.Array],
    objective: Callable[[Any, jax.Array], tuple[jax.Array, Any]],
    params: Any,
    parts: Any,
) -> tuple[tuple[jax.Array, Any], Any]:
    """The value and the gradient of objective(params, embeddings of all parts).

    Args:
      embed: (params, part) -> embeddings (k, ...). It must give the same each time it is called.
      objective: (params, embeddings (parts * k, ...)) -> (scalar, tree of further results).
      params: tree of parameters.
      parts: tree of arrays (parts, ...).

    Returns:
      ((value, further results), gradients with respect to `params`).
    """
    embeddings = jax.lax.map(lambda part: embed(params, part), parts)
    whole = embeddings.reshape(-1, *embeddings.shape[2:])
    with_gradients = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
    value, (gradients, cotangents) = with_gradients(params, whole)

    def add(total, both):
        part, cotangent = both
        (gradient,) = jax.vjp(lambda params: embed(params, part), params)[1](cotangent)
        return jax.tree.map(jnp.add, total, gradient), None

    return value, jax.lax.scan(add, gradients, (parts, cotangents.reshape(embeddings.shape)))[0]
