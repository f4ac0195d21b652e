"""Evaluation: embeds the test classes with each saved checkpoint and measures it. Only reads checkpoints."""

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import tqdm

from symm_jax import checkpoint, devices, errors, files, images, logs, metrics, report, selection, train, workdirs
from symm_jax.data.arrays import Arrays
from symm_jax.errors import InputError

_BATCHES_AHEAD = 2  # dispatched before the loop waits: the next images are read while the device works
_POLL_SECONDS = 1.0


def evaluate(
    config: ml_collections.ConfigDict, folders: Sequence[Path], *, watch: bool = False, watch_minutes: float = 0.0
) -> list[str]:
    """Measures every checkpoint of the workdirs `folders` that has not been, and prints a table of each workdir.

    Results go to eval/metrics.jsonl and TensorBoard, the best checkpoint to best/. A checkpoint that is deleted
    while it is read is passed over.

    Args:
      config: of the runs; only their seeds may differ from it.
      folders: workdirs.
      watch: go on until training has ended in every workdir, waiting for checkpoints, also for the first.
      watch_minutes: but no longer than this; 0 is without limit.

    Returns:
      What could not be measured, a sentence a checkpoint: damaged, or its embeddings not finite.

    Raises:
      InputError: no checkpoints, or another config's; something is wrong with the test images or with recall_ks.
    """
    deadline = time.monotonic() + 60 * watch_minutes if watch_minutes else float("inf")
    for workdir in folders:
        if not watch and not checkpoint.steps(workdir):
            raise InputError(f"--workdir: {workdir} holds no checkpoints; train first, with --mode=train")
        workdirs.check_config(workdir, config, any_seed=True)
    scorer = functools.cache(functools.partial(create_scorer, config))
    faults: dict[tuple[Path, int], str] = {}
    with _alone_in(folders):
        if waiting := [str(workdir) for workdir in folders if not checkpoint.steps(workdir)]:
            print(f"waiting   for checkpoints in {', '.join(waiting)}")
        while True:
            # Asked before the steps are listed, so that the last one is not missed.
            ended = all(workdirs.finished(workdir) is not None for workdir in folders)
            for workdir in folders:
                _evaluate_new(config, workdir, scorer, faults)
            if not watch or ended or time.monotonic() > deadline:
                break
            time.sleep(_POLL_SECONDS)
    for workdir in folders:
        if not checkpoint.steps(workdir):
            faults[workdir, 0] = f"{workdir}: no checkpoints came within {watch_minutes:g} minutes"
            continue
        print(f"\n{workdir}\n\n{report.table(selection.results(workdir), columns(config))}")
    return list(faults.values())


def columns(config: ml_collections.ConfigDict) -> list[str]:
    """Names of the figures that a checkpoint of this config is measured by; the first one chooses."""
    names = [*(f"recall@{k}" for k in sorted(config.recall_ks)), "map@r", "r_precision"]
    names += ["nmi", "f1"] if config.clustering else []
    return names + ([f"{selection.VALIDATION}/{main_metric(config)}"] if config.data.validation_classes else [])


def main_metric(config: ml_collections.ConfigDict) -> str:
    """The metric that chooses checkpoints: recall at the smallest k."""
    return f"recall@{min(config.recall_ks)}"


class Scorer(NamedTuple):
    """What measures the checkpoints of a config: the test images, those held out of training, and the network."""

    embed: Callable[[Any, Arrays, str], np.ndarray]
    shapes: Any
    test: Arrays
    validation: Arrays | None


def create_scorer(config: ml_collections.ConfigDict) -> Scorer:
    """Loads the images and prepares the network; raises InputError when they cannot be measured on."""
    model = train.create_model(config)
    test, validation = images.load_evaluation(config)
    print(f"test      {describe(test)}")
    embed = functools.partial(embed_all, embedder(model), batch_size=config.eval_batch_size)
    shapes = jax.eval_shape(functools.partial(train.init_variables, config, model), jax.random.key(0))
    return Scorer(lambda variables, arrays, label: embed(variables, arrays, label=label), shapes, test, validation)


def measure(config: ml_collections.ConfigDict, scorer: Scorer, variables: Any, label: str) -> tuple[dict, np.ndarray]:
    """Embeds and measures with a model's `variables`: parameters, and running statistics where it has them.

    Returns:
      {name: value} for `columns(config)`, and the test images' raw embeddings (n, dim) float32.

    Raises:
      ValueError: embeddings that are not finite.
    """
    embeddings = scorer.embed(variables, scorer.test, label)
    values = retrieval(embeddings, scorer.test, config.recall_ks)
    if config.clustering:
        values |= metrics.clustering(embeddings, scorer.test.labels)
    if scorer.validation is not None:
        held_out = scorer.embed(variables, scorer.validation, f"{label}, held out")
        k = min(config.recall_ks)
        values |= {f"{selection.VALIDATION}/recall@{k}": retrieval(held_out, scorer.validation, (k,))[f"recall@{k}"]}
    return values, embeddings


def retrieval(embeddings: np.ndarray, arrays: Arrays, ks: Sequence[int]) -> dict[str, float]:
    """`metrics.retrieval` of a split's embeddings (n, dim): of its queries in its gallery, where it has one."""
    if arrays.query is None:
        return metrics.retrieval(embeddings, arrays.labels, ks)
    queries, gallery = arrays.query, ~arrays.query
    return metrics.retrieval(
        embeddings[queries],
        arrays.labels[queries],
        ks,
        gallery=embeddings[gallery],
        gallery_labels=arrays.labels[gallery],
    )


def describe(arrays: Arrays, alone: str = "are no queries") -> str:
    """How many images, classes and queries a split has, in words; `alone` ends what is said of classes of one image."""
    classes, counts = np.unique(arrays.labels, return_counts=True)
    words = f"{len(arrays.labels):,} images of {len(classes):,} classes"
    if arrays.query is not None:
        return f"{words}: {arrays.query.sum():,} queries, {np.sum(~arrays.query):,} in the gallery"
    return words + (f"; {np.sum(counts == 1):,} alone in their class {alone}" if counts.min() == 1 else "")


def embedder(model: Any) -> Any:
    """Jitted (variables, images (n, side, side, 3) uint8) -> embeddings (n, dim) float32; local devices share the n."""

    def embed(variables, images):
        return model.apply(variables, images).astype(jnp.float32)

    everywhere, shared = devices.everywhere(), devices.shared()
    # Unchecked, for what the check asks of loops is no business of a model.
    mapped = jax.shard_map(
        embed, mesh=shared.mesh, in_specs=(everywhere.spec, shared.spec), out_specs=shared.spec, check_vma=False
    )
    return jax.jit(mapped, in_shardings=(everywhere, shared))


def embed_all(embed: Any, variables: Any, arrays: Arrays, batch_size: int, label: str) -> np.ndarray:
    """Embeds all images in batches of one size, the last one filled up: (n, dim) float32, raw."""
    count = len(jax.local_devices())
    variables = jax.device_put(variables, devices.everywhere())
    n, side = len(arrays.images), arrays.images.shape[1:]
    size = count * min(batch_size, -(-n // count))
    out = []
    for start in tqdm.tqdm(range(0, n, size), desc=label, unit="batch", leave=False, dynamic_ncols=True):
        images = arrays.images[start : start + size]
        filled = np.zeros((size, *side), np.uint8)
        filled[: len(images)] = images
        out.append(embed(variables, filled))
        jax.block_until_ready(out[max(0, len(out) - 1 - _BATCHES_AHEAD)])
    return np.concatenate(out)[:n]


def _evaluate_new(
    config: ml_collections.ConfigDict,
    workdir: Path,
    scorer: Callable[[], Scorer],
    faults: dict[tuple[Path, int], str],
) -> None:
    """Measures the checkpoints without results; adds to `faults` what it cannot measure; keeps the best."""
    workdirs.check_config(workdir, config, any_seed=True)
    done = {row["step"] for row in selection.results(workdir) if not set(columns(config)) - row.keys()}
    todo = [s for s in checkpoint.steps(workdir) if s not in done and (workdir, s) not in faults]
    best: dict[int, np.ndarray] = {}
    if todo:
        tools = scorer()
        workdirs.check_data(workdir, images.fingerprints("test", tools.test))
        with logs.MetricLog(workdir, "eval") as log:
            for step in todo:
                with _noting(faults, workdir, step):
                    variables = checkpoint.restore(workdir, step, **tools.shapes)
                    values, embeddings = measure(config, tools, variables, f"evaluate step {step}")
                    log.write(step, values)
                    # The others' embeddings are not kept: a step that is not the best so far will not be the best.
                    if selection.deciding(selection.results(workdir), main_metric(config))[1]["step"] == step:
                        best = {step: embeddings}
    _keep_best(config, workdir, scorer, faults, best)


def _keep_best(config, workdir: Path, scorer, faults, embeddings: dict[int, np.ndarray]) -> None:
    """Brings best/ up to date with the results, as far as their checkpoints still exist."""
    try:
        kept = selection.read_best(workdir)
    except InputError as error:
        errors.warn(f"{error}; chosen anew")
        kept = None
    if kept and not (workdir / "best" / "embeddings.npy").exists():
        kept = None
    there = {*checkpoint.steps(workdir), *([kept["step"]] if kept else [])}
    rows = [row for row in selection.results(workdir) if row["step"] in there and (workdir, row["step"]) not in faults]
    decided = selection.deciding(rows, main_metric(config))
    if decided is None or (kept and kept["step"] == decided[1]["step"]):
        return
    how, row = decided
    step = row["step"]
    with _noting(faults, workdir, step):
        found = embeddings.get(step)
        if found is None:  # measured by an earlier process
            variables = checkpoint.restore(workdir, step, **scorer().shapes)
            found = scorer().embed(variables, scorer().test, f"embed step {step}")
        selection.keep_best(workdir, how, row, main_metric(config), found)


@contextlib.contextmanager
def _noting(faults: dict[tuple[Path, int], str], workdir: Path, step: int) -> Iterator[None]:
    """Goes on after a checkpoint that is damaged, has diverged (both noted in `faults`) or has been deleted."""
    path = checkpoint.directory(workdir) / str(step)
    try:
        yield
    except OSError:
        if path.exists():
            raise
        print(f"passed over: {path} was deleted before it could be read")
    except ValueError as error:
        named = str(error) if isinstance(error, InputError) else f"checkpoint {path}: {error}"
        faults[workdir, step] = named
        print(f"passed over: {named}", file=sys.stderr)


@contextlib.contextmanager
def _alone_in(folders: Sequence[Path]) -> Iterator[None]:
    """Waits until no other process evaluates in these workdirs, and keeps others waiting."""
    with contextlib.ExitStack() as stack:
        for workdir in sorted(set(folders)):  # in one order everywhere, so that no two wait for each other
            path = workdir / "eval" / ".lock"
            try:
                stack.enter_context(files.lock(path, busy=f"another process evaluates in {workdir}"))
            except OSError as error:
                raise InputError(f"--workdir: {workdir} cannot be written ({error.strerror})") from error
            except InputError as error:
                print(f"{error}; waiting for it to end")
                stack.enter_context(files.lock(path))
        yield
