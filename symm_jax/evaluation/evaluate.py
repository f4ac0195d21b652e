"""Evaluates every saved checkpoint that has not been evaluated, and keeps the best. Only reads checkpoints."""

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import ml_collections
import numpy as np

from symm_jax import errors, files
from symm_jax.data import splits
from symm_jax.errors import InputError
from symm_jax.evaluation.protocol import Protocol, Scorer, create_protocol, create_scorer, measure
from symm_jax.evaluation.table import table
from symm_jax.run import best, checkpoints, config_json, metric_log, paths
from symm_jax.run import workdir as workdirs

_POLL_SECONDS = 1.0


def evaluate(
    config: ml_collections.ConfigDict, folders: Sequence[Path], *, watch: bool = False, watch_minutes: float = 0.0
) -> list[str]:
    """Measures every checkpoint that has not been measured, and prints one table per workdir.

    Results go to eval/metrics.jsonl and TensorBoard, the best checkpoint to best/. A checkpoint that is deleted
    while it is read is skipped.

    Args:
      config: the config of the runs; their seeds may differ from it.
      folders: workdirs.
      watch: wait for checkpoints, also for the first, until training has ended in every workdir.
      watch_minutes: with `watch`: the longest time to wait in minutes; 0 is without limit.

    Returns:
      What could not be measured, one sentence per checkpoint: it is damaged, or its embeddings are not finite.

    Raises:
      InputError: there are no checkpoints, or those of another config; the test images or recall_ks are wrong.
    """
    protocol = create_protocol(config)
    deadline = time.monotonic() + 60 * watch_minutes if watch_minutes else float("inf")
    for workdir in folders:
        if not watch and not checkpoints.steps(workdir):
            raise InputError(f"{workdir} holds no checkpoints; train first", argument="workdir")
        _check_config(protocol, workdir)
    scorer = functools.cache(functools.partial(create_scorer, protocol))
    faults: dict[tuple[Path, int], str] = {}
    with _evaluation_locks(folders):
        if waiting := [str(workdir) for workdir in folders if not checkpoints.steps(workdir)]:
            print(f"waiting   for checkpoints in {', '.join(waiting)}")
        while True:
            # Read before the steps are listed, so that the last step is not missed.
            ended = all(workdirs.finished(workdir) is not None for workdir in folders)
            for workdir in folders:
                with files.lock(paths.reading_lock(workdir)):  # so that training deletes no checkpoint meanwhile
                    _evaluate_new(protocol, workdir, scorer, faults)
            if not watch or ended or time.monotonic() > deadline:
                break
            time.sleep(_POLL_SECONDS)
    for workdir in folders:
        if not checkpoints.steps(workdir):
            faults[workdir, 0] = f"{workdir}: no checkpoints came within {watch_minutes:g} minutes"
            continue
        print(f"\n{workdir}\n\n{table(best.results(workdir), protocol.columns)}")
    return list(faults.values())


def _check_config(protocol: Protocol, workdir: Path) -> None:
    """Raises InputError when the config is not that of the run, or when config.json is not that of its checkpoints."""
    workdirs.check_config(workdir, protocol.config, any_seed=True)
    for step in checkpoints.steps(workdir)[-1:]:
        copy = config_json.in_checkpoint(workdir, step)
        if copy and (different := workdirs.differences({**protocol.config, "seed": copy["seed"]}, copy)):
            raise InputError(
                f"{paths.config(workdir)} was changed after {paths.checkpoint(workdir, step)} was saved:\n  "
                + "\n  ".join(different)
                + f"\nTo restore it, run: {config_json.restore_command(workdir, step)}",
                argument="workdir",
            )


def _evaluate_new(
    protocol: Protocol,
    workdir: Path,
    scorer: Callable[[], Scorer],
    faults: dict[tuple[Path, int], str],
) -> None:
    """Measures the checkpoints without results, adds to `faults` what cannot be measured, and updates best/."""
    _check_config(protocol, workdir)
    done = {row["step"] for row in best.results(workdir) if not set(protocol.columns) - row.keys()}
    todo = [s for s in checkpoints.steps(workdir) if s not in done and (workdir, s) not in faults]
    embeddings_of_best: dict[int, np.ndarray] = {}
    if todo:
        tools = scorer()
        workdirs.check_data(workdir, splits.fingerprint("test", tools.test))
        with metric_log.MetricLog(workdir, "eval") as log:
            for step in todo:
                with _record_faults(faults, workdir, step):
                    variables = checkpoints.restore(workdir, step, **tools.shapes)
                    values, embeddings = measure(protocol, tools, variables, f"evaluate step {step}")
                    log.write(step, values)
                    # Other embeddings are not kept: a step that is not the best so far will not become the best.
                    selected = best.select_best(best.results(workdir), protocol.main_metric)
                    if selected and selected[1]["step"] == step:
                        embeddings_of_best = {step: embeddings}
    _keep_best(protocol, workdir, scorer, faults, embeddings_of_best)


def _keep_best(
    protocol: Protocol,
    workdir: Path,
    scorer: Callable[[], Scorer],
    faults: dict[tuple[Path, int], str],
    embeddings: dict[int, np.ndarray],
) -> None:
    """Updates best/ from the results whose checkpoints still exist."""
    try:
        best.require_intact(workdir)
        kept = best.read(workdir)
    except InputError as error:
        errors.warn(f"{error}; selected again")
        kept = None
    saved, copied = (set(checkpoints.steps(folder)) for folder in (workdir, paths.best(workdir)))
    there = saved | copied
    rows = [row for row in best.results(workdir) if row["step"] in there and (workdir, row["step"]) not in faults]
    decided = best.select_best(rows, protocol.main_metric)
    if decided is None or (kept and kept["step"] == decided[1]["step"]):
        return
    how, row = decided
    step = row["step"]
    with _record_faults(faults, workdir, step):
        found = embeddings.get(step)
        if found is None:  # measured by an earlier process
            # A damaged best/ may have the only copy: training has deleted the others.
            folder = workdir if step in saved else paths.best(workdir)
            variables = checkpoints.restore(folder, step, **scorer().shapes)
            found = scorer().embed(variables, scorer().test.images, f"embed step {step}")
        best.keep(workdir, how, row, protocol.main_metric, found)


@contextlib.contextmanager
def _record_faults(faults: dict[tuple[Path, int], str], workdir: Path, step: int) -> Iterator[None]:
    """Goes on after a checkpoint that is damaged or has diverged (added to `faults`), or that has been deleted."""
    path = paths.checkpoint(workdir, step)
    try:
        yield
    except OSError:
        if path.exists():
            raise
        print(f"skipped: {path} was deleted before it could be read")
    except ValueError as error:
        named = str(error) if isinstance(error, InputError) else f"checkpoint {path}: {error}"
        faults[workdir, step] = named
        print(f"skipped: {named}", file=sys.stderr)


@contextlib.contextmanager
def _evaluation_locks(folders: Sequence[Path]) -> Iterator[None]:
    """Waits until no other process evaluates in these workdirs. Meanwhile others wait for this one."""
    with contextlib.ExitStack() as stack:
        for workdir in sorted(set(folders)):  # in the same order in every process, so that no two wait for each other
            busy = f"another process evaluates in {workdir}"
            stack.enter_context(files.wait_for_lock(paths.evaluation_lock(workdir), busy=busy))
        yield
