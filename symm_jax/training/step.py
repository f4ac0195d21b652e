"""One training step as a pure function, mapped over the devices with pmap in one place."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from symm_jax import models, optim
from symm_jax.data import pairs
from symm_jax.devices import AXIS
from symm_jax.run import checkpoints
from symm_jax.training import batches, gradient_cache
from symm_jax.training.batches import Batch
from symm_jax.training.recipe import Recipe

# Independent uses of the run's key; `batches.pair_key` is stream 0.
_AUGMENT_STREAM, _INIT_STREAM, _LOSS_STREAM, _PROXY_STREAM = 1, 2, 3, 4


class State(NamedTuple):
    """The state of training.

    step: number of updates made so far.
    params: parameters of the network, and params["proxies"], those of losses that have proxies.
    opt_state: state of the optimiser.
    batch_stats: running statistics of batch norms that are trained; {} for a network without.
    queues: what losses keep of past steps, the same on every device; {} for losses that keep nothing.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    batch_stats: Any
    queues: Any = {}  # noqa: RUF012


def create_state(recipe: Recipe, *, classes: int = 0, backbone: Any = None, restore_from: Path | None = None) -> State:
    """The state to start from.

    Args:
      recipe: the parts of the run.
      classes: number of training classes. Only proxy losses need it.
      backbone: pretrained variables of the backbone, as `models.load_pretrained` reads them; None for random ones.
      restore_from: a workdir, whose newest checkpoint that is not damaged is read; None for a new state.
    """

    def init(key):
        variables = models.init_variables(recipe.model, recipe.image_size, key)
        proxies = recipe.create_proxies(jax.random.fold_in(recipe.key, _PROXY_STREAM), classes)
        return variables | {"params": variables["params"] | ({"proxies": proxies} if proxies else {})}

    key = jax.random.fold_in(recipe.key, _INIT_STREAM)
    if restore_from is not None:
        shapes = jax.eval_shape(init, key)
        opt_state = jax.eval_shape(recipe.optimizer.init, shapes["params"])
        network, proxies = checkpoints.split_proxies(shapes["params"])
        shapes |= {"params": network} | ({"proxies": proxies} if proxies else {})
        if queues := jax.eval_shape(functools.partial(recipe.create_queues, classes)):
            shapes["queues"] = queues
        step, items = checkpoints.restore_newest(restore_from, opt_state=opt_state, **shapes)
        if proxies:
            items["params"] |= {"proxies": items.pop("proxies")}
        return State(jnp.asarray(step, jnp.int32), **({"batch_stats": {}} | items))
    variables = jax.jit(init)(key)
    for kind, values in (backbone or {}).items():
        like = variables[kind]["backbone"]
        variables[kind]["backbone"] = jax.tree.map(lambda w, like: jnp.asarray(w, like.dtype), values, like)
    params = variables["params"]
    opt_state, batch_stats = recipe.optimizer.init(params), variables.get("batch_stats", {})
    return State(jnp.zeros((), jnp.int32), params, opt_state, batch_stats, recipe.create_queues(classes))


def augment_batch(recipe: Recipe, batch: Batch, step: jax.Array | int, first: jax.Array | int) -> jax.Array:
    """Augments a batch. The result does not depend on the number of devices.

    Args:
      recipe: the parts of the run.
      batch: the pairs of one device.
      step: the step. The key of an image follows from the step and its position in the batch of all devices.
      first: position of the batch's first image in the batch of all devices.

    Returns:
      (n, 2, side, side, 3) float32.
    """
    n = len(batch.labels)
    step_key = jax.random.fold_in(jax.random.fold_in(recipe.key, _AUGMENT_STREAM), step)
    keys = jax.vmap(functools.partial(jax.random.fold_in, step_key))(first + jnp.arange(2 * n))
    images = batch.images.reshape(2 * n, *batch.images.shape[2:])
    images = recipe.augment(keys, images, batch.short_side_ratio.reshape(2 * n, 2))
    return images.reshape(n, 2, *images.shape[1:])


def train_step(state: State, batch: Batch, recipe: Recipe) -> tuple[State, dict[str, jax.Array]]:
    """One update on this device's part of the batch. It runs under the mapped axis AXIS.

    Every device ends with the same state.
    """
    n = len(batch.labels)
    first = 2 * n * jax.lax.axis_index(AXIS)
    key = jax.random.fold_in(jax.random.fold_in(recipe.key, _LOSS_STREAM), state.step)

    def embed(params, part):
        """Embeddings (k, 2, dim) of k pairs, which are given with the position of their first image; and statistics."""
        pairs, first = part
        images = augment_batch(recipe, pairs, state.step, first)
        variables = {"params": checkpoints.split_proxies(params)[0], "batch_stats": state.batch_stats}
        images = images.reshape(-1, *images.shape[2:])
        embeddings, changed = recipe.model.apply(variables, images, mutable=["batch_stats"])
        return embeddings.reshape(len(pairs.labels), 2, -1), changed.get("batch_stats", {})

    def objective(params, embeddings):
        network, proxies = checkpoints.split_proxies(params)
        options = {"proxies": proxies} if proxies else {}
        options |= {"queues": state.queues} if state.queues else {}
        anchor, positive = embeddings[:, 0], embeddings[:, 1]
        loss, metrics = recipe.loss(anchor, positive, batch.labels, axis_name=AXIS, key=key, **options)
        queues = recipe.push_queues(state.queues, anchor, positive, batch.labels, proxies, axis_name=AXIS)
        metrics |= {"embedding_norm": jnp.linalg.norm(embeddings.astype(jnp.float32), axis=-1).mean()}
        # Losses use the direction of proxies only, so a penalty on their norms would only change their learning rate.
        penalty = recipe.weight_penalty * optim.weight_penalty(network)
        return loss + penalty, ({"loss": loss, "weight_penalty": penalty} | metrics, queues)

    def whole_objective(params):
        embeddings, batch_stats = embed(params, (batch, first))
        value, (metrics, queues) = objective(params, embeddings)
        return value, (metrics, queues, batch_stats)

    # The loss is the mean over the rows of this device, compared with the columns of all devices. The transpose of
    # all_gather returns the gradients of the columns to their devices. So the mean over AXIS (that of `pmap` below) is
    # the gradient of the whole batch.
    if recipe.micro_batch and recipe.micro_batch < 2 * n:
        parts = _split(batch, first, recipe.micro_batch)
        (_, (metrics, queues)), gradients = gradient_cache.value_and_grad(
            lambda *arguments: embed(*arguments)[0], objective, state.params, parts
        )
        batch_stats = state.batch_stats
    else:
        with_gradients = jax.value_and_grad(whole_objective, has_aux=True)
        (_, (metrics, queues, batch_stats)), gradients = with_gradients(state.params)
    if jax.lax.axis_size(AXIS) > 1:  # on one device XLA would copy each array
        metrics, gradients = jax.lax.pmean((metrics, gradients), AXIS)
    gradient_norm = jnp.sqrt(optim.sum_of_squares(gradients))
    metrics |= {"gradient_norm": gradient_norm, "learning_rate": recipe.learning_rate(state.step)}
    updates, opt_state = recipe.optimizer.update(gradients, state.opt_state, state.params)
    # In float64 Flax returns wider statistics than it was given.
    batch_stats = jax.tree.map(lambda x, like: x.astype(like.dtype), batch_stats, state.batch_stats)
    params = optax.apply_updates(state.params, updates)
    return State(state.step + 1, params, opt_state, batch_stats, queues), metrics


def _split(batch: Batch, first: jax.Array, size: int) -> tuple[Batch, jax.Array]:
    """The batch in parts of `size` images, (parts, size / 2, ...), and the position of the first image of each."""
    parts = 2 * len(batch.labels) // size
    return jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch), first + size * jnp.arange(parts)


def train_steps(
    state: State,
    resident: batches.Resident,
    count: jax.Array,
    recipe: Recipe,
    num_pairs: int,
    images_per_class: int = 2,
) -> tuple[State, dict[str, jax.Array]]:
    """`count` updates with the batches that `batches.generate` makes of the same images; metrics of the last one."""
    share = num_pairs // jax.lax.axis_size(AXIS)

    def step(state):
        index = pairs.sample(batches.pair_key(recipe.key), state.step, resident.table, num_pairs, images_per_class)
        index = jax.lax.dynamic_slice_in_dim(index, share * jax.lax.axis_index(AXIS), share)
        return train_step(state, batches.gather(resident, index, images_per_class), recipe)

    metrics = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(step, state)[1])
    return jax.lax.fori_loop(0, count, lambda _, carry: step(carry[0]), (state, metrics))


def pmap_train_step(recipe: Recipe) -> Callable[[State, Batch], tuple[State, dict[str, jax.Array]]]:
    """`train_step` over the local devices: a replicated state and a batch with a leading axis of devices."""
    return jax.pmap(lambda state, batch: train_step(state, batch, recipe), axis_name=AXIS, donate_argnums=0)


def pmap_train_steps(
    recipe: Recipe, num_pairs: int, images_per_class: int = 2
) -> Callable[..., tuple[State, dict[str, jax.Array]]]:
    """`train_steps` over the devices: (replicated state, resident images a device, count)."""
    steps = functools.partial(train_steps, recipe=recipe, num_pairs=num_pairs, images_per_class=images_per_class)
    return jax.pmap(steps, axis_name=AXIS, in_axes=(0, 0, None), donate_argnums=0)
