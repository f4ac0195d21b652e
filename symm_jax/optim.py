"""The original's optimiser as an Optax chain: staircase schedule, TensorFlow's Adam, scaled embedding gradients."""

from collections.abc import Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


def staircase_schedule(
    initial: float, decay_rate: float, decay_every: int, stop_step: int, final: float
) -> optax.Schedule:
    """Creates the schedule initial x decay_rate^floor(step / decay_every), and the constant `final` from `stop_step`.

    The original: 1e-4, halved every 5,000 steps, then 1e-5 from step 15,000.
    """
    # Optax's own staircase divides floating numbers. Compiled, 41 / 41 may be below 1, and the decay a step late.
    decay = optax.exponential_decay(initial, 1, decay_rate)
    stairs = [lambda step: decay(step // decay_every), optax.constant_schedule(final)]
    return optax.join_schedules(stairs, [stop_step])


def create(
    learning_rate: optax.Schedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    embedding_gradient_scale: float = 10.0,
    clip_norm: float = 0.0,
    backbone_rate: float = 1.0,
    proxy_rate: float = 1.0,
) -> optax.GradientTransformation:
    """Creates the optimiser: embedding gradients x 10, then an optional clip of each array, then Adam.

    The order is that of the original. The factor 10 has little effect, because Adam divides by the size of the
    gradient. Only eps and the clip depend on it. It is kept because the original has it.

    Args:
      learning_rate: schedule, step -> learning rate. The first update has step 0.
      b1: decay of the first moment, between 0 and 1.
      b2: decay of the second moment, between 0 and 1.
      eps: term added to the root of the uncorrected second moment, see `scale_by_tensorflow_adam`.
      embedding_gradient_scale: factor of the gradients of params["embedding"].
      clip_norm: largest L2 norm of the gradient of an array; 0: no clip.
      backbone_rate: learning rate of params["backbone"] divided by that of the other parameters; 0 freezes the
        backbone. Fine-tuning today does this. The original's factor of gradients has the same purpose.
      proxy_rate: learning rate of params["proxies"] divided by that of the embedding. Only with proxies.

    Returns:
      The transformation. params has the top-level keys "backbone" and "embedding", and with proxy losses "proxies".
    """
    steps = [scale_embedding_gradients(embedding_gradient_scale)]
    if clip_norm:
        steps.append(clip_each_by_norm(clip_norm))
    steps += [scale_by_tensorflow_adam(b1, b2, eps), optax.scale_by_learning_rate(learning_rate)]
    if backbone_rate != 1:
        groups: dict[Hashable, optax.GradientTransformation] = {
            "backbone": optax.scale(backbone_rate),
            "embedding": optax.identity(),
        }
        steps.append(
            optax.partition(groups, lambda params: {name: name if name in groups else "embedding" for name in params})
        )
    if proxy_rate != 1:
        steps.append(_scale_key("proxies", proxy_rate))
    return optax.chain(*steps)


@jax.custom_vjp
def weight_penalty(params: Any) -> jax.Array:
    """L2 regularisation: the sum of 0.5 |w|^2 over all arrays, also biases, as a float32 scalar (float64 for float64).

    It is part of the loss, so its gradient passes through Adam.
    """
    return 0.5 * sum_of_squares(params)


def _penalty_forward(params):
    # Adam waits for the value, or XLA would copy the arrays for it before Adam changes them.
    return jax.lax.optimization_barrier((weight_penalty(params), params))


def _penalty_backward(params, factor):
    return (jax.tree.map(lambda w: (factor * w).astype(w.dtype), params),)


weight_penalty.defvjp(_penalty_forward, _penalty_backward)


def sum_of_squares(tree: Any) -> jax.Array:
    """The sum of the squares of all numbers, as a float32 scalar (float64 for float64).

    For bfloat16 arrays, optax.tree.norm(squared=True) would add the terms and return the sum in bfloat16. One sum over
    joined arrays is three kernels on a GPU. A sum for each array would be hundreds, and XLA would merge the arrays'
    updates with them and copy the arrays first; the barrier prevents it.
    """
    arrays = [x.ravel().astype(jnp.promote_types(x.dtype, jnp.float32)) for x in jax.tree.leaves(tree)]
    joined = jax.lax.optimization_barrier(jnp.concatenate(arrays))
    return jnp.vdot(joined, joined)


def scale_embedding_gradients(factor: float) -> optax.GradientTransformation:
    """Multiplies the updates of the top-level key "embedding" by `factor`."""
    return _scale_key("embedding", factor)


def _scale_key(key: str, factor: float) -> optax.GradientTransformation:
    def update(updates, state, params=None):
        del params
        return {k: jax.tree.map(lambda g: factor * g, v) if k == key else v for k, v in updates.items()}, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def clip_each_by_norm(max_norm: float) -> optax.GradientTransformation:
    """Scales the update of each array to L2 norm `max_norm` if its norm is larger. Optax clips the global norm."""

    def clip(g):
        norm = optax.safe_norm(g, min_norm=1e-30)
        return g * jnp.minimum(1.0, max_norm / norm).astype(g.dtype)

    def update(updates, state, params=None):
        del params
        return jax.tree.map(clip, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


class TensorflowAdamState(NamedTuple):
    """The number of updates so far, and the moments of the gradients."""

    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]  # checkpoints and optax use this name
    mu: Any
    nu: Any


def scale_by_tensorflow_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Adam in the form of tf.train.AdamOptimizer: sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps).

    optax.scale_by_adam adds eps to the corrected root. The updates differ while t is small, for any constant eps.
    """

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return TensorflowAdamState(jnp.zeros((), jnp.int32), zeros, jax.tree.map(jnp.zeros_like, params))

    def update(updates, state, params=None):
        del params
        count = jnp.asarray(optax.safe_increment(state.count))
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, updates)
        # expm1 computes 1 - b^t with full precision. In float32, 1 - 0.999 loses three digits.
        correction = jnp.sqrt(-jnp.expm1(count * jnp.log(b2))) / -jnp.expm1(count * jnp.log(b1))
        updates = jax.tree.map(lambda m, v: (correction * m / (jnp.sqrt(v) + eps)).astype(m.dtype), mu, nu)
        return updates, TensorflowAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)
