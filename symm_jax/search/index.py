"""The index folder: the embeddings of pictures, and which pictures, of which content, they are of.

    embeddings.npy   (n, dim) float32 or float16, rows of unit length
    images.csv       one line per row of it: path,size,mtime_ns,sha256,class
    index.json       weights, preprocessing, and the digests of the other two files

The three files are replaced together. NAME.next is written first, index.json.next last. From then on the new files
count, also when the process is killed before it has renamed them.
"""

import contextlib
import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from symm_jax import files
from symm_jax.data.tree import as_text
from symm_jax.errors import InputError
from symm_jax.search import exact

EMBEDDINGS, IMAGES, ABOUT = FILES = ("embeddings.npy", "images.csv", "index.json")
VERSION = 1
LOCK = ".lock"  # held by what writes to the folder
# What other modes keep beside the index, made from it.
DERIVED = ("calibration.json", "calibration.png", "duplicates.html", "usearch.index", "usearch.json")
_NEXT = ".next"
SUFFIXES = (_NEXT, f"{_NEXT}.partial")  # what an interrupted replacement leaves
_COLUMNS = ("path", "size", "mtime_ns", "sha256", "class")


class Row(NamedTuple):
    """A picture of an index.

    path: below the folder of pictures.
    size: bytes.
    modified: time of its last change in nanoseconds.
    sha256: digest of its content.
    label: folder of its class, or "".
    """

    path: str
    size: int
    modified: int
    sha256: str
    label: str


class Index:
    """An index, opened and compared with its digests.

    Attributes:
      folder: the index folder.
      about: the content of index.json.
      rows: a `Row` for each embedding, by path.
      embeddings: (n, dim) float32 or float16, rows of unit length, a read-only memory map.
      images: the folder of pictures.
    """

    def __init__(self, folder: str | os.PathLike):
        """Opens an index.

        Args:
          folder: the index folder.

        Raises:
          InputError: a file is missing, damaged, or of another index.
        """
        self.folder = Path(folder).expanduser().resolve()
        try:
            is_index = self.folder.is_dir() and any((self.folder / name).exists() for name in FILES)
        except OSError as error:
            raise InputError(
                f"{self.folder} cannot be read ({error.strerror}). Change its permissions.", argument="index"
            ) from error
        if not is_index:
            raise InputError(
                f"{self.folder} is not an index. Make one with --mode=embed, or pass the folder of one.",
                argument="index",
            )
        try:
            try:
                self._read()
            except (OSError, ValueError):  # another process may have replaced it meanwhile
                self._read()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"the index {self.folder} is damaged ({error}). Restore it from a copy, or embed the pictures again "
                "into another folder.",
                argument="index",
            ) from error

    @property
    def images(self) -> Path:
        """The folder of pictures when the index was written."""
        return Path(from_text(self.about["images"]))

    @property
    def paths(self) -> list[str]:
        """The path of each picture, with its folder. A picture in an archive has the path of `Row.path`."""
        root = str(self.images)
        return [os.path.join(root, row.path) for row in self.rows]  # noqa: PTH118  a million of them

    @property
    def labels(self) -> list[str]:
        """The folder of the class of each picture, or ""."""
        return [row.label for row in self.rows]

    def search(self, queries: np.ndarray, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """The nearest pictures, by exact search.

        Args:
          queries: (n, dim) float32, rows of unit length.
          k: the number of results, at most `len(self)`.

        Returns:
          The cosine similarities, (n, k) float32, best first, and the rows, (n, k) int64. Of equal similarities, the
          one with the smaller row comes first.

        Raises:
          InputError: the queries have another dimension, or `k` is larger than the index.
        """
        return exact.nearest(self.embeddings, queries, k)

    def __len__(self) -> int:
        return len(self.rows)

    def _read(self) -> None:
        about = files.read_json_object(_current(self.folder, ABOUT))
        if about.get("version") != VERSION:
            raise ValueError(f"{ABOUT} has the version {about.get('version')}, and {VERSION} is known")
        if about["files"].keys() != {EMBEDDINGS, IMAGES}:
            raise ValueError(f"{ABOUT} has no digests")
        for name, expected in about["files"].items():
            if digest(_current(self.folder, name)) != expected:
                raise ValueError(f"{name} is not what was written with {ABOUT}: its SHA-256 differs")
        embeddings = np.load(_current(self.folder, EMBEDDINGS), mmap_mode="r", allow_pickle=False)
        rows = _from_csv(_current(self.folder, IMAGES).read_bytes().decode())
        if embeddings.shape != (len(rows), about["dim"]) or embeddings.dtype != about["dtype"]:
            raise ValueError(f"{EMBEDDINGS} is not an array of {about['dtype']} {len(rows), about['dim']}")
        if not all(isinstance(about[key], kind) for key, kind in {"images": str, "weights": dict}.items()):
            raise ValueError(f"{ABOUT} is not complete")
        self.about, self.rows, self.embeddings = about, rows, embeddings


def write(folder: Path, about: Mapping[str, Any], rows: Sequence[Row], blocks: Iterable[np.ndarray]) -> None:
    """Replaces the files of an index. A reader finds the old ones or the new ones, also when writing fails.

    Args:
      folder: the index folder. The caller holds its lock.
      about: the content of index.json without version, count and digests; has dim, dtype, images and weights.
      rows: the pictures by path.
      blocks: their embeddings, (k, dim) each.
    """
    try:
        path = folder / f"{EMBEDDINGS}{_NEXT}"
        header = {"descr": np.dtype(about["dtype"]).str, "fortran_order": False, "shape": (len(rows), about["dim"])}
        with files.naming(path), open(path, "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for block in blocks:
                file.write(np.ascontiguousarray(block, about["dtype"]).data)
            file.flush()
            os.fsync(file.fileno())
        files.write_text(folder / f"{IMAGES}{_NEXT}", _to_csv(rows))
        sums = {name: digest(folder / f"{name}{_NEXT}") for name in (EMBEDDINGS, IMAGES)}
        content = {"version": VERSION, "count": len(rows), **about, "files": sums}
        files.write_text(folder / f"{ABOUT}{_NEXT}", json.dumps(content, indent=2) + "\n")  # now the new files count
    finally:
        finish(folder)


def finish(folder: Path) -> None:
    """Ends a replacement that was interrupted: the new files get their names if all are there, else they are deleted.

    The caller holds the lock of the folder.
    """
    complete = (folder / f"{ABOUT}{_NEXT}").exists()
    for name in FILES:  # index.json last
        path = folder / f"{name}{_NEXT}"
        with contextlib.suppress(FileNotFoundError):
            if complete:
                path.replace(folder / name)
            else:
                path.unlink()
        (folder / f"{path.name}.partial").unlink(missing_ok=True)


def from_text(text: str) -> str:
    """The path that `as_text` wrote as text.

    Example:
      >>> from_text(as_text("a\\\\b \\udcff")) == "a\\\\b \\udcff"
      True
    """
    return re.sub(r"\\(?:\\|x([0-9a-f]{2}))", lambda m: chr(0xDC00 + int(m[1], 16)) if m[1] else "\\", text)


def _current(folder: Path, name: str) -> Path:
    """The file that counts, which may not have its name yet."""
    path = folder / f"{name}{_NEXT}"
    return path if (folder / f"{ABOUT}{_NEXT}").exists() and path.exists() else folder / name


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _to_csv(rows: Iterable[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for path, *others, label in rows:
        writer.writerow((as_text(path), *others, as_text(label)))
    return text.getvalue()


def _from_csv(text: str) -> list[Row]:
    lines = csv.reader(io.StringIO(text, newline=""))
    if tuple(next(lines, ())) != _COLUMNS:
        raise ValueError(f"{IMAGES} has other columns than {','.join(_COLUMNS)}")
    return [
        Row(from_text(path), int(size), int(modified), sha256, from_text(label))
        for path, size, modified, sha256, label in lines
    ]
