"""Every field of a config, and its type. configs/default.py has the same fields, with values and explanations."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from symm_jax.errors import InputError
from symm_jax.signatures import type_fault

FIELDS: dict[str, Any] = {
    "seed": int,
    "batch_size": int,
    "micro_batch": int,
    "num_steps": int,
    "checkpoint_every": int,
    "keep_checkpoints": int,
    "log_every": int,
    "eval_batch_size": int,
    "recall_ks": tuple[int, ...],
    "clustering": bool,
    "data.name": str,
    "data.dir": str,
    "data.mirrors": tuple[str, ...],
    "data.cache_dir": str,
    "data.on_device": str,
    "data.crop": bool,
    "data.split_seed": int,
    "data.accept_duplicates": bool,
    "data.validation_classes": int,
    "data.validation_seed": int,
    "data.images_per_class": int,
    "data.image_size": int,
    "augment.enlarge": float,
    "augment.min_margin": float,
    "augment.max_margin": float,
    "augment.mirror": bool,
    "model.name": str,
    "model.dim": int,
    "model.pretrained": str,
    "model.mirrors": tuple[str, ...],
    "model.dtype": str,
    "model.param_dtype": str,
    "model.options": dict,  # those of the backbone: models.create checks them
    "losses": tuple[dict, ...],  # those of each loss: losses.from_config checks them
    "optimizer.learning_rate": float,
    "optimizer.decay_rate": float,
    "optimizer.decay_every": int,
    "optimizer.stop_step": int,
    "optimizer.final_learning_rate": float,
    "optimizer.b1": float,
    "optimizer.b2": float,
    "optimizer.eps": float,
    "optimizer.weight_penalty": float,
    "optimizer.embedding_gradient_scale": float,
    "optimizer.backbone_rate": float,
    "optimizer.proxy_rate": float,
    "optimizer.clip_norm": float,
}
_SECTIONS = {name.partition(".")[0] for name in FIELDS if "." in name}


def check(config: Any) -> None:
    """Raises InputError, with one line per field, when a field of a ConfigDict is unknown or has another type.

    A field may be absent: a caller needs only those that it reads.
    """
    if found := [*unknown_fields(config).values(), *type_faults(config)]:
        raise InputError("\n".join(found))


def flatten(config: Any, section: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of a config, ("data.dir", value). A section that is unknown, or no section, counts as one field."""
    for key, value in config.items():
        name = f"{section}{key}"
        if name in _SECTIONS and hasattr(value, "items"):
            yield from flatten(value, f"{name}.")
        else:
            yield name, value


def unknown_fields(config: Any, title: str = "config") -> dict[str, str]:
    """The unknown fields of a config, {"a.b": one line that has the nearest known name}.

    Args:
      config: a config, or its fields as nested dicts.
      title: what the user calls the config.
    """
    names = [name for name, _ in flatten(config) if name not in FIELDS and name not in _SECTIONS]
    return {name: f"{title}.{name} is unknown{nearest(name)}" for name in names}


def missing_fields(config: Any, title: str = "config") -> list[str]:
    """One line that lists the missing fields of a config, or nothing. Arguments are as in `unknown_fields`."""
    there = dict(flatten(config))
    missing = [name for name in FIELDS if name not in there and name.partition(".")[0] not in there]
    return [f"{title} lacks {', '.join(missing)}; copy what is missing from configs/default.py"] if missing else []


def type_faults(config: Any, title: str = "config") -> list[str]:
    """The fields of a config whose values are of another type, one line each. Arguments as in `unknown_fields`."""
    found = []
    for name, value in flatten(config):
        if name in _SECTIONS:
            found.append(f"{title}.{name} must be a section with fields of its own, got {value!r}")
        elif name in FIELDS and (fault := type_fault(value, FIELDS[name])):
            found.append(f"{title}.{name} {fault}")
    return found


def nearest(name: str, known: Mapping[str, Any] = FIELDS) -> str:
    """The nearest known names for a message: " (did you mean X?)", or the fields of the section."""
    section, _, key = name.rpartition(".")
    last = {field.rpartition(".")[2]: field for field in known}  # a field may have been looked for in another section
    siblings = {f.removeprefix(f"{section}."): f for f in known if f.rpartition(".")[0] == section}
    siblings |= {} if section else {s: s for s in _SECTIONS if known is FIELDS}
    for choices in (siblings, last):
        if close := difflib.get_close_matches(key, choices, n=1):
            return f" (did you mean {choices[close[0]]!r}?)"
    return f"; known are: {', '.join(sorted(siblings))}" if siblings else ""
