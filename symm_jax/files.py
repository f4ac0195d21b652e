"""Atomic writes of files and folders, and locks that end with their process."""

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from symm_jax import errors
from symm_jax.errors import InputError

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)  # as flock fails on some file systems
_BEFORE = "-before"
_FLUSH_SECONDS = 0.05


@contextlib.contextmanager
def new_directory(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yields a temporary folder next to `path`. It becomes `path` when the block ends.

    When the block raises, it is deleted.
    With `replace` it takes the place of an existing folder. For a moment a reader may find no folder.
    A process that is killed inside the block leaves a hidden folder, `.NAME.partial-` and eight digits. The next call
    for the same path deletes such leftovers, so the caller holds a `lock` for `path`.
    """
    for leftover in _leftovers(path):
        if leftover.name.endswith(_BEFORE) and not path.exists():  # killed between the two renamings at the end
            leftover.rename(path)
        else:
            shutil.rmtree(leftover)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{_unfinished(path)}{secrets.token_hex(4)}")
    temporary.mkdir()  # mkdtemp would make a folder that other users cannot read
    before = temporary.with_name(f"{temporary.name}{_BEFORE}")
    try:
        yield temporary
        for file in (*temporary.rglob("*"), temporary):
            _flush(file)  # the data is on the disk before the name is
        if replace and path.exists():
            path.rename(before)
        temporary.rename(path)
        _flush(path.parent)  # the name is on the disk before the earlier folder is deleted
        shutil.rmtree(before, ignore_errors=True)
    except BaseException:
        if before.exists() and not path.exists():
            before.rename(path)
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _unfinished(path: Path) -> str:
    return f".{path.name}.partial-"


def _leftovers(path: Path) -> list[Path]:
    """What killed processes left of `path`, a folder that was replaced before the one that replaced it."""
    name = re.compile(rf"{re.escape(_unfinished(path))}[0-9a-f]{{8}}({_BEFORE})?")
    found = path.parent.iterdir() if path.parent.is_dir() else ()
    return sorted((other for other in found if name.fullmatch(other.name) and other.is_dir()), reverse=True)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yields the path of a temporary file next to `path`, to be written. It becomes `path` when the block ends.

    A reader finds the old content or the new content, also when the block raises.
    """
    temporary = path.with_name(f"{path.name}.partial")
    try:
        with naming(path):
            yield temporary
            _flush(temporary)
            temporary.replace(path)
            _flush(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


@contextlib.contextmanager
def flushing(path: Path) -> Iterator[None]:
    """Sends a file to the disk again and again while the block writes it, so that the last flush has little to do.

    It does not replace the last flush, which `new_directory` and `new_file` do and whose errors count.
    """
    ended = threading.Event()

    def flush() -> None:
        with contextlib.suppress(OSError):
            while not ended.wait(_FLUSH_SECONDS):
                _flush(path)

    thread = threading.Thread(target=flush, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def write_text(path: Path, text: str) -> None:
    """Writes a file atomically, see `new_file`."""
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Gives an OSError of the block the path where it has none: the system names no file when a disk is full."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ValueError, with the reason, for every other content."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, RecursionError) as error:
        raise ValueError(str(error)) from error
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    return content


@contextlib.contextmanager
def wait_for_lock(path: Path, *, busy: str) -> Iterator[None]:
    """Holds the lock file `path`, see `lock`. When another process has it, prints `busy` and waits.

    Raises:
      InputError: its folder takes no files.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock(path, busy=busy))
        except InputError as error:
            if not path.exists():
                raise
            print(f"{error}; waiting for it to end", flush=True)
            stack.enter_context(lock(path))
        yield


@contextlib.contextmanager
def lock(path: Path, *, busy: str = "") -> Iterator[None]:
    """Holds the lock file `path`. The system releases it when the process ends.

    Where the file system has no locks, it warns and goes on without one.

    Args:
      path: the lock file. It holds the number of the process that has the lock.
      busy: message of the error when another process has the lock. Without it, the call waits.

    Raises:
      InputError: another process has the lock, and `busy` is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    held = filelock.FileLock(path, timeout=0 if busy else -1)
    try:
        held.acquire()
    except filelock.Timeout:
        if not path.exists():  # so filelock reports a folder that takes no files
            raise InputError(f"{path.parent} takes no new files") from None
        raise InputError(f"{busy} (held by process {_holder(path)})") from None
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        errors.warn(f"the file system of {path.parent} has no locks ({error}); start only one program there at a time")
        yield
        return
    try:
        with contextlib.suppress(OSError):  # the number is only shown to others, and the disk may be full
            path.write_text(str(os.getpid()))
        yield
    finally:
        held.release()


def require_space(folder: Path, needed: int, content: str, *, argument: str = "") -> None:
    """Raises InputError when the disk of `folder` has less than `needed` bytes free.

    Args:
      folder: an existing folder.
      needed: bytes.
      content: what needs the space, for the message.
      argument: the argument that gave the folder, for the message.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{folder} needs {needed / 1e6:,.0f} MB for {content} and has {free / 1e6:,.0f} MB free; make room or "
            "pass another folder",
            argument=argument,
        )


def _flush(path: Path) -> None:
    """Waits until a file or folder is on the disk, where the file system can say so."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(descriptor)


def _holder(path: Path) -> str:
    try:
        return path.read_text().strip() or "unknown"
    except OSError:  # Windows locks the content too, and a lock that was just released may be gone
        return "unknown"
