"""What each --mode of launch.py does."""

import os
from pathlib import Path

import jax
import ml_collections

from symm_jax import compare, distributed, evaluate, prepare, report, selection, train
from symm_jax import config as configs
from symm_jax.errors import InputError


def run(
    mode: str, config: ml_collections.ConfigDict, folders: list[Path], watch: bool, watch_minutes: float
) -> list[str]:
    """Does one mode of launch.py; returns what could not be measured, a sentence a checkpoint.

    Raises:
      InputError: a mistake in flags, config, data or workdir.
      FloatingPointError: training diverged.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(Path("~/.cache/symm_jax/compiled").expanduser()))
    if mode == "compare":
        return compare.compare(config, folders[0])
    configs.validate(config, jax.device_count())
    for folder in folders:
        if config.data.dir and folder.is_relative_to(Path(config.data.dir).expanduser().resolve()):
            raise InputError(f"--workdir: {folder} lies in config.data.dir, where its pictures would be taken for data")
    faults = []
    if mode == "prepare":
        prepare.prepare(config, folders[0])
    if mode in ("train", "train_and_eval"):
        train.train(config, folders[0])
        if jax.process_count() > 1:  # the main one evaluates alone, with its own devices
            distributed.separate()
            if not distributed.is_main():
                return []
    if mode in ("eval", "train_and_eval"):
        faults = evaluate.evaluate(config, folders, watch=watch, watch_minutes=watch_minutes)
    # Where nothing could be measured, that is the message, not that there is nothing to report.
    if mode == "report" or (mode == "train_and_eval" and selection.read_best(folders[0])):
        report.write(config, folders[0])
    return faults
