"""Functions that users register by name, such as losses and syntheses: their signatures, registries and options."""

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def register(
    kind: str, name: str, function: Callable, registry: dict[str, Callable], check: Callable[[str, Callable], None]
) -> None:
    """Adds a function to a registry after a check. Registering the same function again has no effect.

    Args:
      kind: what the function is, for messages, such as "loss".
      name: the key.
      function: the value. A function of the same module and name replaces the registered one, as in a reloaded file.
      registry: names and their functions.
      check: (name, function) -> None; raises ValueError where the function breaks the contract.

    Raises:
      ValueError: the name is taken by another function, or the check fails.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"the name of a {kind} must be a string that is not empty, got {name!r}")
    if not callable(function):
        raise ValueError(f"{kind} {name!r} must be a function, got {function!r}")
    registered = registry.get(name)
    if registered is function:
        return
    if registered is not None and _origin(registered) != _origin(function):
        raise ValueError(f"the name {name!r} is taken by another {kind}. Register your {kind} under another name.")
    check(name, function)
    registry[name] = function


def check_signature(what: str, function: Callable, arguments: Sequence[str]) -> dict[str, inspect.Parameter]:
    """Checks that a function takes `arguments` by position, and options by keyword, each with a default.

    Args:
      what: the function, for messages, such as "loss 'npair'".
      function: any callable with a signature.
      arguments: names of the positional arguments, for messages; the function may name them otherwise.

    Returns:
      The options.

    Raises:
      ValueError: the signature is another one.
    """
    parameters = inspect.signature(function).parameters.values()
    form = f"def function({', '.join(arguments)}, *, option=default)"
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(positional) != len(arguments):
        raise ValueError(
            f"{what} must take {len(arguments)} positional arguments, {', '.join(arguments)}; it takes "
            f"{len(positional)}: {', '.join(positional) or 'none'}. Write {form}."
        )
    for p in parameters:
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            raise ValueError(f"{what} must name its options; it takes {p}. Write {form}.")
        if p.kind is p.KEYWORD_ONLY and p.default is p.empty:
            raise ValueError(f"{what} must give its option {p.name!r} a default. Write {form}.")
    return {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}


def type_fault(value: Any, kind: Any) -> str:
    """What is wrong with the type of a value, such as "must be an integer, got 'x'"; "" when it fits.

    Args:
      value: the value. An integer is taken for a float, and a list for a tuple.
      kind: bool, int, float, str, dict, tuple, or tuple[X, ...] with one of these.

    Example:
      >>> type_fault(3, float), type_fault(True, int), type_fault((1, "a"), tuple[int, ...])
      ('', 'must be an integer, got True', "must be a tuple of integers, got (1, 'a')")
    """
    return "" if _fits(value, kind) else f"must be {_KINDS[kind]}, got {value!r}"


def option_fault(value: Any, parameter: inspect.Parameter) -> str:
    """The same for an option of a function, by the type of its default. A default None accepts every value."""
    default = parameter.default
    kind: Any = type(default)
    if isinstance(default, tuple) and default:
        kind = tuple[type(default[0]), ...]
    elif kind is int and parameter.annotation in (float, "float"):
        kind = float
    return type_fault(value, kind) if kind in _KINDS else ""


_KINDS = {
    bool: "True or False",
    int: "an integer",
    float: "a number",
    str: "a string",
    dict: "a mapping of names to values",
    tuple: "a tuple",
    tuple[int, ...]: "a tuple of integers",
    tuple[float, ...]: "a tuple of numbers",
    tuple[str, ...]: "a tuple of strings",
    tuple[dict, ...]: "a tuple of mappings, such as ({'name': 'npair'},)",
}


def _fits(value: Any, kind: Any) -> bool:
    if typing.get_origin(kind) is tuple:
        return isinstance(value, (tuple, list)) and all(_fits(x, typing.get_args(kind)[0]) for x in value)
    if kind is dict:
        return isinstance(value, Mapping) or hasattr(value, "to_dict")  # a ConfigDict is no Mapping
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return isinstance(value, (tuple, list) if kind is tuple else kind)


def _origin(function: Callable) -> tuple:
    """Where a function is defined. Objects without a qualified name, such as partials, are only equal to themselves."""
    name = getattr(function, "__qualname__", None)
    return (function.__module__, name) if name else (function,)
