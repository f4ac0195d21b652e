"""Checks of a whole config before anything is built, and the comparison of two."""

import json
import math
from typing import Any

import jax.numpy as jnp
import ml_collections

from symm_jax import feed
from symm_jax.errors import InputError

# A run may be continued with other values of these: they change where or how long, not what is computed.
_FREE = (
    "num_steps",
    "checkpoint_every",
    "log_every",
    "eval_batch_size",
    "recall_ks",
    "clustering",
    "data.dir",
    "data.cache_dir",
    "data.on_device",
    "data.mirrors",
    "model.mirrors",
)
# Fields that configs have not always had, with what was done before.
_BEFORE = {"data.validation_classes": 0, "data.crop": True, "data.split_seed": 0, "optimizer.backbone_rate": 1.0}

_POSITIVE_INTEGERS = (
    "batch_size",
    "num_steps",
    "checkpoint_every",
    "log_every",
    "eval_batch_size",
    "data.image_size",
    "model.dim",
    "optimizer.decay_every",
)
_POSITIVE = ("optimizer.learning_rate", "optimizer.decay_rate", "optimizer.final_learning_rate", "optimizer.eps")
_NOT_NEGATIVE = (
    "seed",
    "data.split_seed",
    "data.validation_classes",
    "optimizer.stop_step",
    "optimizer.weight_penalty",
    "optimizer.embedding_gradient_scale",
    "optimizer.clip_norm",
    "optimizer.backbone_rate",
    "augment.min_margin",
)
_DTYPES = ("float32", "bfloat16", "float16", "float64")


def validate(config: ml_collections.ConfigDict, num_devices: int) -> None:
    """Raises InputError naming the first field whose value cannot be trained with on `num_devices` devices.

    Names of data sets, models and losses are checked where they are looked up.
    """
    for field in _POSITIVE_INTEGERS:
        _require(config, field, lambda x: isinstance(x, int) and x > 0, "a whole number above 0")
    for field in _POSITIVE:
        _require(config, field, lambda x: 0 < x < math.inf, "a finite number above 0")
    for field in _NOT_NEGATIVE:
        _require(config, field, lambda x: 0 <= x < math.inf, "a finite number, 0 or more")
    for field in ("optimizer.b1", "optimizer.b2"):
        _require(config, field, lambda x: 0 < x < 1, "between 0 and 1")
    for field in ("model.dtype", "model.param_dtype"):
        _require(config, field, lambda x: x in _DTYPES, f"one of {', '.join(_DTYPES)}")
    _require(config, "data.on_device", lambda x: x in feed.ON_DEVICE, f"one of {', '.join(feed.ON_DEVICE)}")
    _require(config, "augment.enlarge", lambda x: 1 <= x < math.inf, "1 or more")
    low = config.augment.min_margin
    _require(config, "augment.max_margin", lambda x: low <= x < 0.5, f"from min_margin ({low}) to below 0.5")
    _require(config, "recall_ks", lambda x: x and all(isinstance(k, int) and k > 0 for k in x), "whole numbers above 0")
    _require(config, "batch_size", lambda x: x % 2 == 0, "even: a batch is made of pairs")
    _require(config, "batch_size", lambda x: x >= 4, "at least 4: a pair needs another to differ from")
    _require(config, "data.validation_classes", lambda x: isinstance(x, int) and x != 1, "0, or 2 and more classes")
    pairs = config.batch_size // 2
    if pairs % num_devices:
        raise InputError(
            f"config.batch_size = {config.batch_size} makes {pairs} pairs, which {num_devices} devices cannot share "
            f"equally; make it a multiple of {2 * num_devices}"
        )
    if config.model.dtype == "float64" and jnp.zeros((), jnp.float64).dtype != jnp.float64:
        raise InputError("config.model.dtype = 'float64' needs JAX_ENABLE_X64=1 in the environment")


def to_dict(config: ml_collections.ConfigDict) -> dict:
    """The config as JSON holds it: plain dicts, lists, strings and numbers."""
    return json.loads(json.dumps(config.to_dict(), default=_plain))


def differences(ours: dict, theirs: dict) -> list[str]:
    """The fields, as "a.b: 1, there 2", in which two configs describe different runs."""
    ours, theirs = _BEFORE | flat(ours), _BEFORE | flat(theirs)
    fields = [f for f in sorted(ours.keys() | theirs.keys()) if f not in _FREE]
    return [
        f"{field}: {ours.get(field, 'absent')!r}, there {theirs.get(field, 'absent')!r}"
        for field in fields
        if ours.get(field, flat) != theirs.get(field, flat)
    ]


def _require(config: Any, field: str, accept, meaning: str) -> None:
    value = config
    for key in field.split("."):
        value = value[key]
    if not accept(value):
        raise InputError(f"config.{field} must be {meaning}, got {value!r}")


def flat(tree: dict, prefix: str = "") -> dict:
    """Nested dicts as one, with keys like "a.b"."""
    found = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, ml_collections.ConfigDict):
        return value.to_dict()
    raise TypeError(f"{value!r} cannot be stored in a config")
