"""The one exception whose message is meant for the person at the keyboard."""

import difflib
import functools
import sys
from collections.abc import Iterable


class InputError(ValueError):
    """A mistake in what the user gave: a flag, a config field, a file or a folder.

    The message names it and says what to do. `launch.py` prints it without a traceback and exits with 2.
    """


def suggest(name: str, choices: Iterable[str]) -> str:
    """Returns " (did you mean X?)" for the closest of `choices`, or "" when none is close."""
    close = difflib.get_close_matches(str(name), list(choices), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def choose(kind: str, name: str, choices: dict):
    """Returns `choices[name]`; an unknown name raises InputError with a suggestion and all the choices."""
    if name not in choices:
        raise InputError(f"unknown {kind} {name!r}{suggest(name, choices)}; choices: {', '.join(sorted(choices))}")
    return choices[name]


@functools.cache  # the same thing is said once
def warn(message: str) -> None:
    """Prints what the user should know but which stops nothing."""
    print(f"warning: {message}", file=sys.stderr)
