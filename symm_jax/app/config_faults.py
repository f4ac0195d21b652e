"""Mistakes in the file of --config: what a user reads, and where in the file. Imports nothing slow."""

import re
import traceback
from pathlib import Path

from absl import flags


def check_file(file: str) -> None:
    """Raises flags.Error unless `file` is a Python file."""
    if not file:
        raise flags.Error("--config= is empty, such as for a variable that is not set")
    if not Path(file).is_file():
        what = "is a folder" if Path(file).is_dir() else "there is no such file"
        raise flags.Error(f"--config={file}: {what}; configs/ has the files that ship")
    if not file.endswith(".py"):
        of_run = ". To use the config of a run, pass its folder: --mode=eval --workdir=FOLDER"
        raise flags.Error(
            f"--config={file}: it is no Python file, such as those in configs/"
            + (of_run if file.endswith(".json") else "")
        )


def describe(error: Exception, file: str) -> str:
    """The place in the config file, or in what it imports, at which it raised an error, and the error."""
    if isinstance(error, SyntaxError):
        return f"{error.filename or file}{f', line {error.lineno}' if error.lineno else ''}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    others = Path(__file__).parent, Path(traceback.__file__).parent  # this package and Python's own modules
    own = [f for f in frames if "site-packages" not in f.filename and "<" not in f.filename]
    own = [f for f in own if not any(Path(f.filename).resolve().is_relative_to(other) for other in others)]
    place = f"{own[-1].filename}, line {own[-1].lineno}" if own else f"--config={file}"
    return f"{place}: {type(error).__name__}: {error}"


def shorten(message: str, file: str) -> str:
    """The last line of a traceback, with its place, where ml_collections gives a whole traceback as the message."""
    if "has no attribute 'get_config'" in message:
        return f"--config={file}: it has no function get_config()"
    if "Traceback (most recent call last)" not in message:
        return message
    places = re.findall(r'File "([^"]+)", line (\d+)', message)
    own = [f"{name}, line {line}" for name, line in places if "site-packages" not in name]
    return f"{own[-1] if own else f'--config={file}'}: {message.strip().splitlines()[-1]}"
