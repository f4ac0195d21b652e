"""The files of a data set, whether they lie in a folder or still in its archives."""

import collections
import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from symm_jax.data import archives
from symm_jax.errors import InputError

# What browsers, downloads and operating systems leave lying about.
_NOT_DATA = ("__MACOSX", "Thumbs.db", "desktop.ini")
_UNFINISHED = (".partial", ".partial.json", ".wrong", ".crdownload", ".part")


class Place(NamedTuple):
    """Where a file is: on disk, or a member of the archive there."""

    file: Path
    member: archives.Member | None = None


class Tree:
    """Files by their path below a folder; a member of an archive has the path that unpacking it there would give.

    A plain file takes precedence over a member of the same path.

    Attributes:
      root: the folder, or a single archive.
      places: {path: Place}.
    """

    def __init__(self, root: Path, *, skip: Path | None = None):
        """Lists `root` and its archives, leaving out the folder `skip`; InputError for an archive that is not whole."""
        self.root = root
        self.places: dict[str, Place] = {}
        plain = {}
        for path in files_below(root, skip):
            inside = path.relative_to(root).as_posix() if path != root else path.name
            if archives.is_archive(path.name):
                folder = PurePosixPath(inside).parent
                for name, member in archives.members(path).items():
                    if _is_data(PurePosixPath(name).parts):
                        self.places[(folder / name).as_posix()] = Place(path, member)
            else:
                plain[inside] = Place(path)
        self.places |= plain

    def find(self, name: str) -> str | None:
        """The path of the file called `name` that is nearest to the root; None when there is none."""
        found = [path for path in self.places if path == name or path.endswith(f"/{name}")]
        return min(found, key=lambda path: (path.count("/"), path), default=None)

    def locate(self, names: Sequence[str]) -> list[str | None]:
        """For each relative name the path of that file, all of them below one folder, wherever it is in the tree."""
        ends = collections.defaultdict(list)
        for path in self.places:
            ends[path.rsplit("/", 1)[-1]].append(path)
        for name in names:
            paths = [p for p in ends[name.rsplit("/", 1)[-1]] if p == name or p.endswith(f"/{name}")]
            if paths:
                base = min(paths, key=lambda path: (path.count("/"), path))[: -len(name)]
                return [base + n if base + n in self.places else None for n in names]
        return [None] * len(names)

    def in_reading_order(self, paths: Sequence[str]) -> list[int]:
        """Indices that sort `paths` so that every archive is read from front to back."""
        order = {path: i for i, path in enumerate(self.places)}
        return sorted(range(len(paths)), key=lambda i: order[paths[i]])

    def size(self, path: str) -> int:
        """Bytes of the file at `path`."""
        file, member = self.places[path]
        return member.size if member else file.stat().st_size

    @contextlib.contextmanager
    def opened(self) -> Iterator[Callable[[str], bytes]]:
        """Yields a function from a path to the bytes of the file; archives stay open meanwhile.

        The function raises InputError when the file is damaged or cannot be read.
        """
        with contextlib.ExitStack() as stack:
            readers: dict[Path, Callable[[archives.Member], bytes]] = {}

            def read(path: str) -> bytes:
                file, member = self.places[path]
                if member is None:
                    try:
                        return file.read_bytes()
                    except OSError as error:
                        raise InputError(f"{file} cannot be read ({error.strerror})") from error
                if file not in readers:
                    readers[file] = stack.enter_context(archives.reader(file))
                return readers[file](member)

            yield read


def files_below(root: Path, skip: Path | None = None) -> list[Path]:
    """The files in a folder and below, sorted, links followed; without hidden, half-loaded and stray ones, and `skip`.

    A `root` that is a file is the only one; one that does not exist has none.

    Raises:
      InputError: a folder cannot be read, or a link leads nowhere.
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
                    raise InputError(f"{entry.path} is a link that leads nowhere; mend or remove it")
        except OSError as error:
            raise InputError(f"{folder} cannot be read ({error.strerror}); make it readable", argument="dir") from error
    return sorted(found)


def digest(root: Path, skip: Path | None = None) -> str:
    """A digest of each file's path, size and time, without reading any."""
    sha = hashlib.sha256()
    for path in files_below(root, skip):
        status = path.stat()
        sha.update(f"{path.relative_to(root).as_posix()} {status.st_size} {status.st_mtime_ns}\n".encode())
    return sha.hexdigest()


def _is_data(parts: Sequence[str]) -> bool:
    stray = any(part.startswith(".") or part in _NOT_DATA for part in parts)
    return not stray and not parts[-1].endswith(_UNFINISHED)
