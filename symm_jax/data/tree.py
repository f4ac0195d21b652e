"""The files of a data set, in a folder or in the archives of that folder."""

import collections
import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from symm_jax.data import archives
from symm_jax.errors import InputError

# Files that browsers, downloads and operating systems leave in folders.
_NOT_DATA = ("__MACOSX", "Thumbs.db", "desktop.ini")
_UNFINISHED = (".partial", ".partial.json", ".wrong", ".crdownload", ".part")


class Entry(NamedTuple):
    """A file on disk. With `member`, a member of the archive `file`."""

    file: Path
    member: archives.Member | None = None


class Tree:
    """Files by their path below a folder. A member of an archive has the path that it would have when unpacked there.

    A plain file takes precedence over a member with the same path.

    Attributes:
      root: the folder, or a single archive.
      entries: {path: Entry}.
    """

    def __init__(self, root: Path, *, skip: Path | None = None):
        """Lists `root` and its archives, without the folder `skip`. Raises InputError for a damaged archive."""
        self.root = root
        self.entries: dict[str, Entry] = {}
        plain = {}
        for path in files_below(root, skip):
            inside = path.relative_to(root).as_posix() if path != root else path.name
            if archives.is_archive(path.name):
                folder = PurePosixPath(inside).parent
                for name, member in archives.members(path).items():
                    if _is_data(PurePosixPath(name).parts):
                        self.entries[(folder / name).as_posix()] = Entry(path, member)
            else:
                plain[inside] = Entry(path)
        self.entries |= plain

    def find(self, name: str) -> str | None:
        """The path of the file called `name` that is nearest to the root, or None."""
        found = [path for path in self.entries if path == name or path.endswith(f"/{name}")]
        return min(found, key=lambda path: (path.count("/"), path), default=None)

    def locate(self, names: Sequence[str]) -> list[str | None]:
        """The path of each relative name, all below one folder of the tree; None for a file that is missing."""
        by_file_name = collections.defaultdict(list)
        for path in self.entries:
            by_file_name[path.rsplit("/", 1)[-1]].append(path)
        for name in names:
            paths = [p for p in by_file_name[name.rsplit("/", 1)[-1]] if p == name or p.endswith(f"/{name}")]
            if paths:
                base = min(paths, key=lambda path: (path.count("/"), path))[: -len(name)]
                return [base + n if base + n in self.entries else None for n in names]
        return [None] * len(names)

    def in_reading_order(self, paths: Sequence[str]) -> list[int]:
        """Indices that sort `paths` so that every archive is read from front to back."""
        order = {path: i for i, path in enumerate(self.entries)}
        return sorted(range(len(paths)), key=lambda i: order[paths[i]])

    def size(self, path: str) -> int:
        """The size in bytes of the file at `path`."""
        file, member = self.entries[path]
        return member.size if member else file.stat().st_size

    @contextlib.contextmanager
    def opened(self) -> Iterator[Callable[[str], bytes]]:
        """Yields a function from a path to the bytes of the file. Archives stay open inside the block.

        The function raises InputError when the file is damaged or cannot be read.
        """
        with contextlib.ExitStack() as stack:
            readers: dict[Path, Callable[[archives.Member], bytes]] = {}

            def read(path: str) -> bytes:
                file, member = self.entries[path]
                if member is None:
                    try:
                        return file.read_bytes()
                    except OSError as error:
                        raise InputError(
                            f"{file} cannot be read ({error.strerror}). Make it readable, or restore it."
                        ) from error
                if file not in readers:
                    readers[file] = stack.enter_context(archives.reader(file))
                return readers[file](member)

            yield read


def files_below(root: Path, skip: Path | None = None) -> list[Path]:
    """The files in a folder and its subfolders, sorted. Links are followed.

    Hidden files, unfinished downloads, files of operating systems and the folder `skip` are left out. If `root` is a
    file, it is the only one. If it does not exist, there are none.

    Raises:
      InputError: a folder cannot be read, or the target of a link does not exist.
    """
    if not root.is_dir():
        return [root] if root.is_file() else []
    seen = {os.path.realpath(skip)} if skip is not None else set()
    found, folders = [], [root]
    while folders:
        folder = folders.pop()
        if os.path.realpath(folder) in seen:
            continue
        seen.add(os.path.realpath(folder))
        try:
            with os.scandir(folder) as entries:
                listed = [entry for entry in entries if _is_data((entry.name,))]
            for entry in listed:
                if entry.is_dir():
                    folders.append(Path(entry.path))
                elif entry.is_file():
                    found.append(Path(entry.path))
                elif entry.is_symlink():
                    raise InputError(
                        f"{entry.path} is a link to a file that does not exist. Restore the file, or remove the link."
                    )
        except OSError as error:
            raise InputError(
                f"{folder} cannot be read ({error.strerror}). Make it readable.", argument="dir"
            ) from error
    return sorted(found)


def digest(root: Path, skip: Path | None = None) -> str:
    """A digest of the path, size and time of each file. No file is read."""
    sha = hashlib.sha256()
    for path in files_below(root, skip):
        status = path.stat()
        sha.update(f"{path.relative_to(root).as_posix()} {status.st_size} {status.st_mtime_ns}\n".encode())
    return sha.hexdigest()


def _is_data(parts: Sequence[str]) -> bool:
    stray = any(part.startswith(".") or part in _NOT_DATA for part in parts)
    return not stray and not parts[-1].endswith(_UNFINISHED)
