"""The original's optimiser as an Optax chain: staircase schedule, TensorFlow's Adam, scaled embedding gradients."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


def staircase_schedule(
    initial: float, decay_rate: float, decay_every: int, stop_step: int, final: float
) -> optax.Schedule:
    """initial x decay_rate^floor(step / decay_every) before `stop_step`, the constant `final` from then on.

    The original: 1e-4, halved every 5,000 steps, 1e-5 from step 15,000.
    """
    decay = optax.exponential_decay(initial, decay_every, decay_rate, staircase=True)
    return optax.join_schedules([decay, optax.constant_schedule(final)], [stop_step])


def create(
    learning_rate: optax.Schedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    embedding_gradient_scale: float = 10.0,
    clip_norm: float = 0.0,
    backbone_rate: float = 1.0,
) -> optax.GradientTransformation:
    """Embedding gradients x 10, then the optional clip of each array, then Adam, as the original orders them.

    Multiplying a gradient by 10 changes little under Adam, which divides the factor out again but for eps and
    the clip; it is kept because the original has it.

    Args:
      learning_rate: schedule, step -> rate; step counts the updates made before.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the root of the raw second moment, see `scale_by_tensorflow_adam`.
      embedding_gradient_scale: factor on the gradients below params["embedding"].
      clip_norm: largest L2 norm of any one array's gradient; 0 does not clip.
      backbone_rate: learning rate of params["backbone"] over that of the rest; 0 freezes it. Today's practice of
        fine-tuning, to which the original's factor on gradients was meant to come.
    """
    steps = [scale_embedding_gradients(embedding_gradient_scale)]
    if clip_norm:
        steps.append(clip_each_by_norm(clip_norm))
    steps += [scale_by_tensorflow_adam(b1, b2, eps), optax.scale_by_learning_rate(learning_rate)]
    if backbone_rate != 1:
        groups = {"backbone": optax.scale(backbone_rate), "embedding": optax.identity()}
        steps.append(optax.partition(groups, lambda params: {name: name for name in params}))
    return optax.chain(*steps)


def weight_penalty(params: Any) -> jax.Array:
    """Sum of 0.5 |w|^2 over all arrays, biases too. It is part of the loss, so its gradient passes through Adam."""
    return 0.5 * sum(jnp.vdot(w, w).astype(jnp.float32) for w in jax.tree.leaves(params))


def scale_embedding_gradients(factor: float) -> optax.GradientTransformation:
    """Multiplies the updates below the top-level key "embedding" by `factor`."""

    def update(updates, state, params=None):
        del params
        return {k: jax.tree.map(lambda g: factor * g, v) if k == "embedding" else v for k, v in updates.items()}, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def clip_each_by_norm(max_norm: float) -> optax.GradientTransformation:
    """Scales each array's update down to L2 norm `max_norm` where it is longer (optax clips the global norm)."""

    def clip(g):
        norm = optax.safe_norm(g, min_norm=1e-30)
        return g * jnp.minimum(1.0, max_norm / norm).astype(g.dtype)

    def update(updates, state, params=None):
        del params
        return jax.tree.map(clip, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


class TensorflowAdamState(NamedTuple):
    count: jax.Array
    mu: Any
    nu: Any


def scale_by_tensorflow_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Adam in the form of tf.train.AdamOptimizer: sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps).

    optax.scale_by_adam adds eps to the corrected root instead, which differs while t is small: no constant
    eps there gives this update.
    """

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return TensorflowAdamState(jnp.zeros((), jnp.int32), zeros, jax.tree.map(jnp.zeros_like, params))

    def update(updates, state, params=None):
        del params
        count = optax.safe_increment(state.count)
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, updates)
        # 1 - b^t from the exponential's small end: float32 loses three digits of 1 - 0.999 otherwise.
        correction = jnp.sqrt(-jnp.expm1(count * jnp.log(b2))) / -jnp.expm1(count * jnp.log(b1))
        updates = jax.tree.map(lambda m, v: (correction * m / (jnp.sqrt(v) + eps)).astype(m.dtype), mu, nu)
        return updates, TensorflowAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)
