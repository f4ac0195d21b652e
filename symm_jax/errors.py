"""The exception for mistakes of the user, warnings, and the lookup of names with a suggestion."""

import difflib
import functools
import sys
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


class InputError(ValueError):
    """A mistake in what the user gave: a flag, a config field, a file or a folder.

    The message is a plain fact. `argument` is the name of the argument at fault, or "". A program puts its own name
    for the argument before the fact: see `symm_jax.app.fields`.

    Attributes:
      fact: the message without the argument's name.
      argument: the argument's name, or "".
    """

    def __init__(self, fact: str, *, argument: str = ""):
        super().__init__(fact)
        self.fact = fact
        self.argument = argument

    def __str__(self) -> str:
        return f"{self.argument}: {self.fact}" if self.argument else self.fact


def suggest(name: str, choices: Iterable[str]) -> str:
    """Returns " (did you mean X?)" for the closest of `choices`, or "" when none is close."""
    close = difflib.get_close_matches(str(name), list(choices), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def lookup(kind: str, name: str, choices: Mapping[str, T], *, argument: str = "") -> T:
    """Returns `choices[name]`.

    Args:
      kind: what is looked up, for the message.
      name: the key.
      choices: the known names and their values.
      argument: the argument that gave `name`, for the message.

    Raises:
      InputError: the name is unknown. The message has the closest name and all the choices.
    """
    if name not in choices:
        raise InputError(
            f"unknown {kind} {name!r}{suggest(name, choices)}; choices: {', '.join(sorted(choices))}",
            argument=argument,
        )
    return choices[name]


@functools.cache  # each message is printed once
def warn(message: str) -> None:
    """Prints a warning. It does not stop the program."""
    print(f"warning: {message}", file=sys.stderr)
