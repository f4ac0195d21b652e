"""Folders and files that are whole or absent, and locks that end with their process."""

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from symm_jax.errors import InputError


@contextlib.contextmanager
def new_directory(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yields a folder beside `path` that becomes `path` when the block ends, and vanishes when it raises.

    With `replace` it takes the place of what is there; a reader finds the one, the other, or for a moment neither.
    A process killed inside the block leaves `NAME.partial-*` behind; the next call for the same path removes it,
    so the caller holds a `lock` on it.
    """
    for leftover in path.parent.glob(f"{path.name}.partial-*"):
        shutil.rmtree(leftover)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.partial-{secrets.token_hex(4)}")
    aside.mkdir()  # not mkdtemp, whose folders other users of the machine cannot read
    try:
        yield aside
        if replace and path.exists():
            path.rename(aside.with_name(f"{aside.name}-before"))
        aside.rename(path)
        shutil.rmtree(aside.with_name(f"{aside.name}-before"), ignore_errors=True)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a file that readers find as it was or as it will be, and never in between."""
    aside = path.with_name(f"{path.name}.partial")
    aside.write_text(text)
    aside.replace(path)


@contextlib.contextmanager
def lock(path: Path, *, busy: str = "") -> Iterator[None]:
    """Holds the lock file `path`; the system releases it however the process ends.

    Waits while another process holds it; with `busy`, a message, raises InputError at once instead.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError:
            file.seek(0)
            raise InputError(f"{busy} (held by process {file.read().strip() or 'unknown'})") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def require_space(folder: Path, needed: int, what: str) -> None:
    """Raises InputError when the disk of `folder`, of config.data.cache_dir, has not `needed` bytes for `what`."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"config.data.cache_dir: {folder} needs {needed / 1e6:,.0f} MB for {what} and has {free / 1e6:,.0f} MB "
            "free; make room or pass another folder"
        )
