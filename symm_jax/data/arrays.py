"""Decodes every image of a split once, into a memory-mapped uint8 array that later runs reuse."""

import concurrent.futures
import io
import itertools
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import PIL.Image
import tqdm

from symm_jax import files
from symm_jax.errors import InputError

_VERSION = 1  # of what is stored; a change of the decoding below asks for a new one
_CHUNK = 256  # encoded images in memory at a time


class Arrays(NamedTuple):
    """One split, decoded.

    images: (n, side, side, 3) uint8 RGB, read-only memory map, each image squashed to a square by area.
    labels: (n,) int32.
    shorter: (n, 2) float32, the shorter side over height and width, of the box before the squash.
    """

    images: np.ndarray
    labels: np.ndarray
    shorter: np.ndarray


def load(source: Sequence[dict], directory: Path, split: str, side: int) -> Arrays:
    """Opens the arrays of `split` at `side` pixels below `directory`, decoding `source` first if they are not there.

    Args:
      source: random-access examples with encoded "image", "label", "filename" and optionally "box" (x1, y1,
        x2, y2), to which the image is cropped as rows y1:y2, columns x1:x2.
      directory: a folder that belongs to this data set and its content alone.
      split: name of the split.
      side: pixels.

    Raises:
      InputError: an image that cannot be decoded, or lies outside its box; too little disk; damaged arrays.
    """
    path = directory / f"{split}-{side}px-v{_VERSION}"
    with files.lock(directory / ".lock"):
        if not path.exists():
            _require_space(directory, len(source) * side * side * 3)
            with files.new_directory(path) as aside:
                _decode_all(source, aside, split, side)
    try:
        images = np.load(path / "images.npy", mmap_mode="r", allow_pickle=False)
        labels, shorter = (np.load(path / f"{name}.npy", allow_pickle=False) for name in ("labels", "shorter"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}); delete it and run again") from error
    if images.shape != (len(source), side, side, 3) or not len(images) == len(labels) == len(shorter):
        raise InputError(f"{path} does not hold the {len(source)} images it was made for; delete it and run again")
    return Arrays(images, labels, shorter)


def squash(image: np.ndarray, side: int) -> np.ndarray:
    """Resizes (height, width, 3) uint8 to a square, each pixel the mean of the area it covers."""
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)


def decode(example: dict) -> np.ndarray:
    """Decodes an example's image to (height, width, 3) uint8 RGB and crops it to its box, if it has one."""
    name = _text(example["filename"])
    try:
        with PIL.Image.open(io.BytesIO(example["image"])) as encoded:
            image = np.asarray(encoded.convert("RGB"))
    except Exception as error:  # Pillow's plug-ins raise OSError, SyntaxError, ValueError, struct.error, ...
        raise InputError(f"image {name} cannot be decoded ({error}); restore the file and run again") from error
    if "box" in example:
        x1, y1, x2, y2 = example["box"]
        image = image[y1:y2, x1:x2]
        if not image.size:
            raise InputError(f"image {name} lies outside its box {(x1, y1, x2, y2)}; restore file or annotations")
    return image


def _decode_all(source: Sequence[dict], folder: Path, split: str, side: int) -> None:
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (len(source), side, side, 3))
    with open(folder / "images.npy", "r+b") as file:
        # A sparse file on a full disk ends in SIGBUS; claiming the blocks first ends in an OSError.
        os.posix_fallocate(file.fileno(), 0, os.path.getsize(file.name))
    labels = np.empty(len(source), np.int32)
    shorter = np.empty((len(source), 2), np.float32)

    def write(index: int, example: dict) -> None:
        image = decode(example)
        size = np.asarray(image.shape[:2], np.float32)
        images[index], labels[index], shorter[index] = squash(image, side), example["label"], size.min() / size

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        progress = tqdm.tqdm(_read(source), total=len(source), desc=f"decode {split}", unit="image", leave=False)
        for chunk in _chunks(enumerate(progress), _CHUNK):
            list(pool.map(lambda item: write(*item), chunk))
    images.flush()
    np.save(folder / "labels.npy", labels)
    np.save(folder / "shorter.npy", shorter)


def _read(source: Sequence[dict]) -> Iterator[dict]:
    return (source[i] for i in range(len(source)))


def _chunks(items: Iterator, size: int) -> Iterator[list]:
    while chunk := list(itertools.islice(items, size)):
        yield chunk


def _require_space(directory: Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise InputError(
            f"config.data.cache_dir: {directory} needs {needed / 1e9:.1f} GB for decoded images and has "
            f"{free / 1e9:.1f} GB free; make room or pass another folder"
        )


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
