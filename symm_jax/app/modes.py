"""What each --mode of launch.py does."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import jax
import ml_collections
import tensorflow_datasets as tfds
from absl import logging

from symm_jax import distributed
from symm_jax.app import checks, fetch, system, use, use_flags
from symm_jax.errors import InputError
from symm_jax.evaluation.evaluate import evaluate
from symm_jax.run import best
from symm_jax.training.recipe import create_recipe
from symm_jax.training.train import train


def run(
    mode: str,
    config: ml_collections.ConfigDict,
    folders: Sequence[Path],
    watch: bool,
    watch_minutes: float,
    config_file: str = "",
    given: use_flags.Use | None = None,
) -> list[str]:
    """Runs one mode of launch.py. Returns what could not be measured or embedded, one sentence each.

    Raises:
      InputError: a mistake in flags, config, data or workdir.
      FloatingPointError: training diverged.
    """
    logging.set_verbosity(logging.FATAL)  # Orbax logs every save and restore, and the tracebacks of what it raises
    system.hide_late_errors()
    tfds.disable_progress_bar()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        # Without a home directory every run compiles again.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_compilation_cache_dir", str(Path("~/.cache/symm_jax/compiled").expanduser()))
    # compare, prepare and report are imported where they run: SciPy and matplotlib take a second, and training needs
    # neither.
    if mode == "compare":
        from symm_jax.app.compare import compare

        return compare(config, folders[0])
    if given is not None and mode in use_flags.MODES:
        return use.run(mode, config, given)
    checks.validate(config, jax.device_count())
    for folder in folders:
        if config.data.dir and folder.is_relative_to(Path(config.data.dir).expanduser().resolve()):
            raise InputError(
                f"{folder} lies in config.data.dir, where its pictures would be taken for data; pass another folder",
                argument="workdir",
            )
    faults = []
    if mode == "prepare":
        from symm_jax.app.prepare import prepare

        prepare(config, folders[0])
    if mode in ("train", "train_and_eval"):
        create_recipe(config)  # mistakes in the config are found before anything is downloaded
        fetch.fetch_missing({folders[0]: config})
        train(config, folders[0])
        if jax.process_count() > 1:  # the main process evaluates, with its own devices
            distributed.disconnect()
            if not distributed.is_main():
                return []
    if mode in ("eval", "train_and_eval"):
        faults = evaluate(config, folders, watch=watch, watch_minutes=watch_minutes)
    # Without a best checkpoint the message is what could not be measured, and there is nothing to report.
    if mode == "report" or (mode == "train_and_eval" and best.read(folders[0])):
        from symm_jax import report

        report.write(config, folders[0], config_file)
    return faults
