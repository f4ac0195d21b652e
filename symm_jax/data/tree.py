"""The files of a data set, in a folder or in the archives of that folder."""

import collections
import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from symm_jax import errors
from symm_jax.data import archives
from symm_jax.errors import InputError

# Files and folders that file servers, operating systems and other programs add by themselves, in lower case. Names that
# begin with "." are left out too: .DS_Store, ._NAME, .thumbnails, .AppleDouble, .Trash-1000, .ipynb_checkpoints, ...
_NOT_DATA = frozenset(
    {
        *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "@transcode", "#recycle", "#snapshot"),  # Synology, QNAP
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"),  # Windows
        *("$recycle.bin", "recycler", "recycled", "system volume information"),
        *("__macosx", "icon\r", "network trash folder", "temporary items", "thevolumesettingsfolder"),  # macOS
        *("lost+found", "__pycache__"),
    }
)
_UNFINISHED = (".partial", ".partial.json", ".wrong", ".crdownload", ".part")


class Entry(NamedTuple):
    """A file on disk. With `member`, a member of the archive `file`."""

    file: Path
    member: archives.Member | None = None


class Tree:
    """Files by their path below a folder. A member of an archive has the path that it would have when unpacked there.

    A plain file takes precedence over a member with the same path. An archive NAME.zip whose members are for the most
    part plain files below NAME/ was unpacked to that folder, and its members have the paths that they have there.

    Attributes:
      root: the folder, or a single archive.
      entries: {path: Entry}.
      faults: {archive, folder or link that cannot be read: its error}. What it holds is not in `entries`.
    """

    def __init__(self, root: Path, *, skip: Path | None = None):
        """Lists `root` and its archives, without the folder `skip`."""
        self.root = root
        self.entries: dict[str, Entry] = {}
        files, self.faults = _list(root, skip)
        inside = {path: path.relative_to(root).as_posix() if path != root else path.name for path in files}
        plain = {name: Entry(path) for path, name in inside.items() if not archives.is_archive(name)}
        for path, name in inside.items():
            if archives.is_archive(name):
                self._add_members(path, name, plain)
        self.entries |= plain

    def _add_members(self, archive: Path, inside: str, plain: Mapping[str, Entry]) -> None:
        try:
            members = archives.members(archive)
        except InputError as error:
            self.faults[archive] = error
            return
        members = {name: member for name, member in members.items() if _is_data(name.split("/"))}
        folder = inside[: -len(archive.name)]  # "" or "FOLDER/"
        unpacked = f"{archives.stem(inside)}/"
        if 2 * sum(unpacked + name in plain for name in members) > len(members):
            folder = unpacked
        known = sum(folder + name in plain for name in members)
        if 0 < known < len(members):
            errors.warn(
                f"{archive} is unpacked already: {known:,} of its {len(members):,} files are in the data folder, and "
                "the others are read from the archive. To leave those out, move the archive out of the data folder"
            )
        self.entries |= {folder + name: Entry(archive, member) for name, member in members.items()}

    def find(self, name: str) -> str | None:
        """The path of the file called `name` that is nearest to the root, or None."""
        found = [path for path in self.entries if path == name or path.endswith(f"/{name}")]
        return min(found, key=lambda path: (path.count("/"), path), default=None)

    def locate(self, names: Sequence[str]) -> list[str | None]:
        """The path of each relative name; None for a file that is missing.

        Names with the same first folder are all below one folder of the tree: the one that has most of them, and of
        several such the one nearest to the root.
        """
        wanted = set(names)
        bases: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        for path in self.entries:
            starts = [0, *(i + 1 for i, character in enumerate(path) if character == "/")]
            for start in starts:
                if path[start:] in wanted:
                    bases[_top(path[start:])][path[:start]] += 1
        best = {top: min(found, key=lambda b: (-found[b], b.count("/"), b)) for top, found in bases.items()}
        paths = [best.get(_top(name), "") + name for name in names]
        return [path if path in self.entries else None for path in paths]

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
      InputError: there is no file that can be read, and something that cannot.
    """
    files, faults = _list(root, skip)
    if faults and not files:
        raise next(iter(faults.values()))
    return files


def digest(root: Path, files: Sequence[Path]) -> str:
    """A digest of the path below `root`, size and time of each of the files. No file is read."""
    sha, depth = hashlib.sha256(), len(root.parts)
    for path in files:
        try:
            status = path.stat()
        except OSError as error:
            raise _unreadable(path, error) from error
        name = "/".join(path.parts[depth:]) or "."  # path.relative_to takes three times as long
        line = f"{name} {status.st_size} {status.st_mtime_ns}\n"
        sha.update(line.encode("utf-8", "surrogateescape"))
    return sha.hexdigest()


def as_text(path: str) -> str:
    """A path as text that UTF-8 can encode: a byte that is not UTF-8 becomes \\xNN, and a backslash is doubled."""
    doubled = path.replace("\\", "\\\\")
    return doubled.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _list(root: Path, skip: Path | None) -> tuple[list[Path], dict[Path, InputError]]:
    """The files of `files_below`, and the error for each folder or link that cannot be read."""
    found: list[Path] = []
    faults: dict[Path, InputError] = {}
    if not root.is_dir():
        return [root] if root.is_file() else [], faults
    seen = {os.path.realpath(skip)} if skip is not None else set()
    folders = [root]
    while folders:
        folder = folders.pop()
        if os.path.realpath(folder) in seen:
            continue
        seen.add(os.path.realpath(folder))
        try:
            with os.scandir(folder) as entries:
                listed = [entry for entry in entries if _is_data((entry.name,))]
        except OSError as error:
            faults[folder] = _unreadable(folder, error)
            continue
        for entry in listed:
            path = Path(entry.path)
            try:
                if entry.is_dir():
                    folders.append(path)
                elif entry.is_file():
                    found.append(path)
                elif entry.is_symlink():
                    faults[path] = InputError(
                        f"{path} is a link to a file that does not exist. Restore the file, or remove the link."
                    )
            except OSError as error:
                faults[path] = _unreadable(path, error)
    found.sort(key=lambda path: os.path.normcase(path).split(os.sep))  # noqa: PTH206  Path's own order, faster
    return found, dict(sorted(faults.items()))


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path} cannot be read ({error.strerror}). Make it readable.", argument="dir")


def _top(name: str) -> str:
    """The first folder of a relative path, or ""."""
    return name.split("/", 1)[0] if "/" in name else ""


def _is_data(parts: Sequence[str]) -> bool:
    stray = any(part.startswith(".") or part.lower() in _NOT_DATA for part in parts)
    return not stray and not parts[-1].endswith(_UNFINISHED)
