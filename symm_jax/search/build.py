"""Embeds a folder of pictures into an index folder: only what is new or changed, and goes on where it was killed.

Finished embeddings are kept in INDEX/unfinished, NUMBER.npy with NUMBER.json, until the index is written.
"""

import collections
import contextlib
import functools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from symm_jax import errors, files
from symm_jax.data.tree import as_text
from symm_jax.errors import InputError
from symm_jax.search import images, index
from symm_jax.search.embedder import Embedder, describe_weights, to_path
from symm_jax.search.index import Index, Row

DTYPES = ("float32", "float16")
_CHUNK_SECONDS = 10.0  # a process that is killed loses so much work
_BLOCK = 4096  # rows that are written at a time
_MAX_NAMED = 10  # damaged pictures that a message names
_UNFINISHED, _DAMAGED = "unfinished", "damaged.txt"
_OWN = (*index.FILES, *index.DERIVED, _UNFINISHED, index.LOCK, _DAMAGED)


class Known(NamedTuple):
    """An embedding that is stored: its picture, the file, and the row in it."""

    row: Row
    file: Path
    position: int


def build(
    embedder: Embedder, pictures: str | os.PathLike, out: str | os.PathLike, *, dtype: str = "float32"
) -> list[str]:
    """Writes or updates the index of a folder of pictures.

    A picture whose size and time are those of the index is not read again, and one whose content is the same is not
    embedded again. Pictures that are gone are dropped. A damaged picture is left out.

    Args:
      embedder: embeds.
      pictures: the folder of pictures.
      out: the index folder. It is made if it does not exist.
      dtype: of the stored embeddings, "float32" or "float16".

    Returns:
      A message for each damaged picture; of many the first ones, and the file that lists all.

    Raises:
      InputError: there are no pictures, none can be decoded, or `out` holds something else or an index of other
        weights or of other pictures.
    """
    errors.lookup("dtype", dtype, dict.fromkeys(DTYPES))
    root, folder = to_path(pictures), to_path(out)
    _require_place(root, folder)
    listing = images.list_pictures(root, skip=folder)
    about = {
        "images": as_text(str(root)),
        "dim": embedder.dim,
        "dtype": dtype,
        "weights": embedder.weights,
        "network": embedder.network,
        "preprocessing": embedder.preprocessing,
    }
    about = json.loads(json.dumps(about))  # as it is read back
    folder.mkdir(parents=True, exist_ok=True)
    with files.lock(folder / index.LOCK, busy=f"another process writes the index {folder}"):
        return _update(embedder, listing, folder, about)


def _update(embedder: Embedder, listing: images.Listing, folder: Path, about: dict[str, Any]) -> list[str]:
    """`build`, in a folder whose lock is held."""
    index.finish(folder)
    old = _open(folder) if any((folder / name).exists() for name in index.FILES) else None
    known: dict[str, Known] = {}
    if old:
        _require_same(about, old.about, folder)
        _require_common(old, listing)
        known = {row.path: Known(row, folder / index.EMBEDDINGS, i) for i, row in enumerate(old.rows)}
    known |= _read_chunks(folder / _UNFINISHED, about)
    found: dict[str, Known] = {}
    todo = []
    for picture in listing.pictures:
        before = known.get(picture.path)
        if before and (before.row.size, before.row.modified) == (picture.size, picture.modified):
            found[picture.path] = _relabelled(before, picture, before.row.sha256)
        else:
            todo.append(picture)
    print(f"pictures  {len(listing.pictures):,} in {listing.tree.root}, {len(todo):,} of them new or changed")
    faults = listing.faults + _embed(embedder, listing, todo, known, found, folder / _UNFINISHED, about)
    _list_damaged(folder, faults)
    if not found:
        named = "\n  ".join(faults[:_MAX_NAMED])
        raise InputError(f"none of the pictures in {listing.tree.root} can be used:\n  {named}", argument="images")
    ordered = [found[path] for path in sorted(found)]
    rows = [each.row for each in ordered]
    if old is None or rows != old.rows or old.about["images"] != about["images"]:
        index.write(folder, about, rows, _blocks(ordered))
    shutil.rmtree(folder / _UNFINISHED, ignore_errors=True)
    print(f"index     {folder}: {len(rows):,} embeddings of {embedder.dim} numbers, {about['dtype']}")
    if len(faults) > _MAX_NAMED:
        rest = f"and {len(faults) - _MAX_NAMED:,} more. All {len(faults):,} are listed in {folder / _DAMAGED}"
        return [*faults[:_MAX_NAMED], rest]
    return faults


def _embed(
    embedder: Embedder,
    listing: images.Listing,
    todo: list[images.Picture],
    known: Mapping[str, Known],
    found: dict[str, Known],
    unfinished: Path,
    about: Mapping[str, Any],
) -> list[str]:
    """Embeds the pictures of `todo` and adds them to `found`. Returns a message for each damaged one."""
    faults: list[str] = []
    waiting: collections.deque[Row] = collections.deque()  # pictures that the device has, in order

    def squares(read: Callable[[str], bytes]) -> Iterator[np.ndarray]:
        digests = (known[p.path].row.sha256 if p.path in known else "" for p in todo)
        sources = (images.source(listing, p.path, read, sha) for p, sha in zip(todo, digests, strict=True))
        for picture, decoded in zip(todo, embedder.decode(sources, len(todo)), strict=True):
            if decoded.fault:
                faults.append(decoded.fault)
            elif decoded.pixels is None:  # only its time has changed
                found[picture.path] = _relabelled(known[picture.path], picture, decoded.sha256)
            else:
                waiting.append(Row(picture.path, picture.size, picture.modified, decoded.sha256, picture.label))
                yield decoded.pixels

    rows: list[Row] = []
    vectors: list[np.ndarray] = []
    due = time.monotonic() + _CHUNK_SECONDS
    with listing.tree.opened() as read:
        # The size of a batch follows from the number of all pictures, so that a run that goes on computes the same.
        for embeddings in embedder.embed_squares(squares(read), len(todo), len(listing.pictures)):
            for vector in embeddings.astype(about["dtype"]):
                row = waiting.popleft()
                if np.isfinite(vector).all():
                    rows.append(row)
                    vectors.append(vector)
                else:
                    faults.append(f"image {as_text(row.path)}: its embedding is not finite")
            if time.monotonic() >= due:
                found |= _write_chunk(unfinished, about, rows, vectors)
                rows, vectors, due = [], [], time.monotonic() + _CHUNK_SECONDS
    if rows:
        found |= _write_chunk(unfinished, about, rows, vectors)
    return sorted(faults)


def _write_chunk(
    unfinished: Path, about: Mapping[str, Any], rows: list[Row], vectors: list[np.ndarray]
) -> dict[str, Known]:
    """Keeps finished embeddings in a file of their own. It counts when NUMBER.json is there."""
    unfinished.mkdir(exist_ok=True)
    numbers = [int(path.stem) for path in unfinished.glob("*.npy") if path.stem.isdecimal()]
    path = unfinished / f"{max(numbers, default=0) + 1:06d}.npy"
    with files.naming(path), open(path, "wb") as file:
        np.save(file, np.stack(vectors))
        file.flush()
        os.fsync(file.fileno())
    content = {"about": about, "sha256": index.digest(path), "rows": [(as_text(r.path), *r[1:4], "") for r in rows]}
    files.write_text(path.with_suffix(".json"), json.dumps(content))
    return {row.path: Known(row, path, i) for i, row in enumerate(rows)}


def _read_chunks(unfinished: Path, about: Mapping[str, Any]) -> dict[str, Known]:
    """The embeddings that earlier processes have finished. A damaged file is left out with a warning."""
    known: dict[str, Known] = {}
    for path in sorted(unfinished.glob("*.json")):
        file = path.with_suffix(".npy")
        try:
            content = files.read_json_object(path)
            if index.digest(file) != content["sha256"]:
                raise ValueError("its SHA-256 differs")
            rows = [Row(index.from_text(name), *others) for name, *others in content["rows"]]
            theirs = content["about"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            errors.warn(f"{file} is damaged ({error}). Its pictures are embedded again")
            continue
        _require_same(about, theirs, unfinished)
        known |= {row.path: Known(row, file, i) for i, row in enumerate(rows)}
    return known


def _blocks(ordered: list[Known]) -> Iterator[np.ndarray]:
    """The embeddings in blocks. Few files are open at a time."""
    opened = functools.lru_cache(maxsize=64)(functools.partial(np.load, mmap_mode="r"))
    for start in range(0, len(ordered), _BLOCK):
        yield np.stack([opened(each.file)[each.position] for each in ordered[start : start + _BLOCK]])


def _open(folder: Path) -> Index:
    try:
        return Index(folder)
    except InputError as error:
        raise InputError(error.fact, argument="out") from error


def _relabelled(known: Known, picture: images.Picture, sha256: str) -> Known:
    """The same embedding with what is listed of the picture now."""
    return known._replace(row=Row(picture.path, picture.size, picture.modified, sha256, picture.label))


def _require_place(root: Path, folder: Path) -> None:
    """Raises InputError when `folder` cannot be the index of the pictures in `root`."""
    if root.is_relative_to(folder):
        raise InputError(f"the pictures {root} lie in the folder {folder}.", argument="out")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file.", argument="out")
    if folder.is_dir() and not any((folder / name).exists() for name in index.FILES):
        own = {*_OWN, *(f"{name}{suffix}" for name in index.FILES for suffix in index.SUFFIXES)}
        if others := sorted({path.name for path in folder.iterdir()} - own):
            raise InputError(f"{folder} is not an index and holds other files, such as {others[0]}.", argument="out")


def _require_same(ours: Mapping[str, Any], theirs: Mapping[str, Any], folder: Path) -> None:
    """Raises InputError when an index has embeddings of other weights, or was written in another way."""
    weights, others = ours["weights"], theirs["weights"]
    if weights["sha256"] != others.get("sha256"):
        raise InputError(
            f"{folder} has embeddings of other weights:\n"
            f"  there {describe_weights(others)}\n  here  {describe_weights(weights)}",
            argument="out",
        )
    for key in ("dim", "dtype", "network", "preprocessing"):
        if ours[key] != theirs.get(key):
            if key == "dtype":
                raise InputError(
                    f"{folder} stores embeddings as {theirs.get(key)}, and this command as {ours[key]}.",
                    argument="dtype",
                )
            raise InputError(
                f"{folder} has embeddings with another {key}: there {theirs.get(key)}, here {ours[key]}.",
                argument="out",
            )


def _require_common(old: Index, listing: images.Listing) -> None:
    """Raises InputError when none of the pictures of an index is there, as for a wrong folder."""
    if not {row.path for row in old.rows} & {picture.path for picture in listing.pictures}:
        raise InputError(
            f"{old.folder} is the index of the pictures in {old.images}, and none of them is in {listing.tree.root}.",
            argument="out",
        )


def _list_damaged(folder: Path, faults: Iterable[str]) -> None:
    """Lists what was left out in damaged.txt, or removes the list."""
    if faults:
        files.write_text(folder / _DAMAGED, "\n".join(faults) + "\n")
    else:
        with contextlib.suppress(FileNotFoundError):
            (folder / _DAMAGED).unlink()
