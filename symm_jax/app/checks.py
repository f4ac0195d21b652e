"""Checks of a whole config before anything is built."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_collections

from symm_jax import losses
from symm_jax.errors import InputError
from symm_jax.losses import adapters
from symm_jax.synthesis import SYNTHESES
from symm_jax.synthesis.registry import makes_points
from symm_jax.training import batches

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
    "keep_checkpoints",
    "data.split_seed",
    "data.validation_classes",
    "optimizer.stop_step",
    "optimizer.weight_penalty",
    "optimizer.embedding_gradient_scale",
    "optimizer.clip_norm",
    "optimizer.backbone_rate",
    "optimizer.proxy_rate",
    "augment.min_margin",
)
_DTYPES = {
    "model.dtype": ("float32", "bfloat16", "float16", "float64"),
    "model.param_dtype": ("float32", "float64"),  # Adam's moments have this dtype, and need its digits and range
}


def validate(config: ml_collections.ConfigDict, num_devices: int) -> None:
    """Raises InputError naming the first field whose value cannot be trained with on `num_devices` devices.

    Names of data sets, models and losses are checked where they are looked up.
    """
    for field in _POSITIVE_INTEGERS:
        _require(config, field, lambda x: isinstance(x, int) and x > 0, "an integer above 0")
    for field in _POSITIVE:
        _require(config, field, lambda x: 0 < x < math.inf, "a finite number above 0")
    for field in _NOT_NEGATIVE:
        _require(config, field, lambda x: 0 <= x < math.inf, "a finite number, 0 or more")
    # JAX uses 32 bits of a seed: two seeds with the same ones would be one run.
    _require(config, "seed", lambda x: x < 2**32, "an integer below 2**32")
    for field in ("optimizer.b1", "optimizer.b2"):
        _require(config, field, lambda x: 0 < x < 1, "between 0 and 1")
    for field, dtypes in _DTYPES.items():
        _require(config, field, lambda x, dtypes=dtypes: x in dtypes, f"one of {', '.join(dtypes)}")
    _require(config, "data.on_device", lambda x: x in batches.ON_DEVICE, f"one of {', '.join(batches.ON_DEVICE)}")
    _require(config, "augment.enlarge", lambda x: 1 <= x < math.inf, "1 or more")
    low = config.augment.min_margin
    _require(config, "augment.max_margin", lambda x: low <= x < 0.5, f"from min_margin ({low}) to below 0.5")
    _require(config, "recall_ks", lambda x: x and all(isinstance(k, int) and k > 0 for k in x), "integers above 0")
    _require(config, "batch_size", lambda x: x % 2 == 0, "even: a batch is made of pairs")
    _require(config, "batch_size", lambda x: x >= 4, "at least 4: a pair needs another to differ from")
    per_class = config.data.images_per_class
    _require(
        config,
        "data.images_per_class",
        lambda x: x == 1 or (x >= 2 and x % 2 == 0),
        "even, 2 or more, because images come in pairs; or 1 for shuffled epochs",
    )
    if per_class == 1:
        _require_losses_of_any_images(config)
    _require(
        config,
        "batch_size",
        lambda x: x % per_class == 0 and x > per_class,
        f"a multiple of config.data.images_per_class = {per_class}, and of two classes or more",
    )
    _require(config, "data.validation_classes", lambda x: isinstance(x, int) and x != 1, "0, or 2 and more classes")
    _require(config, "data.validation_seed", lambda x: isinstance(x, int) and x >= -1, "an integer, -1 or more")
    _require(config, "keep_checkpoints", lambda x: isinstance(x, int), "an integer, 0 or more")
    pairs = config.batch_size // 2
    if pairs % num_devices:
        raise InputError(
            f"config.batch_size = {config.batch_size} makes {pairs} pairs, which {num_devices} devices cannot share "
            f"equally; make it a multiple of {2 * num_devices}"
        )
    share = config.batch_size // num_devices
    _require(
        config,
        "micro_batch",
        lambda x: isinstance(x, int) and x >= 0 and x % 2 == 0 and (not x or share % x == 0),
        f"0, or even and a divisor of the {share} images of a device",
    )
    if config.micro_batch and config.model.options.get("train_batch_norm", False):
        raise InputError(
            "config.micro_batch needs a batch norm that is not trained: its statistics would be those of a part of the "
            "batch. Set it to 0, or train_batch_norm of config.model.options to False"
        )
    for name in ("dtype", "param_dtype"):
        if config.model[name] == "float64" and jax.dtypes.canonicalize_dtype("float64") != "float64":
            raise InputError(f"config.model.{name} = 'float64' needs JAX_ENABLE_X64=1 in the environment")


def _require_losses_of_any_images(config: ml_collections.ConfigDict) -> None:
    """Raises InputError for a loss or a synthesis that takes pairs, which shuffled epochs do not have."""
    advice = (
        "config.data.images_per_class = 1 gives batches of shuffled epochs, which have no pairs. Set it to 2, or name "
        "only proxy losses and batch losses"
    )
    for spec in (spec for spec in config.losses if isinstance(spec, Mapping)):
        name, synthesis = spec.get("name"), spec.get("synthesis")
        kind = synthesis.get("name") if isinstance(synthesis, Mapping) else synthesis
        if name in losses.LOSSES and not adapters.takes_batch(losses.LOSSES[name]):
            raise InputError(f"config.losses: {name!r} compares two images of one class in each row. {advice}")
        if kind in tuple(SYNTHESES) and makes_points(SYNTHESES[kind]):
            raise InputError(
                f"config.losses: the synthesis {kind!r} of {name!r} makes points from two images of one class. "
                f"{advice}, without this synthesis"
            )


def _require(config: Any, field: str, accept: Callable[[Any], bool], meaning: str) -> None:
    value = config
    for key in field.split("."):
        value = value[key]
    if not accept(value):
        raise InputError(f"config.{field} must be {meaning}, got {value!r}")
