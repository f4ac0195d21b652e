"""Training: one pure step, mapped over the devices with pmap, and the loop around it."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from symm_jax import (
    checkpoint,
    distributed,
    feed,
    images,
    logs,
    loop,
    losses,
    models,
    optim,
    selection,
    workdirs,
)
from symm_jax import config as configs
from symm_jax.data import augment, pairs
from symm_jax.data.arrays import Arrays
from symm_jax.devices import AXIS
from symm_jax.feed import Batch, batches, replicate

_AUGMENT_STREAM, _INIT_STREAM = 1, 2  # independent uses of the one seed, beside feed.pair_key
_STEPS_AHEAD, _PIECES_AHEAD = 2, 1  # dispatched before the loop waits for one: single steps, and many in one


class State(NamedTuple):
    """What a step changes: the number of updates made so far, the parameters, the optimiser's state, the statistics."""

    step: jax.Array
    params: Any
    opt_state: Any
    batch_stats: Any  # running statistics of batch norms that are trained; {} for a model without


class Recipe(NamedTuple):
    """What a run is made of, from its config: pure functions and the key they draw from."""

    model: Any
    loss: Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    augment: Callable[..., jax.Array]
    weight_penalty: float
    key: jax.Array


def create_recipe(config: ml_collections.ConfigDict) -> Recipe:
    """Everything of a run but its data; raises InputError for names and options that do not exist."""
    o = config.optimizer
    schedule = optim.staircase_schedule(
        o.learning_rate, o.decay_rate, o.decay_every, o.stop_step, o.final_learning_rate
    )
    return Recipe(
        model=create_model(config),
        loss=losses.from_config(config.losses),
        optimizer=optim.create(
            schedule,
            b1=o.b1,
            b2=o.b2,
            eps=o.eps,
            embedding_gradient_scale=o.embedding_gradient_scale,
            clip_norm=o.clip_norm,
            backbone_rate=o.backbone_rate,
        ),
        learning_rate=schedule,
        augment=functools.partial(augment.augment, image_size=config.data.image_size, **config.augment),
        weight_penalty=o.weight_penalty,
        key=jax.random.key(config.seed),
    )


def create_model(config: ml_collections.ConfigDict) -> Any:
    """The Linen module that a config names."""
    m = config.model
    return models.create(m.name, dim=m.dim, dtype=m.dtype, param_dtype=m.param_dtype, **m.options)


def init_variables(config: ml_collections.ConfigDict, model: Any, key: jax.Array) -> dict[str, Any]:
    """What a config's model is applied with: random "params", and "batch_stats" where it has them."""
    side = config.data.image_size
    return model.init(key, jnp.zeros((1, side, side, 3), jnp.uint8))


def create_state(
    config: ml_collections.ConfigDict, recipe: Recipe, *, backbone: Any = None, restore_from: Path | None = None
) -> State:
    """The state to start from: the newest checkpoint in the workdir `restore_from`, else random weights.

    `backbone`, if given, are variables of the backbone, as `models.load_pretrained` reads them, to start with.
    """
    init = functools.partial(init_variables, config, recipe.model)
    key = jax.random.fold_in(recipe.key, _INIT_STREAM)
    if restore_from is not None:
        step = checkpoint.steps(restore_from)[-1]
        shapes = jax.eval_shape(init, key)
        opt_state = jax.eval_shape(recipe.optimizer.init, shapes["params"])
        items = checkpoint.restore(restore_from, step, opt_state=opt_state, **shapes)
        return State(jnp.asarray(step, jnp.int32), **({"batch_stats": {}} | items))
    variables = jax.jit(init)(key)
    for kind, values in (backbone or {}).items():
        like = variables[kind]["backbone"]
        variables[kind]["backbone"] = jax.tree.map(lambda w, like: jnp.asarray(w, like.dtype), values, like)
    params = variables["params"]
    return State(jnp.zeros((), jnp.int32), params, recipe.optimizer.init(params), variables.get("batch_stats", {}))


def augment_batch(recipe: Recipe, batch: Batch, step: jax.Array | int, first: jax.Array | int) -> jax.Array:
    """The augmented images (n, 2, side, side, 3) float32 of a batch whose first image is the `first` of all devices'.

    Augmentation is keyed by step and place in the global batch: it does not depend on the number of devices.
    """
    n = len(batch.labels)
    step_key = jax.random.fold_in(jax.random.fold_in(recipe.key, _AUGMENT_STREAM), step)
    keys = jax.vmap(functools.partial(jax.random.fold_in, step_key))(first + jnp.arange(2 * n))
    images = recipe.augment(keys, batch.images.reshape(-1, *batch.images.shape[2:]), batch.shorter.reshape(-1, 2))
    return images.reshape(n, 2, *images.shape[1:])


def train_step(state: State, batch: Batch, recipe: Recipe) -> tuple[State, dict[str, jax.Array]]:
    """One update on this device's share of the batch; runs under a mapped axis AXIS.

    Every device ends with the same state.
    """
    n = len(batch.labels)
    images = augment_batch(recipe, batch, state.step, 2 * n * jax.lax.axis_index(AXIS))
    images = images.reshape(2 * n, *images.shape[2:])

    def objective(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        embeddings, changed = recipe.model.apply(variables, images, mutable=["batch_stats"])
        embeddings = embeddings.reshape(n, 2, -1)
        loss, metrics = recipe.loss(embeddings[:, 0], embeddings[:, 1], batch.labels, axis_name=AXIS)
        metrics |= {"embedding_norm": jnp.linalg.norm(embeddings.astype(jnp.float32), axis=-1).mean()}
        penalty = recipe.weight_penalty * optim.weight_penalty(params)
        metrics = {"loss": loss, "weight_penalty": penalty} | metrics
        return loss + penalty, (metrics, changed.get("batch_stats", {}))

    # The loss is the mean over this device's rows against all devices' columns; all_gather's transpose returns
    # the columns' gradients to their devices, so the mean over AXIS is the whole batch's gradient.
    (_, (metrics, batch_stats)), gradients = jax.value_and_grad(objective, has_aux=True)(state.params)
    metrics, gradients = jax.lax.pmean((metrics, gradients), AXIS)
    metrics |= {"gradient_norm": optax.tree.norm(gradients), "learning_rate": recipe.learning_rate(state.step)}
    updates, opt_state = recipe.optimizer.update(gradients, state.opt_state, state.params)
    # In float64 Flax hands back wider statistics than it was given.
    batch_stats = jax.tree.map(lambda x, like: x.astype(like.dtype), batch_stats, state.batch_stats)
    return State(state.step + 1, optax.apply_updates(state.params, updates), opt_state, batch_stats), metrics


def train_steps(
    state: State, resident: feed.Resident, count: jax.Array, recipe: Recipe, num_pairs: int
) -> tuple[State, dict[str, jax.Array]]:
    """`count` updates, with the same batches as `feed.batches` has of the same images; metrics are the last one's."""
    share = num_pairs // jax.lax.axis_size(AXIS)

    def step(state):
        index = pairs.sample(feed.pair_key(recipe.key), state.step, resident.table, num_pairs)
        index = jax.lax.dynamic_slice_in_dim(index, share * jax.lax.axis_index(AXIS), share)
        batch = Batch(resident.images[index], resident.shorter[index], resident.labels[index[:, 0]])
        return train_step(state, batch, recipe)

    metrics = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(step, state)[1])
    return jax.lax.fori_loop(0, count, lambda _, carry: step(carry[0]), (state, metrics))


def pmap_train_step(recipe: Recipe) -> Callable[[State, Batch], tuple[State, dict[str, jax.Array]]]:
    """`train_step` over the local devices: a replicated state and a batch with a leading axis of devices."""
    return jax.pmap(lambda state, batch: train_step(state, batch, recipe), axis_name=AXIS, donate_argnums=0)


def pmap_train_steps(recipe: Recipe, num_pairs: int) -> Callable[..., tuple[State, dict[str, jax.Array]]]:
    """`train_steps` over the devices: (replicated state, resident images a device, count)."""
    steps = functools.partial(train_steps, recipe=recipe, num_pairs=num_pairs)
    return jax.pmap(steps, axis_name=AXIS, in_axes=(0, 0, None), donate_argnums=0)


def train(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Trains to config.num_steps, from the newest checkpoint in `workdir` if there is one.

    Of several processes all call this, with the same config and one workdir that they share.

    Raises:
      InputError: something is wrong with the config, the data or the workdir; nothing has been compiled then.
      FloatingPointError: the loss or a gradient is no longer finite; the last checkpoint is from before.
      SystemExit: SIGTERM (143) or Ctrl-C (130) came; the state has been saved.
    """
    recipe = create_recipe(config)
    workdirs.check_config(workdir, config)
    finished = checkpoint.steps(workdir)
    pretrained = not finished and config.model.pretrained
    option = {"train_batch_norm": config.model.options.get("train_batch_norm", False)}
    backbone = models.load_pretrained(config.model.name, pretrained, **option) if pretrained else None
    arrays = images.load_train(config)
    # Loaded now, so that a corrupt test image does not wait for the end of training to be found.
    test, _ = images.load_evaluation(config)
    num_pairs = config.batch_size // 2
    rows, _ = pairs.hold_out(arrays.labels, config.data.validation_classes)
    table = pairs.class_table(arrays.labels, rows)
    pairs.require_classes(table, num_pairs)
    data = images.fingerprints("train", arrays) | images.fingerprints("test", test)
    first_step = finished[-1] if finished else 0
    _require_agreement(config, workdir, data, first_step)
    with workdirs.writing(workdir, config), contextlib.ExitStack() as stack:
        workdirs.check_data(workdir, data)
        state = create_state(config, recipe, backbone=backbone, restore_from=workdir if finished else None)
        stays = config.data.on_device == "always" or (config.data.on_device == "auto" and feed.fits(arrays))
        log = None
        if distributed.is_main():
            _describe(config, workdir, arrays, rows, state, first_step, stays)
            logs.truncate(logs.metrics_path(workdir, "eval"), first_step)
            selection.forget_best(workdir, first_step)
            workdirs.mark_finished(workdir, None)
            log = stack.enter_context(logs.MetricLog(workdir, "train", first_step))
        work = _of_resident if stays else _of_fed
        with checkpoint.Writer(workdir, configs.to_dict(config)) as writer, distributed.ending_with_the_lost():
            loop.run(
                config,
                replicate(state),
                first_step,
                work(config, recipe, arrays, table, first_step),
                _PIECES_AHEAD if stays else _STEPS_AHEAD,
                writer,
                log,
            )
        # Only now: leaving the writer has waited for the last checkpoint.
        if distributed.is_main():
            workdirs.mark_finished(workdir, max(first_step, config.num_steps))


def _of_fed(config, recipe, arrays, table, first_step) -> Iterator[loop.Dispatch]:
    """Step by step, each with the batch that it is fed."""
    run = pmap_train_step(recipe)
    pairs_and_devices = config.batch_size // 2, jax.device_count()
    stream = batches(
        arrays, table, recipe.key, first_step, config.num_steps, *pairs_and_devices, local=feed.local_devices()
    )
    for end, batch in enumerate(feed.ahead(stream), first_step + 1):
        yield loop.Dispatch(end, lambda state, batch=batch: run(state, batch))


def _of_resident(config, recipe, arrays, table, first_step) -> Iterator[loop.Dispatch]:
    """From one step that is logged or saved to the next, on images that lie on the devices."""
    run = pmap_train_steps(recipe, config.batch_size // 2)
    resident = replicate(feed.Resident(arrays.images, arrays.shorter, arrays.labels, table))
    for start, end in feed.spans(first_step, config.num_steps, config.log_every, config.checkpoint_every):
        yield loop.Dispatch(end, lambda state, count=end - start: run(state, resident, count))


def _require_agreement(config, workdir: Path, data: dict[str, str], first_step: int) -> None:
    """Several processes must be of one run; where each keeps its copy of the data is its own matter."""
    facts = {f"config.{k}": v for k, v in configs.flat(configs.to_dict(config)).items()}
    for own in ("data.dir", "data.cache_dir", "model.pretrained"):
        facts.pop(f"config.{own}")
    facts |= data | {"--workdir": str(workdir), "newest checkpoint": first_step, "devices": jax.local_device_count()}
    distributed.require_agreement(facts)


def _describe(config, workdir: Path, arrays: Arrays, rows, state: State, first_step: int, stays: bool) -> None:
    count = sum(w.size for w in jax.tree.leaves(state.params))
    device = jax.local_devices()[0]
    start = f"resumed from step {first_step}" if first_step else config.model.pretrained or "from scratch"
    processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    print(f"workdir   {workdir}")
    print(f"devices   {jax.device_count()} x {device.device_kind}{processes}")
    print(
        f"train     {len(rows):,} images of {len(np.unique(arrays.labels[rows]))} classes, "
        f"{arrays.images.shape[1]} px, {arrays.images.nbytes / 1e6:,.0f} MB "
        + ("on each device" if stays else "in a memory map")
    )
    print(f"model     {config.model.name}, {count:,} parameters, {start}")
