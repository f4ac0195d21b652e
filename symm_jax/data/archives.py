"""Reads members of .tar, .tgz and .zip archives where they are. Nothing is ever unpacked to disk.

An archive is hostile until its list has been read: a member that would lie outside the archive's folder, that is a
link or a device, or that makes the archive grow far beyond its packed size is refused by name.
"""

import contextlib
import gzip
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from symm_jax.errors import InputError

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
# Photographs hardly shrink: an archive that grows more than this was made to fill a disk.
MAX_GROWTH, GROWTH_ALLOWED = 4, 2**28
MAX_MEMBERS = 1_000_000
MAX_READ = 2**28  # bytes of one member, or of what a header makes the reader fetch


class Member(NamedTuple):
    """The name as the archive has it, the size in bytes and, in a tar, where the first one is once unpacked."""

    name: str
    size: int
    offset: int = 0


def is_archive(name: str) -> bool:
    """Whether a file name ends like an archive's."""
    return name.lower().endswith(SUFFIXES)


def members(path: Path) -> dict[str, Member]:
    """The regular files in an archive by path, in the order in which they are stored.

    Raises:
      InputError: the archive is damaged, cut short or hostile; the message names it and the member.
    """
    limit = MAX_GROWTH * path.stat().st_size + GROWTH_ALLOWED
    with _naming(path):
        found: dict[str, Member] = {}
        total = 0
        for count, (member, is_folder) in enumerate(_list(path, limit), 1):
            total += member.size
            if total > limit:
                raise InputError(
                    f"{path}: refused, for with member {member.name!r} it grows to more than {limit / 1e6:,.0f} MB"
                )
            if count > MAX_MEMBERS:
                raise InputError(f"{path}: refused, it has more than {MAX_MEMBERS:,} members")
            place = _safe(path, member.name, is_folder)
            if not is_folder:
                found[place] = member
        return found


@contextlib.contextmanager
def reader(path: Path) -> Iterator[Callable[[Member], bytes]]:
    """Yields a function from a member to its bytes. A .tgz is read fast in the order of `members`, and no other.

    The function raises InputError when the member is damaged.
    """
    with contextlib.ExitStack() as stack:
        with _naming(path):
            archive = stack.enter_context(zipfile.ZipFile(path) if _is_zip(path) else _stream(path))

        def read(member: Member) -> bytes:
            if member.size > MAX_READ:
                raise InputError(f"{path}: refused, member {member.name!r} has {member.size / 1e6:,.0f} MB")
            with _naming(path):
                content = _read_zip(archive, member) if _is_zip(path) else _read_tar(archive, member)
            if len(content) != member.size:
                raise InputError(f"{path}: member {member.name!r} is not as long as the archive says; get it anew")
            return content

        yield read


def _list(path: Path, limit: int) -> Iterator[tuple[Member, bool]]:
    """Every member, and whether it is a folder."""
    return _list_zip(path) if _is_zip(path) else _list_tar(path, limit)


def _list_tar(path: Path, limit: int) -> Iterator[tuple[Member, bool]]:
    with _stream(path) as stream, tarfile.open(fileobj=_Bounded(path, stream, limit), mode="r:") as archive:
        for info in archive:
            if not (info.isdir() or (info.isreg() and not info.issparse())):
                raise InputError(f"{path}: refused, member {info.name!r} is a link, a device or sparse")
            yield Member(info.name, 0 if info.isdir() else info.size, info.offset_data), info.isdir()
        # tarfile takes a damaged header, and the end of a file that was cut, for the end of the archive.
        stream.seek(archive.offset)
        ended = stream.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
        while stream.tell() <= limit and stream.read(2**20):
            pass  # gzip's check sum comes last
        if not ended:
            raise InputError(f"{path} is damaged or was cut short; get it anew")


def _list_zip(path: Path) -> Iterator[tuple[Member, bool]]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise InputError(f"{path}: refused, member {info.filename!r} is a link or a device")
            if info.flag_bits & 1:
                raise InputError(f"{path}: member {info.filename!r} is encrypted; unpack it yourself")
            yield Member(info.filename, info.file_size), info.is_dir()


def _safe(path: Path, name: str, is_folder: bool) -> str:
    parts = PurePosixPath(name).parts
    if not (parts or is_folder) or name.startswith("/") or ".." in parts or "\\" in name or not name.isprintable():
        raise InputError(f"{path}: refused, member {name!r} would lie outside the archive's folder")
    return "/".join(parts)


def _read_zip(archive: zipfile.ZipFile, member: Member) -> bytes:
    with archive.open(member.name) as file:
        return file.read(member.size + 1)  # one more, so that the check sum at the end is looked at


def _read_tar(stream: Any, member: Member) -> bytes:
    stream.seek(member.offset)
    return stream.read(member.size)


def _is_zip(path: Path) -> bool:
    return path.name.lower().endswith(".zip")


def _stream(path: Path) -> Any:
    return open(path, "rb") if path.name.lower().endswith(".tar") else gzip.open(path, "rb")


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Everything that tarfile, zipfile, gzip and zlib raise for bad input, as one error that names the archive."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path} is no whole archive of its kind ({error}); get it anew") from error


class _Bounded:
    """A stream for tarfile that goes no further than `limit` and never fetches a lot at once for a header."""

    def __init__(self, path: Path, stream: Any, limit: int):
        self._path, self._stream, self._limit = path, stream, limit

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_READ:
            raise InputError(f"{self._path}: refused, a header of it asks for {size:,} bytes")
        return self._stream.read(size)

    def seek(self, place: int) -> int:
        if place > self._limit:
            raise InputError(f"{self._path}: refused, it grows to more than {self._limit / 1e6:,.0f} MB")
        return self._stream.seek(place)

    def tell(self) -> int:
        return self._stream.tell()
