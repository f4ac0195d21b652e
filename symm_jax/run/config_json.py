"""The config of a run as JSON: how it is written, and how it is read back."""

import difflib
import json
import shlex
from pathlib import Path
from typing import Any

import ml_collections
from flax.traverse_util import unflatten_dict

from symm_jax import errors
from symm_jax.errors import InputError
from symm_jax.run import config_fields, paths

# Fields that older configs do not have, with the values that older versions used.
LEGACY_DEFAULTS = {
    "keep_checkpoints": 0,
    "micro_batch": 0,
    "data.validation_classes": 0,
    "data.validation_seed": -1,
    "data.images_per_class": 2,
    "data.crop": True,
    "data.split_seed": 0,
    "data.on_device": "auto",
    "data.mirrors": (),
    "data.accept_duplicates": True,
    "model.mirrors": (),
    "optimizer.backbone_rate": 1.0,
    "optimizer.proxy_rate": 100.0,  # there were no proxies
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
    config = ml_collections.ConfigDict(unflatten_dict(LEGACY_DEFAULTS, sep="."))
    try:
        config.update(_to_tuples(stored))
    except (ValueError, TypeError, AttributeError) as error:  # names that are no names in Python, such as "a.b"
        raise _damaged(workdir, str(error)) from error
    return config


def read_dict(workdir: Path) -> dict[str, Any]:
    """The content of config.json. Fields that no version reads are left out, with a warning. Raises as `read`."""
    path = paths.config(workdir)
    if not path.is_file():
        raise InputError(
            f"{workdir} holds no config.json; name the config of the run: --config=FILE", argument="workdir"
        )
    content = path.read_bytes()
    if fault := _fault(content):
        raise _damaged(workdir, fault)
    stored = json.loads(content)
    unknown = config_fields.unknown_fields(stored)
    for line in unknown.values():
        errors.warn(f"{path}: {line}; it has no effect")
    return {
        name: {key: x for key, x in value.items() if f"{name}.{key}" not in unknown}
        if isinstance(value, dict)
        else value
        for name, value in stored.items()
        if name not in unknown
    }


def _fault(content: bytes) -> str:
    """Why the content of a file is not a config; "" when it is one."""
    try:
        stored = json.loads(content)
    except (ValueError, RecursionError) as error:
        return f"{error}"
    if not isinstance(stored, dict):
        return "it is not a config"
    there = dict(config_fields.flatten(stored))
    faults = config_fields.type_faults(stored) + config_fields.missing_fields(LEGACY_DEFAULTS | there)
    if faults:
        return faults[0].partition(";")[0]
    # A name with a wrong byte, and not a name of an older version.
    for name in config_fields.unknown_fields(stored):
        if close := difflib.get_close_matches(name, LEGACY_DEFAULTS.keys() - there.keys(), n=1, cutoff=0.8):
            return f"config.{name} is unknown, and config.{close[0]} is missing"
    return ""


def in_checkpoint(workdir: Path, step: int) -> dict[str, Any] | None:
    """The config that a checkpoint was saved with; None when it cannot be read."""
    try:
        content = _copy(workdir, step).read_bytes()
    except OSError:
        return None
    return None if _fault(content) else json.loads(content)


def restore_command(workdir: Path, step: int) -> str:
    """The command that replaces config.json by the copy in a checkpoint."""
    return f"cp {shlex.quote(str(_copy(workdir, step)))} {shlex.quote(str(paths.config(workdir)))}"


def _copy(workdir: Path, step: int) -> Path:
    return paths.checkpoint(workdir, step) / "config" / "metadata"


def _damaged(workdir: Path, fault: str) -> InputError:
    """The error for a damaged config.json. It says how to restore the file from a checkpoint that has a copy."""
    steps = (int(p.name) for p in paths.checkpoints(workdir).glob("*") if p.name.isdecimal())
    copies = [step for step in steps if in_checkpoint(workdir, step) is not None]
    advice = "No checkpoint has a copy of it. Restore it, or pass another --workdir."
    if copies:
        advice = f"A checkpoint has a copy of it. Run: {restore_command(workdir, max(copies))}"
    return InputError(f"{paths.config(workdir)} is damaged ({fault[:300]}). {advice}", argument="workdir")


def _to_plain(value: Any) -> Any:
    if isinstance(value, ml_collections.ConfigDict):
        return value.to_dict()
    raise TypeError(f"{value!r} cannot be stored in a config")


def _to_tuples(value: Any) -> Any:
    """The same with tuples in the place of lists, as configs have them."""
    if isinstance(value, dict):
        return {key: _to_tuples(x) for key, x in value.items()}
    return tuple(map(_to_tuples, value)) if isinstance(value, list) else value
