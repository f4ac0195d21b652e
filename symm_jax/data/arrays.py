"""Decodes every image of a split once, into a memory-mapped uint8 array that later runs reuse."""

import functools
import hashlib
import os
import pickle
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import joblib
import numpy as np
import tqdm

from symm_jax import files
from symm_jax.data import decode
from symm_jax.errors import InputError

_VERSION = 3  # of what is stored; a change of the decoding asks for a new one
_CHUNK = 64  # images given to a worker at a time, at most
_NAMED = 10  # damaged images that a message names
_ALONE = 300  # so many images are decoded in this process: workers take a second to start


class Arrays(NamedTuple):
    """One split, decoded.

    images: (n, side, side, 3) uint8 RGB, read-only memory map, each image squashed to a square by area.
    labels: (n,) int32.
    short_side_ratio: (n, 2) float32, the shorter side over the height and over the width, before the resize.
    query: (n,) bool, whether an image is a query, else it is in the gallery; None where every image is both.
    digests: (n,) uint64, a part of the SHA-256 of each encoded image; None of images that were never encoded.
    """

    images: np.ndarray
    labels: np.ndarray
    short_side_ratio: np.ndarray
    query: np.ndarray | None = None
    digests: np.ndarray | None = None


class Options(NamedTuple):
    """How images are decoded: side in pixels; cropped to their boxes or whole; turned as EXIF says or not."""

    side: int
    crop: bool = False
    orient: bool = False


def load(source: Sequence[dict], directory: Path, split: str, options: Options) -> Arrays:
    """Opens the arrays of `split` below `directory`, decoding `source` first if they are not there.

    Args:
      source: random-access examples, picklable, with encoded "image", "label", "filename" and optionally "box" (x1, y1,
        x2, y2) and "query".
      directory: a folder that belongs to this data set and its content alone.
      split: name of the split.
      options: how to decode.

    Raises:
      InputError: an image that cannot be decoded, or lies outside its box; too little disk; damaged arrays.
    """
    side = options.side
    path = directory / f"{split}-{side}px{'-box' if options.crop else ''}-v{_VERSION}"
    with files.lock(directory / ".lock"):
        if not path.exists():
            files.require_space(directory, len(source) * side * side * 3, "decoded images", argument="cache_dir")
            with files.new_directory(path) as aside:
                _decode_all(source, aside, split, options)
    try:
        images = np.load(path / "images.npy", mmap_mode="r", allow_pickle=False)
        labels, short_side_ratio, digests = (
            np.load(path / f"{name}.npy", allow_pickle=False) for name in ("labels", "shorter", "digests")
        )
        query = np.load(path / "query.npy", allow_pickle=False) if (path / "query.npy").exists() else None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}); delete it and run again") from error
    if images.shape != (len(source), side, side, 3) or not len(images) == len(labels) == len(digests):
        raise InputError(f"{path} does not hold the {len(source)} images it was made for; delete it and run again")
    return Arrays(images, labels, short_side_ratio, query, digests)


def _decode_all(source: Sequence[dict], folder: Path, split: str, options: Options) -> None:
    n, side = len(source), options.side
    path = folder / "images.npy"
    place = np.lib.format.open_memmap(path, "w+", np.uint8, (n, side, side, 3)).offset
    with open(path, "r+b") as file:
        # Without this a full disk ends in SIGBUS when the file is read. With it, the error is an OSError.
        if hasattr(os, "posix_fallocate"):  # not on macOS
            os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
    # Processes, for Pillow holds Python's lock during part of its work.
    workers = 1 if n < _ALONE else os.cpu_count()
    pool = joblib.Parallel(
        workers,
        return_as="generator_unordered",
        pre_dispatch="3 * n_jobs",
        batch_size=1,
        initializer=_end_with,
        initargs=(os.getpid(),),
    )
    size = max(1, min(_CHUNK, n // (8 * workers)))  # small enough that all workers end at about the same time
    one = joblib.delayed(functools.partial(_decode_range, path, place, pickle.dumps(source), options))
    labels, short_side_ratio, query = np.empty(n, np.int32), np.empty((n, 2), np.float32), np.zeros(n, bool)
    digests, faults = np.empty(n, np.uint64), []
    with tqdm.tqdm(total=n, desc=f"decode {split}", unit="image", leave=False, dynamic_ncols=True) as bar:
        for done, found, *columns in pool(one(range(start, min(start + size, n))) for start in range(0, n, size)):
            labels[done], short_side_ratio[done], query[done], digests[done] = columns
            faults += found
            bar.update(len(labels[done]))
    if faults:
        more = [f"and {len(faults) - _NAMED:,} more"] if len(faults) > _NAMED else []
        raise InputError("\n  ".join(sorted(faults)[:_NAMED] + more))
    np.save(folder / "labels.npy", labels)
    np.save(folder / "shorter.npy", short_side_ratio)
    np.save(folder / "digests.npy", digests)
    if query.any():
        np.save(folder / "query.npy", query)


def _decode_range(
    path: Path, place: int, pickled: bytes, options: Options, rows: range
) -> tuple[slice, list[str], list[int], np.ndarray, list[bool], list[int]]:
    """Writes the images of `rows` of a source to the file whose first image is at `place`.

    Each process reads its own records: handing them over would cost more than reading them.

    Returns:
      The rows, what is wrong with their images, and for them Arrays.labels, short_side_ratio, query and digests.
    """
    cv2.setNumThreads(1)  # there is a worker for every core already
    source, side = _unpickled(pickled), options.side
    faults, labels, short_side_ratio, query, digests = [], [], np.ones((len(rows), 2), np.float32), [], []
    with open(path, "r+b") as file:  # not through a map, where each new page costs more than decoding it
        file.seek(place + rows.start * side * side * 3)
        for ratios, row in zip(short_side_ratio, rows, strict=True):
            example = source[row]
            name = _text(example["filename"])
            labels.append(example["label"])
            query.append(example.get("query", False))
            digests.append(int.from_bytes(hashlib.sha256(example["image"]).digest()[:8]))
            try:
                image = decode.decode(example["image"], name, orient=options.orient)
                image = decode.crop(image, example["box"], name) if options.crop else image
            except InputError as error:
                faults.append(str(error))
                continue
            file.write(decode.squash(image, side))
            height, width = image.shape[:2]
            ratios[:] = min(height, width) / height, min(height, width) / width
    return slice(rows.start, rows.stop), faults, labels, short_side_ratio, query, digests


@functools.lru_cache(maxsize=1)
def _unpickled(source: bytes) -> Sequence[dict]:
    """The source, whose files each process opens once."""
    return pickle.loads(source)


def _end_with(parent: int) -> None:
    """Ends this worker soon after the process `parent` has been killed; loky leaves it waiting for work."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
