"""The training of a run, from its config to its last checkpoint."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from flax.traverse_util import flatten_dict

from symm_jax import distributed, errors, files, models
from symm_jax.data import datasets, download, pairs, sources, splits
from symm_jax.data.arrays import Arrays
from symm_jax.errors import InputError
from symm_jax.run import best, checkpoints, metric_log, paths
from symm_jax.run import workdir as workdirs
from symm_jax.training import batches, loop
from symm_jax.training.recipe import Plan, Pretrained, create_plan
from symm_jax.training.step import State, create_state, pmap_train_step, pmap_train_steps

_STEPS_AHEAD, _CHUNKS_AHEAD = 2, 2  # dispatched before the loop waits for a result: single steps, chunks of steps


def train(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Trains to config.num_steps, from the newest checkpoint in `workdir` if there is one.

    With several processes, each calls this with the same config and the same shared workdir.

    Raises:
      InputError: something is wrong with the config, the data or the workdir. Nothing has been compiled then.
      FloatingPointError: the loss, a gradient or the updated state is not finite. Saved checkpoints are from before.
      OSError: a checkpoint could not be saved, e.g. because the disk is full. Earlier ones are intact.
      SystemExit: SIGTERM (143), SIGHUP (129) or Ctrl-C (130) came. The state has been saved.
    """
    plan = create_plan(config)
    workdirs.check_config(workdir, plan.config)
    finished = checkpoints.steps(workdir)
    backbone = None if finished else load_backbone(plan.pretrained)
    arrays, test, rows, table = load_data(plan)
    data = splits.fingerprint("train", arrays) | splits.fingerprint("test", test)
    labels, classes = pairs.number_classes(arrays.labels, rows)
    arrays = arrays._replace(labels=labels)
    _require_agreement(plan, workdir, data, finished[-1] if finished else 0)
    with workdirs.claim(workdir, plan.config, data), contextlib.ExitStack() as stack:
        state = _first_state(plan, classes, backbone, workdir, resumes=bool(finished))
        first_step = int(state.step)
        if first_step > plan.num_steps:
            raise InputError(
                f"{plan.num_steps}, but {workdir} holds a checkpoint of step {first_step}. Pass at least that many, or "
                "another --workdir.",
                argument="num_steps",
            )
        resident = plan.on_device == "always" or (plan.on_device == "auto" and batches.fits_in_device_memory(arrays))
        log = None
        if distributed.is_main():
            workdirs.write_config(workdir, plan.config)
            _print_summary(plan, workdir, arrays, rows, state, first_step, resident)
            forget_later_results(workdir, first_step)
            workdirs.mark_finished(workdir, None)
            metric_log.warn_of_lost_lines(paths.metrics(workdir, "train"), first_step, plan.log_every)
            log = stack.enter_context(metric_log.MetricLog(workdir, "train", first_step))
        dispatch = _dispatch_from_device if resident else _dispatch_from_host
        writer = checkpoints.Writer(workdir, plan.config, keep=plan.keep_checkpoints)
        # The outer one is for the last save, which leaving the writer waits for. The inner one does not wait for it.
        with distributed.exit_on_peer_failure(), writer, distributed.exit_on_peer_failure():
            loop.run(
                plan,
                batches.replicate(state),
                first_step,
                dispatch(plan, arrays, table, first_step),
                _CHUNKS_AHEAD if resident else _STEPS_AHEAD,
                writer,
                log,
            )
        # Leaving the writer has waited for the last checkpoint.
        if distributed.is_main():
            workdirs.mark_finished(workdir, plan.num_steps)


def load_data(plan: Plan) -> tuple[Arrays, Arrays, np.ndarray, pairs.ClassTable]:
    """The training images, the test images, and what `training_rows` returns.

    The test images are loaded before training: a corrupt one is found now and not at the end.

    Raises:
      InputError: the data is missing or damaged, or has too few classes or images for the plan.
    """
    arrays = datasets.load(plan.source, "train", plan.stored_side)
    test, _ = splits.load_evaluation(plan.source, plan.recipe.image_size, plan.recall_ks)
    rows, table = training_rows(plan, arrays)
    pairs.require_classes(table, plan.num_pairs, plan.images_per_class)
    return arrays, test, rows, table


def load_backbone(pretrained: Pretrained) -> dict[str, Any] | None:
    """The pretrained variables of a backbone; None to train from scratch.

    Warns of a file that has the name of a published file and other content, and of a backbone that does not train from
    scratch.

    Raises:
      InputError: there are no such weights, or they do not fit.
    """
    model, path, train_batch_norm = pretrained
    if not path:
        if models.BACKBONES[model].folds_batch_norm and not train_batch_norm:
            errors.warn(
                f"{model} has its batch norms folded into its convolutions. From random weights it hardly trains. "
                "Give pretrained weights"
                + (", or the option train_batch_norm" if models.BACKBONES[model].read_batch_norm else "")
            )
        return None
    backbone = models.load_pretrained(model, path, train_batch_norm=train_batch_norm)
    file = models.find_weights(model, path)
    known = sources.published(file.name)
    if known and (reason := download.verify(file, known)):
        errors.warn(f"{file} is not the published file of that name: {reason}")
    return backbone


def training_rows(plan: Plan, arrays: Arrays) -> tuple[np.ndarray, pairs.ClassTable]:
    """The rows of the images to train on, without the held-out classes, and the table to sample pairs from."""
    rows, _ = pairs.hold_out(arrays.labels, plan.source.validation_classes, plan.source.validation_seed)
    return rows, pairs.class_table(arrays.labels, rows, plan.images_per_class)


def _first_state(plan: Plan, classes: int, backbone: dict[str, Any] | None, workdir: Path, *, resumes: bool) -> State:
    """The state to start from. Damaged checkpoints after it are set aside, so that their steps can be saved again."""
    if not resumes and checkpoints.steps(workdir):
        raise InputError(f"another process has trained in {workdir} meanwhile; start again", argument="workdir")
    restore_from = workdir if resumes else None
    state = create_state(plan.recipe, classes=classes, backbone=backbone, restore_from=restore_from)
    if distributed.is_main():
        for path in checkpoints.set_aside(workdir, int(state.step)):
            errors.warn(f"the damaged checkpoint is kept as {path}")
    distributed.require_agreement({"newest checkpoint that is not damaged": int(state.step)})
    return state


def forget_later_results(workdir: Path, first_step: int) -> None:
    """Deletes what was measured of the steps that training is about to repeat. Waits for a measurement to end."""
    with files.wait_for_lock(paths.reading_lock(workdir), busy=f"another process evaluates in {workdir}"):
        metric_log.truncate(paths.metrics(workdir, "eval"), first_step)
        best.forget(workdir, first_step)


def _dispatch_from_host(
    plan: Plan, arrays: Arrays, table: pairs.ClassTable, first_step: int
) -> Iterator[loop.Dispatch]:
    """One step at a time, each with a batch from the memory map."""
    run = pmap_train_step(plan.recipe)
    stream = batches.generate(
        arrays,
        table,
        plan.recipe.key,
        first_step,
        plan.num_steps,
        plan.num_pairs,
        jax.device_count(),
        images_per_class=plan.images_per_class,
        local=batches.local_devices(),
    )
    for end, batch in enumerate(batches.prefetch(stream), first_step + 1):
        yield loop.Dispatch(end, lambda state, batch=batch: run(state, batch))


def _dispatch_from_device(
    plan: Plan, arrays: Arrays, table: pairs.ClassTable, first_step: int
) -> Iterator[loop.Dispatch]:
    """All steps up to the next one that is logged or saved, on images in device memory."""
    run = pmap_train_steps(plan.recipe, plan.num_pairs, plan.images_per_class)
    resident = batches.replicate(batches.Resident(arrays.images, arrays.short_side_ratio, arrays.labels, table))
    for start, end in batches.step_chunks(first_step, plan.num_steps, plan.log_every, plan.checkpoint_every):
        yield loop.Dispatch(end, lambda state, count=end - start: run(state, resident, count))


def _require_agreement(plan: Plan, workdir: Path, data: dict[str, str], first_step: int) -> None:
    """Compares the processes of a run. Each may have its copy of the data and of the weights elsewhere."""
    facts = {f"config.{field}": value for field, value in flatten_dict(plan.config, sep=".").items()}
    for own in ("data.dir", "data.cache_dir", "model.pretrained"):
        facts.pop(f"config.{own}")
    facts |= data | {"--workdir": str(workdir), "newest checkpoint": first_step, "devices": jax.local_device_count()}
    distributed.require_agreement(facts)


def _print_summary(
    plan: Plan, workdir: Path, arrays: Arrays, rows: np.ndarray, state: State, first_step: int, resident: bool
) -> None:
    count = sum(w.size for w in jax.tree.leaves(state.params))
    device = jax.local_devices()[0]
    weights = f"weights: {plan.pretrained.path}" if plan.pretrained.path else "from scratch"
    start = f"resumed from step {first_step}" if first_step else weights
    processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    print(f"workdir   {workdir}")
    print(f"devices   {jax.device_count()} x {device.device_kind}{processes}")
    print(
        f"train     {len(rows):,} images of {len(np.unique(arrays.labels[rows]))} classes, "
        f"{arrays.images.shape[1]} px, {arrays.images.nbytes / 1e6:,.0f} MB "
        + ("on each device" if resident else "in a memory map")
        + (f", {len(rows) // plan.batch_size:,} steps per epoch" if plan.images_per_class == 1 else "")
    )
    print(f"model     {plan.pretrained.model}, {count:,} parameters, {start}")
    if state.queues:
        size = sum(x.nbytes for x in jax.tree.leaves(state.queues))
        print(f"queues    of {', '.join(state.queues)}, {size / 1e6:,.1f} MB on each device")
