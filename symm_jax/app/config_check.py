"""The fields of a whole config or comparison, checked before anything is imported that is slow."""

import re
from typing import Any

from symm_jax.errors import InputError
from symm_jax.run import config_fields
from symm_jax.signatures import type_fault

COMPARISON = {"methods": dict, "baseline": str, "seeds": tuple[int, ...], "validation_classes": tuple[int, ...]}


def check(config: Any) -> None:
    """Raises InputError, when a field of a run's config is unknown, missing or of another type."""
    _refuse(_run_faults(config, "config"))


def check_comparison(comparison: Any) -> None:
    """The same for the config of a comparison and each of its methods."""
    faults = [
        f"config.{name} is unknown{config_fields.nearest(name, COMPARISON)}"
        for name in comparison
        if name not in COMPARISON
    ]
    for name, kind in COMPARISON.items():
        if name not in comparison:
            faults.append(f"config.{name} is missing; see configs/compare/glyphs.py")
        elif (fault := type_fault(comparison[name], kind)) and (
            name != "baseline" or type_fault(comparison[name], dict)  # {method: its baseline}
        ):
            faults.append(f"config.{name} {fault}")
    methods = comparison.get("methods")
    for name, config in methods.items() if hasattr(methods, "items") else ():
        fault = type_fault(config, dict)
        title = f"config.methods.{name}"
        faults += [f"{title} must be the config of a run, got {config!r}"] if fault else _run_faults(config, title)
    _refuse(faults)


def check_name(name: str, mode: str) -> None:
    """Raises InputError when a flag --config.NAME names no field. NAME may end with indices, as in losses[0]."""
    field, known = name.partition("[")[0], config_fields.FIELDS
    if mode == "compare":
        section, _, rest = field.partition(".")
        if section != "methods":
            known, field = COMPARISON, section if section in COMPARISON else field
        else:
            field = rest.partition(".")[2]
    sections = {f.partition(".")[0] for f in known} | {""}
    if field not in known and field not in sections and not field.startswith(("model.options.", "baseline.")):
        prefix = name[: len(name) - len(field)] if name.endswith(field) else ""
        raise InputError(
            f"--config.{name}: the config has no field {prefix + field!r}{config_fields.nearest(field, known)}; "
            "configs/default.py explains them all"
        )


def value_fault(name: str, text: str) -> str:
    """What is wrong with the value that the command line gives to a field and that cannot be parsed."""
    *_, field = re.split(r"^methods\.[^.]+\.", name)
    fault = type_fault(text, (config_fields.FIELDS | COMPARISON).get(field, dict))
    balanced = all(text.count(left) == text.count(right) for left, right in ("()", "[]", "{}"))
    return fault if balanced else f"{fault}: its brackets do not match"


def flags_by_last_name() -> dict[str, str]:
    """The flag of each field by the last part of its name, {"dir": "--config.data.dir"}."""
    return {name.rpartition(".")[2]: f"--config.{name}" for name in config_fields.FIELDS}


def _run_faults(config: Any, title: str) -> list[str]:
    unknown = config_fields.unknown_fields(config, title).values()
    return [*unknown, *config_fields.missing_fields(config, title), *config_fields.type_faults(config, title)]


def _refuse(faults: list[str]) -> None:
    if faults:
        raise InputError("\n".join(faults) + "\nconfigs/default.py explains every field.")
