"""Decodes every image of a split once, into a memory-mapped uint8 array that later runs reuse."""

import functools
import hashlib
import os
import pickle
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import cv2
import joblib
import numpy as np
import tqdm

from symm_jax import files
from symm_jax.data import decode
from symm_jax.errors import InputError

_VERSION = 3  # version of the stored arrays; increase it when decoding changes
_CHUNK = 64  # largest number of images that a worker gets at a time
_MAX_LISTED = 10  # damaged images that a message lists
_MIN_FOR_WORKERS = 300  # fewer images are decoded in this process, because workers take a second to start


class Arrays(NamedTuple):
    """One split, decoded.

    images: (n, side, side, 3) uint8 RGB, read-only memory map. Each image is resized to a square by area.
    labels: (n,) int32.
    short_side_ratio: (n, 2) float32, the shorter side divided by the height and by the width, before the resize.
    query: (n,) bool, whether an image is a query. If False, it is in the gallery. None where every image is both.
    digests: (n,) uint64, a part of the SHA-256 of each encoded image; None for images that were never encoded.
    """

    images: np.ndarray
    labels: np.ndarray
    short_side_ratio: np.ndarray
    query: np.ndarray | None = None
    digests: np.ndarray | None = None


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


def load(source: Examples, directory: Path, split: str, options: Options) -> Arrays:
    """Opens the arrays of `split` below `directory`. If there are none, decodes `source` first.

    Args:
      source: the examples.
      directory: a folder for this data set with this content, and for nothing else.
      split: name of the split.
      options: how to decode.

    Raises:
      InputError: an image cannot be decoded or does not overlap its box, the disk is too small, or the arrays are
        damaged.
    """
    side = options.side
    path = directory / f"{split}-{side}px{'-box' if options.crop else ''}-v{_VERSION}"
    with files.lock(directory / ".lock"):
        if not path.exists():
            files.require_space(directory, len(source) * side * side * 3, "decoded images", argument="cache_dir")
            with files.new_directory(path) as temporary:
                _decode_all(source, temporary, split, options)
    again = f"To decode the images again, delete {path} and run again."
    try:
        images = np.load(path / "images.npy", mmap_mode="r", allow_pickle=False)
        labels, short_side_ratio, digests = (
            np.load(path / f"{name}.npy", allow_pickle=False) for name in ("labels", "shorter", "digests")
        )
        query = np.load(path / "query.npy", allow_pickle=False) if (path / "query.npy").exists() else None
    except (OSError, ValueError) as error:
        raise InputError(f"the decoded images in {path} are damaged ({error}). {again}") from error
    if images.shape != (len(source), side, side, 3) or not len(images) == len(labels) == len(digests):
        raise InputError(f"the arrays in {path} do not have {len(source)} images. {again}")
    return Arrays(images, labels, short_side_ratio, query, digests)


def _decode_all(source: Examples, folder: Path, split: str, options: Options) -> None:
    n, side = len(source), options.side
    path = folder / "images.npy"
    offset = np.lib.format.open_memmap(path, "w+", np.uint8, (n, side, side, 3)).offset
    with open(path, "r+b") as file:
        # Without this a full disk ends in SIGBUS when the file is read. With it, the error is an OSError.
        if hasattr(os, "posix_fallocate"):  # not on macOS and Windows
            os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
    # Processes, because Pillow holds Python's lock during part of its work.
    workers = 1 if n < _MIN_FOR_WORKERS else os.cpu_count() or 1
    pool = joblib.Parallel(
        workers,
        return_as="generator_unordered",
        pre_dispatch="3 * n_jobs",
        batch_size=cast(Any, 1),  # joblib's annotation has only "auto"
        initializer=_exit_with_parent,
        initargs=(os.getpid(),),
    )
    size = max(1, min(_CHUNK, n // (8 * workers)))  # small enough that all workers end at about the same time
    one = joblib.delayed(functools.partial(_decode_range, path, offset, pickle.dumps(source), options))
    labels, short_side_ratio, query = np.empty(n, np.int32), np.empty((n, 2), np.float32), np.zeros(n, bool)
    digests, faults = np.empty(n, np.uint64), []
    results = cast(Iterable, pool(one(range(start, min(start + size, n))) for start in range(0, n, size)))
    with tqdm.tqdm(total=n, desc=f"decode {split}", unit="image", leave=False, dynamic_ncols=True) as bar:
        for done, found, *columns in results:
            labels[done], short_side_ratio[done], query[done], digests[done] = columns
            faults += found
            bar.update(len(labels[done]))
    if faults:
        more = [f"and {len(faults) - _MAX_LISTED:,} more"] if len(faults) > _MAX_LISTED else []
        raise InputError("\n  ".join(sorted(faults)[:_MAX_LISTED] + more))
    np.save(folder / "labels.npy", labels)
    np.save(folder / "shorter.npy", short_side_ratio)
    np.save(folder / "digests.npy", digests)
    if query.any():
        np.save(folder / "query.npy", query)


def _decode_range(
    path: Path, offset: int, pickled: bytes, options: Options, rows: range
) -> tuple[slice, list[str], list[int], np.ndarray, list[int], list[int]]:
    """Writes the images of `rows` to the file whose first image begins at byte `offset`.

    Each process reads its own records: sending them to a process would cost more than reading them.

    Returns:
      The rows, the faults of their images, and for each row Arrays.labels, short_side_ratio, query and digests.
    """
    cv2.setNumThreads(1)  # there is one worker per core already
    source, side = _unpickled(pickled), options.side
    faults, labels, short_side_ratio, query, digests = [], [], np.ones((len(rows), 2), np.float32), [], []
    with open(path, "r+b") as file:  # not a memory map, where each new page costs more than decoding it
        file.seek(offset + rows.start * side * side * 3)
        for ratios, row in zip(short_side_ratio, rows, strict=True):
            example = source[row]
            name = _to_str(example["filename"])
            labels.append(example["label"])
            query.append(example.get("query", False))
            digests.append(int.from_bytes(hashlib.sha256(example["image"]).digest()[:8]))
            try:
                image = decode.decode(example["image"], name, orient=options.orient)
                image = decode.crop(image, example["box"], name) if options.crop else image
            except InputError as error:
                faults.append(str(error))
                continue
            file.write(decode.resize_to_square(image, side).data)
            height, width = image.shape[:2]
            ratios[:] = min(height, width) / height, min(height, width) / width
    return slice(rows.start, rows.stop), faults, labels, short_side_ratio, query, digests


@functools.lru_cache(maxsize=1)
def _unpickled(source: bytes) -> Examples:
    """The source. Each process opens its files once."""
    return pickle.loads(source)


def _exit_with_parent(parent: int) -> None:
    """Ends this worker soon after the process `parent` was killed. Without this, loky leaves it waiting for work."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _to_str(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
