"""The list of the arrays of a folder, with their digests, so that a damaged array is noticed before it is used."""

import concurrent.futures
import hashlib
import io
import json
import os
from pathlib import Path

import joblib
import numpy as np
import tqdm

from symm_jax import files
from symm_jax.data.checksums import crc32

NAME = "manifest.json"
_BLOCK = 1 << 20  # bytes that a thread reads at a time; larger blocks are slower
# "0" skips the digests of pixels, which take about half a second per GB and core. Everything else is still verified.
_VERIFY_PIXELS = "SYMM_JAX_VERIFY_PIXELS"
_verified: set[tuple] = set()  # the versions of large files, and the digests that this process knows them to have


class Damaged(Exception):
    """An array is missing or is not the one that was written. The message names the file."""


def write(folder: Path, row_checksums: dict[str, np.ndarray]) -> None:
    """Lists the .npy files of a folder, each with its dtype, shape, size and digest.

    Args:
      folder: the folder.
      row_checksums: {name of a large array: the CRC-32 of each of its rows, (n,) uint32}. The digest of such an array
        is made of these checksums, so that rows can be written in any order and verified in parallel.
    """
    arrays = {}
    for path in sorted(folder.glob("*.npy")):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        known = {"dtype": array.dtype.str, "shape": array.shape, "bytes": path.stat().st_size}
        if path.stem in row_checksums:
            known["rows"] = _digest_of_rows(row_checksums[path.stem])
            _verified.add((*_version(path), known["rows"]))  # reading it back would read memory, not the disk
        else:
            known["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        arrays[path.stem] = known
    (folder / NAME).write_text(json.dumps({"arrays": arrays}, indent=1), encoding="utf-8")


def read(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a folder by name, verified. Large ones are read-only memory maps.

    The pixels of a file are verified once in a process, as long as its time of change stays the same. Those that this
    process has written are not verified: their digest was made of what was written.

    Raises:
      Damaged: there is no manifest, or a file differs from it.
    """
    try:
        arrays = json.loads((folder / NAME).read_text(encoding="utf-8"))["arrays"]
        return {name: _read(folder / f"{name}.npy", known) for name, known in arrays.items()}
    except FileNotFoundError as error:
        raise Damaged(f"{error.filename} is missing: {folder} is incomplete, or of an older version") from error
    except OSError as error:
        raise Damaged(f"{error.filename or folder} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{folder / NAME} is damaged") from error


def read_unverified(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a folder that was written before there were manifests.

    Raises:
      Damaged: a file cannot be read as an array.
    """
    try:
        return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in folder.glob("*.npy")}
    except (OSError, ValueError) as error:
        raise Damaged(f"an array in {folder} is damaged ({error})") from error


def write_text(folder: Path, name: str, text: str) -> None:
    """Adds a text file to a folder, and lists it in the manifest. Readers of the arrays ignore it.

    Raises:
      OSError: the manifest cannot be read, or a file cannot be written.
      ValueError: the manifest is damaged.
    """
    listed = files.read_json_object(folder / NAME)
    files.write_text(folder / name, text)
    texts = listed.pop("texts", None)
    texts = (texts if isinstance(texts, dict) else {}) | {name: hashlib.sha256(text.encode()).hexdigest()}
    files.write_text(folder / NAME, json.dumps({"texts": texts, **listed}, indent=1))


def read_text(folder: Path, name: str) -> str:
    """The text file `name` of a folder, verified. Raises Damaged when it is missing or not the one in the manifest."""
    try:
        content = (folder / name).read_bytes()
        if files.read_json_object(folder / NAME)["texts"][name] == hashlib.sha256(content).hexdigest():
            return content.decode()
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise Damaged(f"{folder / name} is missing or damaged")


def _read(path: Path, known: dict) -> np.ndarray:
    stat = path.stat()
    if stat.st_size != known["bytes"]:
        raise Damaged(f"{path} is damaged: it has {stat.st_size} bytes instead of {known['bytes']}")
    if "rows" not in known:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != known["sha256"]:
            raise Damaged(f"{path} is damaged: its digest has changed")
        return np.load(io.BytesIO(content), allow_pickle=False)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise Damaged(f"{path} is damaged: it is not an array") from error
    if array.dtype.str != known["dtype"] or list(array.shape) != known["shape"] or not array.flags.c_contiguous:
        raise Damaged(f"{path} is damaged: it has {array.dtype} {array.shape}")
    if os.environ.get(_VERIFY_PIXELS, "1") != "0":
        expected = (*_version(path), known["rows"])
        if expected not in _verified:
            checksums = _row_checksums(path, stat.st_size - array.nbytes, array.shape[0], array.nbytes)
            if _digest_of_rows(checksums) != known["rows"]:
                raise Damaged(f"{path} is damaged: its digest has changed")
            _verified.add(expected)
    return array


def _version(path: Path) -> tuple[int, int, int]:
    """Differs for a file that has changed or has been replaced, and stays when its folder is renamed."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_mtime_ns


def _row_checksums(path: Path, offset: int, rows: int, nbytes: int) -> np.ndarray:
    """The CRC-32 of each row of the array whose first row begins at byte `offset`."""
    size = nbytes // max(rows, 1)
    checksums = np.zeros(rows, np.uint32)
    step = max(1, _BLOCK // max(size, 1))

    def verify(start: int) -> int:
        count = min(step, rows - start)
        block = memoryview(os.pread(file.fileno(), count * size, offset + start * size))
        checksums[start : start + count] = [crc32(block[i * size : (i + 1) * size]) for i in range(count)]
        return count

    bar = tqdm.tqdm(total=rows, desc="verify images", unit="image", leave=False, dynamic_ncols=True, delay=1)
    with open(path, "rb") as file, concurrent.futures.ThreadPoolExecutor(joblib.cpu_count()) as pool, bar:
        for count in pool.map(verify, range(0, rows, step)):
            bar.update(count)
    return checksums


def _digest_of_rows(checksums: np.ndarray) -> str:
    return hashlib.sha256(checksums.astype("<u4").tobytes()).hexdigest()
