"""Training: one pure step, mapped over the devices with pmap, and the loop around it."""

import collections
import contextlib
import functools
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import tqdm

from symm_jax import checkpoint, images, logs, losses, models, optim, selection, workdirs
from symm_jax import config as configs
from symm_jax.data import augment, pairs
from symm_jax.data.arrays import Arrays

AXIS = "devices"
_PAIR_STREAM, _AUGMENT_STREAM, _INIT_STREAM = range(3)  # independent uses of the one seed
_STEPS_AHEAD = 2  # dispatched before the loop waits: the next batch is gathered while the device works


class State(NamedTuple):
    """What a step changes. The number of updates made so far is `step`."""

    step: jax.Array
    params: Any
    opt_state: Any


class Recipe(NamedTuple):
    """What a run is made of, from its config: pure functions and the key they draw from."""

    model: Any
    loss: Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    augment: Callable[..., jax.Array]
    weight_penalty: float
    key: jax.Array


class Batch(NamedTuple):
    """images (n, 2, side, side, 3) uint8 of anchor and positive, shorter (n, 2, 2) float32, labels (n,) int32."""

    images: jax.Array
    shorter: jax.Array
    labels: jax.Array


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


def init_params(config: ml_collections.ConfigDict, model: Any, key: jax.Array) -> Any:
    """Random parameters of a config's model."""
    side = config.data.image_size
    return model.init(key, jnp.zeros((1, side, side, 3), jnp.uint8))["params"]


def create_state(
    config: ml_collections.ConfigDict, recipe: Recipe, *, backbone: Any = None, restore_from: Path | None = None
) -> State:
    """The state to start from: the newest checkpoint in the workdir `restore_from`, else random weights.

    `backbone`, if given, replaces the random weights of the backbone.
    """
    init = functools.partial(init_params, config, recipe.model)
    key = jax.random.fold_in(recipe.key, _INIT_STREAM)
    if restore_from is not None:
        step = checkpoint.steps(restore_from)[-1]
        params = jax.eval_shape(init, key)
        items = checkpoint.restore(
            restore_from, step, params=params, opt_state=jax.eval_shape(recipe.optimizer.init, params)
        )
        return State(jnp.asarray(step, jnp.int32), **items)
    params = jax.jit(init)(key)
    if backbone is not None:
        params["backbone"] = jax.tree.map(lambda w, like: jnp.asarray(w, like.dtype), backbone, params["backbone"])
    return State(jnp.zeros((), jnp.int32), params, recipe.optimizer.init(params))


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
        embeddings = recipe.model.apply({"params": params}, images).reshape(n, 2, -1)
        loss, metrics = recipe.loss(embeddings[:, 0], embeddings[:, 1], batch.labels, axis_name=AXIS)
        penalty = recipe.weight_penalty * optim.weight_penalty(params)
        return loss + penalty, {"loss": loss, "weight_penalty": penalty} | metrics

    # The loss is the mean over this device's rows against all devices' columns; all_gather's transpose returns
    # the columns' gradients to their devices, so the mean over AXIS is the whole batch's gradient.
    (_, metrics), gradients = jax.value_and_grad(objective, has_aux=True)(state.params)
    metrics, gradients = jax.lax.pmean((metrics, gradients), AXIS)
    metrics |= {"gradient_norm": optax.tree.norm(gradients), "learning_rate": recipe.learning_rate(state.step)}
    updates, opt_state = recipe.optimizer.update(gradients, state.opt_state, state.params)
    return State(state.step + 1, optax.apply_updates(state.params, updates), opt_state), metrics


def pmap_train_step(recipe: Recipe) -> Callable[[State, Batch], tuple[State, dict[str, jax.Array]]]:
    """`train_step` over the local devices: a replicated state and a batch with a leading axis of devices."""
    return jax.pmap(lambda state, batch: train_step(state, batch, recipe), axis_name=AXIS, donate_argnums=0)


def replicate(tree: Any) -> Any:
    """A copy on every local device, as a leading axis."""
    devices = jax.local_device_count()
    copy = jax.pmap(lambda _, x: x, axis_name=AXIS, in_axes=(0, None))
    return copy(np.arange(devices), tree)


def unreplicate(tree: Any) -> Any:
    """The first device's copy."""
    return jax.tree.map(lambda x: x.addressable_shards[0].data.squeeze(0), tree)


def batches(
    arrays: Arrays,
    table: pairs.ClassTable,
    key: jax.Array,
    first_step: int,
    num_steps: int,
    num_pairs: int,
    num_devices: int,
) -> Iterator[Batch]:
    """The batches of steps first_step .. num_steps - 1, split over devices: arrays (devices, n, ...)."""
    key = jax.random.fold_in(key, _PAIR_STREAM)
    chunk = 128  # steps whose indices are drawn at once
    for start in range(first_step, num_steps, chunk):
        for index in pairs.sample_steps(key, start, min(chunk, num_steps - start), table, num_pairs):
            index = index.reshape(num_devices, -1, 2)
            yield Batch(arrays.images[index], arrays.shorter[index], arrays.labels[index[..., 0]])


def train(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Trains to config.num_steps, from the newest checkpoint in `workdir` if there is one.

    Raises:
      InputError: something is wrong with the config, the data or the workdir; nothing has been compiled then.
      FloatingPointError: the loss or a gradient is no longer finite; the last checkpoint is from before.
      SystemExit: SIGTERM (143) or Ctrl-C (130) came; the state has been saved.
    """
    recipe = create_recipe(config)
    workdirs.check_config(workdir, config)
    finished = checkpoint.steps(workdir)
    pretrained = not finished and config.model.pretrained
    backbone = models.load_pretrained(config.model.name, pretrained) if pretrained else None
    arrays = images.load_train(config)
    # Loaded now, so that a corrupt test image does not wait for the end of training to be found.
    test, _ = images.load_evaluation(config)
    num_pairs = config.batch_size // 2
    rows, _ = pairs.hold_out(arrays.labels, config.data.validation_classes)
    table = pairs.class_table(arrays.labels, rows)
    pairs.require_classes(table, num_pairs)
    with workdirs.writing(workdir, config):
        workdirs.check_data(workdir, {"train": images.fingerprint(arrays), "test": images.fingerprint(test)})
        state = create_state(config, recipe, backbone=backbone, restore_from=workdir if finished else None)
        first_step = finished[-1] if finished else 0
        _describe(config, workdir, arrays, rows, state, first_step)
        stream = batches(arrays, table, recipe.key, first_step, config.num_steps, num_pairs, jax.local_device_count())
        logs.truncate(logs.metrics_path(workdir, "eval"), first_step)
        selection.forget_best(workdir, first_step)
        workdirs.mark_finished(workdir, None)
        with (
            checkpoint.Writer(workdir, configs.to_dict(config)) as writer,
            logs.MetricLog(workdir, "train", first_step) as log,
            _stop_signals() as stop,
        ):
            _loop(config, recipe, state, first_step, stream, writer, log, stop)
        # Only now: leaving the writer has waited for the last checkpoint.
        workdirs.mark_finished(workdir, max(first_step, config.num_steps))


def _loop(config, recipe, state, first_step, stream, writer, log, stop) -> None:
    step_fn = pmap_train_step(recipe)
    state = replicate(state)
    pending = collections.deque()
    bar = tqdm.tqdm(total=config.num_steps, initial=first_step, unit="step", desc="train", dynamic_ncols=True)
    last_log, last_time = first_step, time.monotonic()

    def save(step: int) -> None:
        _, params, opt_state = jax.device_get(unreplicate(state))
        writer.save(step, params, opt_state)

    with bar:
        for step, batch in enumerate(stream, first_step + 1):
            state, metrics = step_fn(state, batch)
            pending.append(metrics)
            if len(pending) > _STEPS_AHEAD:
                jax.block_until_ready(pending.popleft())
            bar.update()
            logging, saving = step % config.log_every == 0, step % config.checkpoint_every == 0
            if logging or saving or stop or step == config.num_steps:
                values = {name: float(x) for name, x in jax.device_get(unreplicate(metrics)).items()}
                _require_finite(values, step, config.seed)
                now = time.monotonic()
                rate = (step - last_log) * config.batch_size / (now - last_time)
                last_log, last_time = step, now
                if logging:
                    log.write(step, values | {"images_per_second": rate})
                bar.set_postfix(
                    loss=f"{values['loss']:.3f}", rate=f"{values['learning_rate']:.1e}", images_per_s=f"{rate:.0f}"
                )
            if saving or stop or step == config.num_steps:
                save(step)
            if stop:
                bar.write(f"stopped by {stop[0].name} at step {step}; the same command goes on from there")
                sys.exit(128 + stop[0])


def _require_finite(values: dict[str, float], step: int, seed: int) -> None:
    bad = [f"{name} = {values[name]}" for name in ("loss", "gradient_norm") if not math.isfinite(values[name])]
    if bad:
        raise FloatingPointError(
            f"training diverged by step {step} (seed {seed}): {', '.join(bad)}; nothing was saved since the last "
            "checkpoint. Try a lower --config.optimizer.learning_rate"
        )


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[signal.Signals]]:
    """Yields a list that SIGTERM or Ctrl-C adds itself to; a second one acts at once."""
    received: list[signal.Signals] = []
    numbers = (signal.SIGTERM, signal.SIGINT)
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.getsignal(number) for number in numbers}

    def receive(number, _):
        received.append(signal.Signals(number))
        for n, handler in before.items():
            signal.signal(n, handler)

    for number in numbers:
        signal.signal(number, receive)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _describe(config, workdir: Path, arrays: Arrays, rows: np.ndarray, state: State, first_step: int) -> None:
    count = sum(w.size for w in jax.tree.leaves(state.params))
    device = jax.local_devices()[0]
    start = f"resumed from step {first_step}" if first_step else config.model.pretrained or "from scratch"
    print(f"workdir   {workdir}")
    print(f"devices   {jax.local_device_count()} x {device.device_kind}")
    print(
        f"train     {len(rows):,} images of {len(np.unique(arrays.labels[rows]))} classes, "
        f"{arrays.images.shape[1]} px, {arrays.images.nbytes / 1e6:,.0f} MB"
    )
    print(f"model     {config.model.name}, {count:,} parameters, {start}")
