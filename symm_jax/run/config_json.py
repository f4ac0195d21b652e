"""The config of a run as JSON: how it is written, and how it is read back."""

import json
from pathlib import Path
from typing import Any

import ml_collections
from flax.traverse_util import unflatten_dict

from symm_jax.errors import InputError
from symm_jax.run import paths

# Fields that older configs do not have, with the values that older versions used.
LEGACY_DEFAULTS = {
    "keep_checkpoints": 0,
    "data.validation_classes": 0,
    "data.validation_seed": -1,
    "data.crop": True,
    "data.split_seed": 0,
    "data.on_device": "auto",
    "data.mirrors": (),
    "data.accept_duplicates": True,
    "model.mirrors": (),
    "optimizer.backbone_rate": 1.0,
}


def to_dict(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The config as plain JSON types: dicts, lists, strings and numbers."""
    return json.loads(json.dumps(config.to_dict(), default=_to_plain))


def read(workdir: Path) -> ml_collections.ConfigDict:
    """The config that a run was started with. Fields that did not exist then have the value that was used then.

    Raises:
      InputError: there is no config.json, or it is damaged.
    """
    stored = read_dict(workdir)
    try:
        config = ml_collections.ConfigDict(unflatten_dict(LEGACY_DEFAULTS, sep="."))
        config.update(_to_tuples(stored))
    except (ValueError, TypeError, AttributeError) as error:
        raise _damaged(workdir, error) from error
    return config


def read_dict(workdir: Path) -> dict[str, Any]:
    """The content of config.json. Raises as `read`."""
    path = paths.config(workdir)
    if not path.is_file():
        raise InputError(f"{workdir} holds no config.json; name the config of the run", argument="workdir")
    try:
        stored = json.loads(path.read_text())
    except ValueError as error:
        raise _damaged(workdir, error) from error
    if not isinstance(stored, dict) or "seed" not in stored:
        raise _damaged(workdir, "it is not a config")
    return stored


def _damaged(workdir: Path, reason: object) -> InputError:
    return InputError(
        f"{paths.config(workdir)} is damaged ({reason}). Every checkpoint holds the config too: copy "
        f"{paths.checkpoints(workdir)}/STEP/config/metadata to {paths.config(workdir)}.",
        argument="workdir",
    )


def _to_plain(value: Any) -> Any:
    if isinstance(value, ml_collections.ConfigDict):
        return value.to_dict()
    raise TypeError(f"{value!r} cannot be stored in a config")


def _to_tuples(value: Any) -> Any:
    """The same with tuples in the place of lists, as configs have them."""
    if isinstance(value, dict):
        return {key: _to_tuples(x) for key, x in value.items()}
    return tuple(map(_to_tuples, value)) if isinstance(value, list) else value
