"""Finds pictures that a data set has more than once: the same file, and near-duplicates across the split.

The same picture with two labels, or in training and in test, makes training and every metric wrong without any other
sign. The pictures are compared when the records have been written, and the result is kept next to the records.
"""

import collections
import contextlib
import functools
import hashlib
import io
import itertools
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import PIL.Image
import simplejpeg
import tqdm

from symm_jax import errors, files
from symm_jax.data import decode
from symm_jax.data.arrays import Examples
from symm_jax.errors import InputError

_MAX_LISTED = 10  # groups of pictures that a message lists; the file has all
_ROWS, _COLUMNS = 8, 9  # of a thumbnail
_MAX_BITS, _MAX_DIFFERENCE = 3, 6.0  # near-duplicates: bits that differ, and mean difference of grey levels
_MIN_CONTRAST = 24  # grey levels; thumbnails with less are alike without being the same picture
_BLOCK = 2**22  # pairs that are compared at a time
_CHUNK = 256  # pictures that are kept in memory at a time


class Duplicates(NamedTuple):
    """Pictures that occur more than once, as "NAME (SPLIT)".

    conflicts: groups of one picture with several labels. A picture in training and in test is among them, because no
      class is in two splits.
    repeats: groups of one picture with one label.
    near: pairs of different files, the first in test and the second in training, that look the same.
    """

    conflicts: list[list[str]]
    repeats: list[list[str]]
    near: list[list[str]]


class _Picture(NamedTuple):
    name: str
    label: int
    digest: bytes
    thumbnail: np.ndarray  # (8, 9) uint8 grey levels; zeros for an image that cannot be decoded


def find(splits: Mapping[str, Examples]) -> Duplicates:
    """Compares all pictures of "train" and "test" with each other.

    Pictures are the same when the SHA-256 of their files is the same. Near-duplicates are found across the split only,
    by the difference hash of thumbnails.
    """
    total = sum(map(len, splits.values()))
    with tqdm.tqdm(total=total, desc="compare", unit="image", leave=False, dynamic_ncols=True) as bar:
        seen = {split: list(_look(split, examples, bar)) for split, examples in splits.items()}
    groups: dict[bytes, list[_Picture]] = collections.defaultdict(list)
    for picture in itertools.chain(*seen.values()):
        groups[picture.digest].append(picture)
    several = [group for group in groups.values() if len(group) > 1]
    conflicts, repeats = [], []
    for group in several:
        (repeats if len({picture.label for picture in group}) == 1 else conflicts).append([p.name for p in group])
    return Duplicates(sorted(conflicts), sorted(repeats), _near(seen.get("train", []), seen.get("test", [])))


def load(path: Path, splits: Mapping[str, Examples]) -> Duplicates:
    """The content of the file `path`. If it does not exist or is damaged, compares the pictures and writes it."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Duplicates(**json.loads(path.read_text(encoding="utf-8")))
    found = find(splits)
    with contextlib.suppress(OSError):  # a cache that cannot be written is used all the same
        files.write_text(path, json.dumps(found._asdict(), indent=1, ensure_ascii=False) + "\n")
    return found


def judge(found: Duplicates, folder: Path, listing: Path, *, accept: bool) -> None:
    """Warns of duplicates.

    Args:
      found: the duplicates.
      folder: the data folder, for messages.
      listing: the file that lists all duplicates, for messages.
      accept: whether one picture in several classes is a warning.

    Raises:
      InputError: a picture is in several classes, and `accept` is False.
    """
    where = f"All are listed in {listing}."
    if found.conflicts:
        count = f"{folder} has {len(found.conflicts):,} pictures in more than one class, or in training and in test"
        groups = [f"\n  {' = '.join(group)}" for group in found.conflicts[:_MAX_LISTED]]
        if not accept:
            raise InputError(
                f"{count}:{''.join(groups)}\n{where} Keep each picture in one class: move its other copies out of the "
                "data folder. An archive beside the folder that it was unpacked to counts as a copy.",
                argument="accept_duplicates",
            )
        errors.warn(f"{count}, such as {' = '.join(found.conflicts[0])}. They are accepted. {where}")
    if found.repeats:
        errors.warn(
            f"{folder} has {len(found.repeats):,} pictures more than once in one class, such as "
            f"{' = '.join(found.repeats[0])}. {where}"
        )
    if found.near:
        pairs = "; ".join(" ~ ".join(pair) for pair in found.near[:3])
        errors.warn(
            f"{folder} has {len(found.near):,} test pictures that look like a training picture, such as {pairs}. "
            f"Nothing is removed. {where}"
        )


def shrink(grey: np.ndarray) -> np.ndarray:
    """The thumbnail of (height, width) grey levels for `differ`: (8, 9) uint8."""
    return cv2.resize(grey, (_COLUMNS, _ROWS), interpolation=cv2.INTER_AREA)


def differ(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much the pictures of two equally long lists of thumbnails look different, one by one.

    Args:
      ours: (n, 8, 9) uint8, see `shrink`.
      theirs: (n, 8, 9) uint8.

    Returns:
      (n,) uint8, bits of the difference hash that differ, of 64; and (n,) float64, mean difference of the grey levels.
      Of a pair with a thumbnail that has hardly any contrast, 64 and 255: such pictures are alike without being the
      same.
    """
    bits = np.bitwise_count(_difference_hash(ours) ^ _difference_hash(theirs))
    levels = np.abs(ours.astype(int) - theirs).mean((1, 2))
    plain = np.minimum(np.ptp(ours, (1, 2)), np.ptp(theirs, (1, 2))) < _MIN_CONTRAST
    return np.where(plain, np.uint8(64), bits), np.where(plain, 255.0, levels)


def _look(split: str, examples: Examples, bar: tqdm.tqdm) -> Iterator[_Picture]:
    """Threads suffice: hashing, decoding and resizing do not hold Python's lock."""
    with futures.ThreadPoolExecutor() as pool:
        for start in range(0, len(examples), _CHUNK):
            rows = range(start, min(start + _CHUNK, len(examples)))
            yield from pool.map(functools.partial(_look_at, split), map(examples.__getitem__, rows))
            bar.update(len(rows))


def _look_at(split: str, example: Mapping[str, Any]) -> _Picture:
    name, image = example["filename"], example["image"]
    name = name.decode() if isinstance(name, bytes) else name
    return _Picture(f"{name} ({split})", int(example["label"]), hashlib.sha256(image).digest(), _thumbnail(image))


def _thumbnail(encoded: bytes) -> np.ndarray:
    try:
        grey = _decode_small(encoded)
    except Exception:  # a damaged image is reported when it is decoded
        return np.zeros((_ROWS, _COLUMNS), np.uint8)
    return shrink(grey)


def _decode_small(encoded: bytes) -> np.ndarray:
    """(height, width) grey levels of a reduced image."""
    with contextlib.suppress(ValueError):  # not a JPEG
        height, width, *_ = simplejpeg.decode_jpeg_header(encoded)
        if int(height) * int(width) <= decode.MAX_PIXELS:
            smallest = {"min_height": 4 * _ROWS, "min_width": 4 * _COLUMNS}
            return simplejpeg.decode_jpeg(encoded, "GRAY", fastdct=True, strict=False, **smallest)[..., 0]
    with warnings.catch_warnings(), PIL.Image.open(io.BytesIO(encoded), formats=decode.FORMATS) as image:
        warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
        return np.asarray(image.convert("RGB").convert("L"))


def _near(train: Sequence[_Picture], test: Sequence[_Picture]) -> list[list[str]]:
    """For each test picture the training picture with the nearest hash, if both look the same."""
    train, test = ([p for p in pictures if np.ptp(p.thumbnail) >= _MIN_CONTRAST] for pictures in (train, test))
    if not train or not test:
        return []
    ours, theirs = (np.stack([p.thumbnail for p in pictures]) for pictures in (test, train))
    our_hashes, their_hashes = _difference_hash(ours), _difference_hash(theirs)
    pairs: list[list[str]] = []
    size = max(1, _BLOCK // len(train))
    for start in range(0, len(test), size):
        bits = np.bitwise_count(our_hashes[start : start + size, None] ^ their_hashes)
        nearest = bits.argmin(1)
        for i, j in enumerate(nearest.tolist(), start):
            near = bits[i - start, j] <= _MAX_BITS and np.abs(ours[i].astype(int) - theirs[j]).mean() <= _MAX_DIFFERENCE
            if near and test[i].digest != train[j].digest:
                pairs.append([test[i].name, train[j].name])
    return sorted(pairs)


def _difference_hash(thumbnails: np.ndarray) -> np.ndarray:
    """(n,) uint64: for each pixel but the last of a row, whether the next one is brighter."""
    brighter = thumbnails[:, :, 1:] > thumbnails[:, :, :-1]
    return np.packbits(brighter.reshape(len(thumbnails), -1), axis=1).view(np.uint64)[:, 0]
