"""The folder of a run: the process that owns it, the config it was started with, and the data it was trained on."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict

from symm_jax import distributed, errors, files
from symm_jax.errors import InputError
from symm_jax.run import checkpoints, paths
from symm_jax.run.config_json import LEGACY_DEFAULTS, read_dict

# A run may be continued with other values of these fields: they do not change what is computed.
_CHANGEABLE_ON_RESUME = (
    "num_steps",
    "checkpoint_every",
    "keep_checkpoints",
    "log_every",
    "eval_batch_size",
    "recall_ks",
    "clustering",
    "data.dir",
    "data.cache_dir",
    "data.on_device",
    "data.mirrors",
    "data.accept_duplicates",
    "model.mirrors",
)


@contextlib.contextmanager
def claim(workdir: Path, config: Mapping[str, Any], data: Mapping[str, str]) -> Iterator[None]:
    """Claims `workdir` for training, and writes data.json. Only one run trains in a workdir at a time.

    A run that is refused leaves the files of the run that is there as they are. So `write_config` comes later.

    With several processes the main process claims it, and the others wait until they see its lock file.

    Args:
      workdir: the folder.
      config: the run's config as plain JSON types.
      data: see `check_data`.

    Raises:
      InputError: another process trains there, it holds the run of another config or data, or it cannot be written.
    """
    if not distributed.is_main():
        distributed.require_shared(paths.training_lock(workdir))
        check_data(workdir, data)
        yield
        return
    create(workdir)
    with files.lock(paths.training_lock(workdir), busy=f"--workdir: another process trains in {workdir}"):
        check_config(workdir, config)
        check_data(workdir, data)
        checkpoints.remove_unfinished(workdir)
        distributed.require_shared(paths.training_lock(workdir))
        yield


def write_config(workdir: Path, config: Mapping[str, Any]) -> None:
    """Writes config.json. The caller has claimed the folder, and knows that training goes on from its checkpoints."""
    files.write_text(paths.config(workdir), json.dumps(config, indent=2) + "\n")


def create(workdir: Path) -> None:
    """Makes the folder. Raises InputError when it cannot be written."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        paths.training_lock(workdir).touch()
    except OSError as error:
        raise InputError(
            f"{workdir} cannot be written ({error.strerror}); use another folder", argument="workdir"
        ) from error


def finished(workdir: Path) -> int | None:
    """The step at which training ended as its config says. None while it runs, or when it was interrupted.

    Without a whole file, the newest checkpoint and `num_steps` of the config say so.
    """
    path = paths.finished(workdir)
    if not path.exists():
        return None
    steps = checkpoints.steps(workdir)
    with contextlib.suppress(OSError, ValueError):
        text = path.read_text()
        if text.endswith("\n") and (not steps or int(text) in steps):
            return int(text)
    num_steps = read_dict(workdir).get("num_steps")
    ended = steps[-1] if steps and isinstance(num_steps, int) and steps[-1] >= num_steps else None
    errors.warn(
        f"{path} is damaged; by config.json and the checkpoints, training has "
        + ("not ended" if ended is None else f"ended at step {ended}")
    )
    return ended


def mark_finished(workdir: Path, step: int | None) -> None:
    """Writes the mark that `finished` reads. With None it deletes the mark."""
    paths.finished(workdir).unlink(missing_ok=True)
    if step is not None:
        files.write_text(paths.finished(workdir), f"{step}\n")


def check_config(workdir: Path, config: Mapping[str, Any], *, any_seed: bool = False) -> None:
    """Raises InputError when the checkpoints in `workdir` are of another config. The message lists the fields.

    Args:
      workdir: the folder.
      config: the config as plain JSON types.
      any_seed: accept another seed, as evaluation does.
    """
    if not checkpoints.steps(workdir):
        return
    if not paths.config(workdir).exists():
        raise InputError(f"{workdir} holds checkpoints but no config.json; use another folder", argument="workdir")
    theirs = read_dict(workdir)
    ours = {**config, "seed": theirs["seed"]} if any_seed else config
    if different := differences(ours, theirs):
        raise InputError(
            f"{workdir} holds checkpoints of another config:\n  " + "\n  ".join(different) + "\n"
            "Pass another --workdir.",
            argument="workdir",
        )


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """The fields, as "a.b: 1, there 2", in which two configs describe different runs."""
    here, there = (LEGACY_DEFAULTS | flatten_dict(dict(config), sep=".") for config in (ours, theirs))
    absent = object()
    return [
        f"{field}: {here.get(field, 'absent')!r}, there {there.get(field, 'absent')!r}"
        for field in sorted(here.keys() | there.keys())
        if field not in _CHANGEABLE_ON_RESUME and here.get(field, absent) != there.get(field, absent)
    ]


def check_data(workdir: Path, data: Mapping[str, str], *, note: bool = True) -> None:
    """Compares the data with what data.json has of the checkpoints in `workdir`, and writes data.json.

    Args:
      workdir: the folder.
      data: {what it is: its fingerprint}.
      note: False compares only.

    Raises:
      InputError: there are checkpoints, and their data was other data, or data.json is damaged.
    """
    path = paths.data(workdir)
    noted = read_data(workdir)
    for what, fingerprint in data.items():
        if noted.get(what, fingerprint) != fingerprint:
            raise InputError(
                f"{workdir} has a run on other data: its {what} was {noted[what]}, and that of the data folder is "
                f"{fingerprint}. Restore the original data, or pass another --workdir. If the data is the same and "
                f"{path} was altered, move that file away: it is written again.",
                argument="workdir",
            )
    if note and data.items() - noted.items() and distributed.is_main():
        files.write_text(path, json.dumps(noted | dict(data), indent=2) + "\n")


def read_data(workdir: Path) -> dict[str, str]:
    """The data of the checkpoints in `workdir`, {what it is: its fingerprint}, as far as it was noted.

    Raises:
      InputError: data.json is damaged.
    """
    path = paths.data(workdir)
    if not path.exists() or not checkpoints.steps(workdir):
        return {}
    try:
        noted = files.read_json_object(path)
        if not all(isinstance(fingerprint, str) for fingerprint in noted.values()):
            raise ValueError("a fingerprint is not a string")
    except ValueError as error:
        raise InputError(
            f"{path} is damaged ({error}). It says on which data the run was trained. If the data has not changed "
            "since, move the file away: it is written again.",
            argument="workdir",
        ) from error
    return noted
