"""Functions that users register by name, such as losses and syntheses: their signatures and their registries."""

import inspect
from collections.abc import Callable, Sequence


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


def _origin(function: Callable) -> tuple:
    """Where a function is defined. Objects without a qualified name, such as partials, are only equal to themselves."""
    name = getattr(function, "__qualname__", None)
    return (function.__module__, name) if name else (function,)
