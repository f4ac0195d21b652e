"""What a user reads when the operating system refuses something: the path, the reason and what can be done."""

import errno
import logging
import os
import re
import shutil
import sys
from typing import Any

_AGAIN = "Nothing that was finished is lost: then run the same command again."
_ROOM = f"Make room, or move the folder to a larger disk. {_AGAIN}"
_FOLDER = "or pass another folder by the flag that names it, such as --workdir, --out or --config.data.cache_dir."
_REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: f"Raise the limit of the size of files (ulimit -f). {_AGAIN}",
    errno.EROFS: f"Mount it for writing, {_FOLDER}",
    errno.EACCES: f"Change its permissions, {_FOLDER}",
    errno.EPERM: f"Change its owner or its permissions, {_FOLDER}",
    errno.ENOENT: f"Check the path, {_FOLDER}",
    errno.ENOTDIR: f"A part of the path is a file. Rename the file, {_FOLDER}",
    errno.EEXIST: f"Rename what has this name, {_FOLDER}",
    errno.EISDIR: "It must be a file. Rename the folder.",
    errno.ENAMETOOLONG: "Pass a folder with a shorter path.",
    errno.EMFILE: f"Raise the limit of open files (ulimit -n). {_AGAIN}",
    errno.ENFILE: f"The whole machine has too many open files. {_AGAIN}",
    errno.ENOMEM: f"Free memory. {_AGAIN}",
    errno.EIO: "Check the disk and its connection. Copy to another disk what is still readable.",
    errno.ESTALE: f"Mount the network folder again. {_AGAIN}",
}
_HOME = (
    "a path begins with ~, and this user's home directory is not known: HOME is not set, or there is no such user. "
    "Set HOME, or write the path without ~."
)
# Libraries in C++ raise other exceptions, whose text has the words of the system.
_WORDED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)


def open_streams() -> None:
    """Gives a program whose input, output or errors were closed, as by a daemon, the null device in their place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, "w" if number else "r", encoding="utf-8")
            setattr(sys, name, stream)
            try:
                os.fstat(number)  # a file that was opened since may have its number
            except OSError:
                os.dup2(stream.fileno(), number)


def hide_late_errors() -> None:
    """Hides what is reported after the read or write that it belongs to has failed.

    Orbax reads and writes many arrays at once, raises the first error, and closes the loop to which tensorstore then
    reports the others. Python prints their tracebacks and goes on.
    """
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.unraisablehook = _print_unraisable


def _print_unraisable(unraisable: Any) -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def describe(error: BaseException) -> str:
    """One line for an exception that the system caused, its memory included; "" for every other exception."""
    text = " ".join(str(error).split())
    if isinstance(error, RuntimeError) and "Could not determine home directory" in text:
        return _HOME
    if isinstance(error, OSError):
        if re.fullmatch(r"\d+ requested and \d+ written", text):  # NumPy
            return f"a file cannot be written to its end ({text}). {_ROOM}"
        if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):  # of copying a folder
            source, target, why = error.args[0][0]
            return f"{target}: it cannot be copied from {source} ({why}). {_ROOM}"
        if error.errno == errno.EPIPE and not error.filename:
            return "the program that reads the output of this command has ended. Nothing else went wrong."
        if error.errno is None:  # raised by a library
            return text or type(error).__name__
        reason = error.strerror or os.strerror(error.errno)
        names = " and ".join(os.fsdecode(n) for n in (error.filename, error.filename2) if isinstance(n, (str, bytes)))
        remedy = _REMEDIES.get(error.errno, _AGAIN.removeprefix("Nothing that was finished is lost: ").capitalize())
        return f"{names or 'a file or the output of this command'}: {reason}. {remedy}"
    if isinstance(error, UnicodeEncodeError):
        return (
            f"the output of this command is in {error.encoding}, which has no {error.object[error.start]!a}. Set "
            "PYTHONIOENCODING=utf-8."
        )
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.errno is not None:
        return describe(cause)
    number = next((number for number in _WORDED if os.strerror(number) in text), None)
    if number is not None:
        paths = re.findall(r"""["'](/[^"']+)["']""", text)
        return f"{paths[-1] if paths else text[:300]}: {os.strerror(number)}. {_REMEDIES[number]}"
    if "RESOURCE_EXHAUSTED" in text:  # XLA
        return (
            f"the memory of the device does not suffice ({text[:200]}). For training lower config.batch_size, set "
            "config.micro_batch, or lower config.model.dim; for evaluation lower config.eval_batch_size."
        )
    return ""
