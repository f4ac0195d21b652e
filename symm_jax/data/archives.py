"""Reads members of .tar, .tgz and .zip archives in place. Nothing is unpacked to disk.

An archive may be damaged or malicious, so the list of its members is checked before any member is used. An archive is
rejected when a member would be stored outside the archive's folder, when a member is a link or a device, or when the
archive expands far beyond its packed size. Only the place where a member would be stored counts, and not the characters
of its name. The error names the archive and the member.
"""

import contextlib
import gzip
import posixpath
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PureWindowsPath
from typing import IO, Any, NamedTuple, cast

from symm_jax.errors import InputError

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
# Photographs hardly compress. An archive that expands more than this was made to fill a disk.
MAX_EXPANSION, EXPANSION_ALLOWED = 4, 2**28
MAX_MEMBERS = 1_000_000
MAX_READ = 2**28  # bytes of one member, and bytes that one header can make the reader fetch
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_DEFLATE64 = 9  # Windows uses it for zips of more than 2 GB
_UNPACK = "Download it again. If you trust it, unpack it yourself and move it out of the data folder."


class Member(NamedTuple):
    """A file in an archive.

    name: the name that the archive gives.
    size: bytes.
    offset: in a tar, the position of the first byte in the uncompressed archive.
    """

    name: str
    size: int
    offset: int = 0


def is_archive(name: str) -> bool:
    """Whether a file name ends like an archive's."""
    return name.lower().endswith(SUFFIXES)


def stem(name: str) -> str:
    """The name of an archive without its ending."""
    return name[: -max(len(suffix) for suffix in SUFFIXES if name.lower().endswith(suffix))]


def members(path: Path) -> dict[str, Member]:
    """The regular files in an archive by path, in the order in which they are stored.

    Raises:
      InputError: the archive is damaged, truncated or malicious. The message names it and the member.
    """
    with _archive_errors(path):
        limit = MAX_EXPANSION * path.stat().st_size + EXPANSION_ALLOWED
        found: dict[str, Member] = {}
        total = 0
        for count, (member, is_folder) in enumerate(_list(path, limit), 1):
            total += member.size
            if total > limit:
                raise InputError(
                    f"{path} is rejected: with member {member.name!r} it expands to more than {limit / 1e6:,.0f} MB. "
                    f"{_UNPACK}"
                )
            if count > MAX_MEMBERS:
                raise InputError(f"{path} is rejected: it has more than {MAX_MEMBERS:,} members. {_UNPACK}")
            inside = _relative_path(path, member.name, is_folder)
            if not is_folder:
                found[inside] = member
        return found


@contextlib.contextmanager
def reader(path: Path) -> Iterator[Callable[[Member], bytes]]:
    """Yields a function from a member to its bytes. A .tgz is read fast only in the order of `members`.

    The function raises InputError when the member is damaged.
    """
    with contextlib.ExitStack() as stack:
        with _archive_errors(path):
            archive = stack.enter_context(zipfile.ZipFile(path) if _is_zip(path) else _stream(path))

        def read(member: Member) -> bytes:
            if member.size > MAX_READ:
                raise InputError(
                    f"{path} is rejected: member {member.name!r} has {member.size / 1e6:,.0f} MB. {_UNPACK}"
                )
            with _archive_errors(path):
                content = _read_zip(archive, member) if _is_zip(path) else _read_tar(archive, member)
            if len(content) != member.size:
                raise InputError(
                    f"{path}: member {member.name!r} has {len(content)} bytes instead of {member.size}. "
                    "Download the archive again."
                )
            return content

        yield read


def _list(path: Path, limit: int) -> Iterator[tuple[Member, bool]]:
    """Every member, and whether it is a folder."""
    return _list_zip(path) if _is_zip(path) else _list_tar(path, limit)


def _list_tar(path: Path, limit: int) -> Iterator[tuple[Member, bool]]:
    with _stream(path) as stream:
        bounded = cast(IO[bytes], _Bounded(path, stream, limit))  # tarfile calls only these methods
        with tarfile.open(fileobj=bounded, mode="r:") as archive:
            for info in archive:
                if not (info.isdir() or (info.isreg() and not info.issparse())):
                    raise InputError(
                        f"{path} is rejected: member {info.name!r} is a link, a device or a sparse file. {_UNPACK}"
                    )
                yield Member(info.name, 0 if info.isdir() else info.size, info.offset_data), info.isdir()
            # tarfile takes a damaged header, and the end of a truncated file, for the end of the archive.
            stream.seek(archive.offset)
        ended = stream.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
        while stream.tell() <= limit and stream.read(2**20):
            pass  # gzip's checksum comes last
        if not ended:
            raise InputError(f"{path} is damaged or truncated. Download it again.")


def _list_zip(path: Path) -> Iterator[tuple[Member, bool]]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise InputError(f"{path} is rejected: member {info.filename!r} is a link or a device. {_UNPACK}")
            if info.flag_bits & 1:
                raise InputError(
                    f"{path}: member {info.filename!r} is encrypted. Unpack the archive with its password into the "
                    "data folder."
                )
            if info.compress_type not in _ZIP_METHODS and not info.is_dir():
                method = "Deflate64" if info.compress_type == _DEFLATE64 else f"method {info.compress_type}"
                raise InputError(
                    f"{path}: member {info.filename!r} is compressed by {method}, which Python does not read. Unpack "
                    "the archive with 7z or unzip into the data folder."
                )
            yield Member(info.filename, info.file_size), info.is_dir()


def _relative_path(path: Path, name: str, is_folder: bool) -> str:
    """The place of a member below the archive's folder. Backslashes are separators, as for unzip."""
    inside = posixpath.normpath(name.replace("\\", "/"))
    absolute = inside.startswith("/") or PureWindowsPath(name).is_absolute()
    if absolute or inside.split("/")[0] == ".." or "\0" in name or (inside == "." and not is_folder):
        raise InputError(f"{path} is rejected: member {name!r} is outside the archive's folder. {_UNPACK}")
    return inside


def _read_zip(archive: zipfile.ZipFile, member: Member) -> bytes:
    with archive.open(member.name) as file:
        return file.read(member.size + 1)  # zipfile verifies the checksum when the end is reached


def _read_tar(stream: Any, member: Member) -> bytes:
    stream.seek(member.offset)
    return stream.read(member.size)


def _is_zip(path: Path) -> bool:
    return path.name.lower().endswith(".zip")


def _stream(path: Path) -> Any:
    return open(path, "rb") if path.name.lower().endswith(".tar") else gzip.open(path, "rb")


@contextlib.contextmanager
def _archive_errors(path: Path) -> Iterator[None]:
    """Turns every error of tarfile, zipfile, gzip and zlib into an InputError that names the archive and the remedy."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # the file system's, not the archive's
            raise InputError(f"{path} cannot be read ({error.strerror}). Make it readable, or restore it.") from error
        if "multiple disks" in str(error):
            raise InputError(f"{path} is one part of several. Unpack them together, for example with 7z.") from error
        raise InputError(f"{path} cannot be read as an archive ({error}). Download it again.") from error


class _Bounded:
    """A stream for tarfile that stays below `limit` and never fetches a large block for a header."""

    def __init__(self, path: Path, stream: Any, limit: int):
        self._path, self._stream, self._limit = path, stream, limit

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_READ:
            raise InputError(f"{self._path} is rejected: one of its headers asks for {size:,} bytes. {_UNPACK}")
        return self._stream.read(size)

    def seek(self, position: int) -> int:
        if position > self._limit:
            raise InputError(
                f"{self._path} is rejected: it expands to more than {self._limit / 1e6:,.0f} MB. {_UNPACK}"
            )
        return self._stream.seek(position)

    def tell(self) -> int:
        return self._stream.tell()
