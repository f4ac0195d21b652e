"""Pictures of a folder: which files count, their state on disk, and decoding in processes ahead of the device."""

import collections
import concurrent.futures.process
import functools
import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

import cv2
import joblib
import numpy as np
from joblib.externals import loky

from symm_jax import errors
from symm_jax.data import archives, arrays, decode
from symm_jax.data.folder import SUFFIXES
from symm_jax.data.tree import Tree, as_text
from symm_jax.errors import InputError

T = TypeVar("T")

_CHUNK = 16  # images that a worker gets at a time
_MIN_FOR_WORKERS = 300  # fewer images are decoded in this process, because workers take a second to start
_HALVES = ("train", "test")


class Picture(NamedTuple):
    """A picture as it is listed. Its file has not been read.

    path: below the folder; a picture in an archive has the path that it would have when unpacked there.
    size: bytes.
    modified: time of the last change in nanoseconds; of the archive for a picture in one.
    label: the folder of its class; "" for a picture that is not in the folder of a class.
    """

    path: str
    size: int
    modified: int
    label: str


class Listing(NamedTuple):
    """The pictures of a folder in the order in which they are read fastest.

    faults: a message for each picture whose file cannot be found.
    """

    tree: Tree
    pictures: list[Picture]
    faults: list[str]


class Source(NamedTuple):
    """A picture to decode.

    name: for messages.
    content: the encoded image, its file, or the error that reading it raised.
    known: SHA-256 of a content that need not be decoded, or "".
    """

    name: str
    content: bytes | Path | InputError
    known: str = ""


class Decoded(NamedTuple):
    """A square of uint8 RGB, (side, side, 3). None for a picture of the known content, and for one with a fault."""

    sha256: str
    pixels: np.ndarray | None
    fault: str = ""


def list_pictures(root: Path, *, skip: Path | None = None) -> Listing:
    """Lists the pictures of a folder as the data set "folder" does: subfolders and archives, without leftovers.

    Args:
      root: the folder, or a single picture or archive.
      skip: a folder that is left out.

    Raises:
      InputError: there are no pictures, or a folder or an archive that may hold some cannot be read.
    """
    tree = Tree(root, skip=skip)
    names = [name for name in tree.entries if name.lower().endswith(SUFFIXES)]
    all_plain = bool(names) and all(tree.entries[name].member is None for name in names)
    missing = []
    for path, fault in tree.faults.items():
        if path.is_symlink() and path.name.lower().endswith(SUFFIXES):
            missing.append(fault.fact)
        elif all_plain and archives.is_archive(path.name):  # it is taken for the one that they were unpacked from
            errors.warn(f"{fault.fact} It is left out, and nothing is known to be missing")
        else:
            raise InputError(f"{fault.fact} Or move it out of the folder of pictures.", argument="images")
    if not names:
        state = "holds no pictures" if root.exists() else "does not exist"
        raise InputError(
            f"{root} {state}. Pass a folder with pictures, whose names end in {', '.join(SUFFIXES)}.", argument="images"
        )
    if others := sorted(tree.entries.keys() - set(names)):
        errors.warn(f"{root}: {len(others):,} files are not pictures, such as {as_text(others[0])}. They are ignored")
    status = functools.cache(os.stat)  # an archive has many pictures
    labels, pictures = class_folders(names), []
    for name in names:
        file, member = tree.entries[name]
        try:
            size, modified = status(file).st_size, status(file).st_mtime_ns
        except OSError as error:
            missing.append(_unreadable(file, error))
            continue
        pictures.append(Picture(name, member.size if member else size, modified, labels[name]))
    return Listing(tree, pictures, missing)


def class_folders(paths: Sequence[str]) -> dict[str, str]:
    """The folder of each picture's class: the first one below the folder that all have in common, or below train, test.

    A picture that is in no such folder has the class "".

    Example:
      >>> class_folders(["cars/train/a/1.jpg", "cars/test/b/2.jpg", "cars/test/b/front/3.jpg"]).values()
      dict_values(['a', 'b', 'b'])
    """
    parents = {path: PurePosixPath(path).parent for path in paths}
    base = PurePosixPath(os.path.commonpath(parents.values()))
    if all(parent == base for parent in parents.values()):  # there is only one class
        base = base.parent
    inside = {path: parent.relative_to(base).parts for path, parent in parents.items()}
    if {parts[0].lower() for parts in inside.values() if parts} == {*_HALVES}:
        inside = {path: parts[1:] for path, parts in inside.items()}
    return {path: parts[0] if parts else "" for path, parts in inside.items()}


def source(listing: Listing, path: str, read: Callable[[str], bytes], known: str = "") -> Source:
    """The picture at `path`. A plain file is read where it is decoded; a member of an archive is read by `read`."""
    file, member = listing.tree.entries[path]
    try:
        return Source(f"{file}: {as_text(path)}" if member else str(file), read(path) if member else file, known)
    except InputError as error:
        return Source(as_text(path), error, known)


def decode_ahead(sources: Iterable[Source], count: int, options: arrays.Options, ahead: int) -> Iterator[Decoded]:
    """Decodes pictures in their order. Many are decoded by one process per core, while the caller works.

    Args:
      sources: the pictures. They are taken as they are needed.
      count: their number.
      options: how images are decoded.
      ahead: the number of images that are decoded before they are asked for.

    Raises:
      InputError: a process was killed.
    """
    if count < _MIN_FOR_WORKERS:
        yield from (_decode(options, source) for source in sources)
        return
    workers = joblib.cpu_count()  # the number respects the limits of this process
    pool = loky.get_reusable_executor(workers, initializer=arrays.exit_with_parent, initargs=(os.getpid(),))
    pending: collections.deque = collections.deque()
    try:
        for chunk in batched(sources, _CHUNK):
            pending.append(pool.submit(_decode_chunk, options, chunk))
            if len(pending) * _CHUNK > max(ahead, 3 * workers * _CHUNK):
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    except concurrent.futures.process.BrokenProcessPool as error:
        raise InputError(
            "a process that decodes images was killed, probably because the memory was full. Free memory and run again."
        ) from error
    finally:
        for future in pending:
            future.cancel()


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items; the last one may have fewer."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _decode_chunk(options: arrays.Options, sources: list[Source]) -> list[Decoded]:
    cv2.setNumThreads(1)  # there is one worker per core already
    return [_decode(options, source) for source in sources]


def _decode(options: arrays.Options, source: Source) -> Decoded:
    content = source.content
    if isinstance(content, Path):
        try:
            content = content.read_bytes()
        except OSError as error:
            content = InputError(_unreadable(content, error))
    if isinstance(content, InputError):
        return Decoded("", None, content.fact)
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 == source.known:
        return Decoded(sha256, None)
    try:
        image = decode.decode(content, source.name, orient=options.orient)
    except InputError as error:
        return Decoded(sha256, None, error.fact)
    return Decoded(sha256, decode.resize_to_square(image, options.side))


def _unreadable(path: Path, error: OSError) -> str:
    return f"{path} cannot be read ({error.strerror}). Make it readable, or restore it."
