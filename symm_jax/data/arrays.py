"""Decodes every image of a split once, into a memory-mapped uint8 array that later runs reuse."""

import concurrent.futures.process
import contextlib
import errno
import functools
import gc
import hashlib
import operator
import os
import pickle
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import cv2
import joblib
import numpy as np
import tqdm

from symm_jax import errors, files
from symm_jax.data import decode, manifest, names, workers
from symm_jax.data.checksums import crc32
from symm_jax.data.names import NUMBERS, Names
from symm_jax.errors import InputError

_VERSION = 3  # version of the stored arrays; increase it when decoding changes
_CHUNK = 64  # largest number of images that a worker gets at a time
_LAST_CHUNK = 4  # smallest number, of the last ones, so that all workers end at about the same time
_WRITTEN_AT_ONCE = 4  # images; more would not fit the caches of a core
_MEMORY = 2**26  # bytes in which a worker decodes one image after the other; larger images get memory of their own
_MIN_FOR_WORKERS = 300  # fewer images are decoded in this process, because workers take a second to start


class Arrays(NamedTuple):
    """One split, decoded.

    images: (n, side, side, 3) uint8 RGB, read-only memory map. Each image is resized to a square by area.
    labels: (n,) int32.
    short_side_ratio: (n, 2) float32, the shorter side divided by the height and by the width, before the resize.
    query: (n,) bool, whether an image is a query. If False, it is in the gallery. None where every image is both.
    digests: (n,) uint64, a part of the SHA-256 of each encoded image; None for images that were never encoded.
    names: the names of classes and images, for people.
    """

    images: np.ndarray
    labels: np.ndarray
    short_side_ratio: np.ndarray
    query: np.ndarray | None = None
    digests: np.ndarray | None = None
    names: Names = NUMBERS


class Options(NamedTuple):
    """How images are decoded.

    side: side in pixels of the stored square.
    crop: whether images are cropped to their boxes.
    orient: whether images are rotated by their EXIF orientation.
    """

    side: int
    crop: bool = False
    orient: bool = False


@runtime_checkable
class Examples(Protocol):
    """Random-access, picklable examples.

    Each has encoded "image", "label", "filename", and optionally "box" (x1, y1, x2, y2) and "query".
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict[str, Any]: ...


class DamagedImages(InputError):
    """Images that cannot be decoded. `faults` has a message for each."""

    def __init__(self, faults: list[str]):
        super().__init__("\n  ".join(faults))
        self.faults = faults


def load(
    source: Examples,
    directory: Path,
    split: str,
    options: Options,
    name: Callable[[Iterable[dict[str, Any]]], Names] | None = None,
) -> Arrays:
    """Opens the arrays of `split` below `directory`. If they are missing or damaged, decodes `source` first.

    Arrays that are complete are opened without a lock and without writing, so that their folder may be read-only.

    Args:
      source: the examples.
      directory: a folder for this data set with this content, and for nothing else.
      split: name of the split.
      options: how to decode.
      name: makes the names that are stored beside arrays that are decoded, of examples with "label" and "filename".

    Raises:
      DamagedImages: images cannot be decoded or do not overlap their boxes, or have impossible labels.
      InputError: the disk is too small or cannot be written.
    """
    n, side = len(source), options.side
    path = folder(directory, split, options)
    try:
        return _checked(manifest.read(path), path, n, side)
    except manifest.Damaged as error:
        damage = str(error) if path.exists() else ""
    needed = n * side * side * 3
    try:
        with files.lock(directory / ".lock"):
            try:
                return _checked(manifest.read(path), path, n, side)  # another process may have written them
            except manifest.Damaged as error:
                if path.exists():
                    errors.warn(f"{error}. The images are decoded again")
                    shutil.rmtree(path)
            files.require_space(directory, needed, "decoded images", argument="cache_dir")
            with files.new_directory(path) as temporary:
                examples = _decode_all(source, temporary, split, options)
                if name is not None:
                    names.store(temporary, name(examples))
        return _checked(manifest.read(path), path, n, side)
    except OSError as error:
        if path.exists() and not (path / manifest.NAME).exists():
            with contextlib.suppress(manifest.Damaged):
                arrays = _checked(manifest.read_unverified(path), path, n, side)
                errors.warn(f"the decoded images in {path} have no digests and are not verified")
                return arrays
        raise _not_written(directory, needed, error, damage) from error
    except manifest.Damaged as error:
        raise InputError(f"{error}, although it was just written. Check the disk.", argument="cache_dir") from error


def folder(directory: Path, split: str, options: Options) -> Path:
    """The folder below `directory` in which `load` stores the arrays of a split."""
    return directory / f"{split}-{options.side}px{'-box' if options.crop else ''}-v{_VERSION}"


def find_faults(source: Examples, options: Options, split: str) -> list[str]:
    """Decodes all images and stores nothing. Returns a message for each one that `load` would reject."""
    return [fault for _, found, *_ in _decoded(source, None, 0, options, f"check {split}") for fault in found]


def _checked(found: dict[str, np.ndarray], path: Path, n: int, side: int) -> Arrays:
    """Arrays of files. Raises manifest.Damaged when one is missing or has another dtype or shape."""
    expected = {
        "images": ("uint8", (n, side, side, 3)),
        "labels": ("int32", (n,)),
        "shorter": ("float32", (n, 2)),
        "digests": ("uint64", (n,)),
        "query": ("bool", (n,)),
    }
    for name, (dtype, shape) in expected.items():
        if name not in found and name != "query":
            raise manifest.Damaged(f"{path / name}.npy is missing")
        if name in found and (found[name].dtype != dtype or found[name].shape != shape):
            raise manifest.Damaged(f"{path / name}.npy is not an array of {dtype} {shape}")
    return Arrays(found["images"], found["labels"], found["shorter"], found.get("query"), found["digests"])


def _not_written(directory: Path, needed: int, error: OSError, damage: str) -> InputError:
    """The error for decoded images that cannot be written."""
    fact = f"the decoded images cannot be written to {directory} ({error.strerror or error})"
    fact = f"{damage}, and {fact}" if damage else fact
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(directory).free
            fact += f": they need {needed:,} bytes, and the disk has {free:,} free"
    return InputError(f"{fact}. Make room, make the folder writable, or pass another folder.", argument="cache_dir")


def _decode_all(source: Examples, folder: Path, split: str, options: Options) -> list[dict[str, Any]]:
    """Writes the arrays of a split. Returns the label and the filename of each example."""
    n, side = len(source), options.side
    path = folder / "images.npy"
    offset = _reserve(path, (n, side, side, 3))
    labels, short_side_ratio, query = np.empty(n, np.int32), np.empty((n, 2), np.float32), np.zeros(n, bool)
    digests, checksums, filenames, faults = np.empty(n, np.uint64), np.empty(n, np.uint32), np.empty(n, object), []
    with files.flushing(path):  # the disk works while the processes decode
        for done, found, *columns in _decoded(source, path, offset, options, f"decode {split}"):
            faults += found
            if not faults:
                labels[done], short_side_ratio[done], query[done], digests[done], checksums[done] = columns[:-1]
                filenames[done] = columns[-1]
    if faults:
        raise DamagedImages(sorted(faults))
    np.save(folder / "labels.npy", labels)
    np.save(folder / "shorter.npy", short_side_ratio)
    np.save(folder / "digests.npy", digests)
    if query.any():
        np.save(folder / "query.npy", query)
    manifest.write(folder, {"images": checksums})
    return [{"label": label, "filename": name} for label, name in zip(labels.tolist(), filenames, strict=True)]


def _reserve(path: Path, shape: tuple[int, ...]) -> int:
    """Writes the header of a uint8 array, and reserves the space of its values, so that a full disk is noticed first.

    Returns:
      The position of the first value in the file.
    """
    with open(path, "wb") as file:
        header = {"descr": np.dtype(np.uint8).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        offset = file.tell()
        size = offset + int(np.prod(shape, dtype=np.int64))
        file.truncate(size)
        try:
            if hasattr(os, "posix_fallocate"):  # not on macOS and Windows
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
            errors.warn(f"the file system of {path.parent.parent} cannot reserve space. A full disk is noticed later")
    return offset


def _decoded(source: Examples, path: Path | None, offset: int, options: Options, title: str) -> Iterator[tuple]:
    """The results of `_decode_range` for all images, in any order. Uses one process per core."""
    n = len(source)
    # Processes, because Pillow holds Python's lock during part of its work. Their number respects the limits of this
    # process: its affinity and its control group.
    count = 1 if n < _MIN_FOR_WORKERS else joblib.cpu_count()
    # The token makes workers that are used again open the files again, which may have been replaced.
    opener = functools.partial(_unpickled, pickle.dumps(source), secrets.token_hex(8))
    one = joblib.delayed(functools.partial(_decode_range, path, offset, opener, options))
    results = cast(Iterator, workers.pool(count)(map(one, _chunks(n, count))))
    try:
        with tqdm.tqdm(total=n, desc=title, unit="image", leave=False, dynamic_ncols=True) as bar:
            for result in results:
                yield result
                bar.update(len(result[2]))
    except concurrent.futures.process.BrokenProcessPool as error:
        raise InputError(
            "a process that decodes images was killed, probably because the memory was full. Free memory and run again."
        ) from error


def _chunks(n: int, count: int) -> Iterator[range]:
    """The rows of `n` images in chunks for `count` workers."""
    start = 0
    while start < n:
        size = min(_CHUNK, max(_LAST_CHUNK, (n - start) // (4 * count)))
        yield range(start, min(start + size, n))
        start += size


def _decode_range(
    path: Path | None, offset: int, opener: Callable[[], Examples], options: Options, rows: range
) -> tuple[slice, list[str], list[int], np.ndarray, list[int], list[int], list[int], list[str]]:
    """Writes the images of `rows` to the file whose first image begins at byte `offset`; to none without `path`.

    Each process reads its own records: sending them to a process would cost more than reading them.

    Returns:
      The rows, the faults of their images, and for each row Arrays.labels, short_side_ratio, query and digests, the
      CRC-32 of its pixels, and its filename.
    """
    cv2.setNumThreads(1)  # there is one worker per core already
    source, side = opener(), options.side
    faults, labels, short_side_ratio, query = [], [], np.ones((len(rows), 2), np.float32), []
    digests, checksums, filenames = [], [], []
    memory, block = np.empty(_MEMORY, np.uint8), np.empty((_WRITTEN_AT_ONCE, side, side, 3), np.uint8)
    # Not a memory map, where each new page costs more than decoding it.
    with open(path, "r+b") if path else contextlib.nullcontext() as file:
        if file:
            file.seek(offset + rows.start * side * side * 3)
        for i, (ratios, row) in enumerate(zip(short_side_ratio, rows, strict=True)):
            example = source[row]
            name = _to_str(example["filename"])
            filenames.append(name)
            labels.append(example["label"])
            query.append(example.get("query", False))
            digests.append(int.from_bytes(hashlib.sha256(example["image"]).digest()[:8]))
            try:
                _require_int32(example["label"], name)
                image = decode.decode(example["image"], name, orient=options.orient, memory=memory)
                image = decode.crop(image, example["box"], name) if options.crop else image
            except InputError as error:
                faults.append(str(error))
                continue
            last = i % len(block)
            checksums.append(crc32(decode.resize_to_square(image, side, out=block[last])))
            if file and (last + 1 == len(block) or i + 1 == len(rows)):
                file.write(block[: last + 1].data)
            height, width = image.shape[:2]
            ratios[:] = min(height, width) / height, min(height, width) / width
    return slice(rows.start, rows.stop), faults, labels, short_side_ratio, query, digests, checksums, filenames


def _require_int32(label: Any, name: str) -> None:
    if not 0 <= operator.index(label) < 2**31:
        raise InputError(f"image {name} has label {label}, and labels are 0 to 2,147,483,647. Correct the annotations.")


@functools.lru_cache(maxsize=1)
def _unpickled(source: bytes, token: str) -> Examples:
    """The source. Each process opens its files once for a token."""
    del token
    opened = pickle.loads(source)
    gc.freeze()  # joblib's workers collect garbage every second, and then need not look at what was imported
    return opened


def _to_str(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
