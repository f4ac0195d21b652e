"""The pictures of a folder: which files count, their state on disk, and the folders of their classes."""

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from symm_jax import errors
from symm_jax.data import archives
from symm_jax.data.folder import SUFFIXES
from symm_jax.data.tree import Tree, as_text
from symm_jax.errors import InputError
from symm_jax.search.decoding import Source, unreadable

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
        if not root.exists():
            raise InputError(f"{root} does not exist.", argument="images")
        state = "holds no pictures" if root.is_dir() else "is not a picture"
        raise InputError(f"{root} {state}. The names of pictures end in {', '.join(SUFFIXES)}.", argument="images")
    if others := sorted(tree.entries.keys() - set(names)):
        errors.warn(
            f"{root}: files of other kinds are ignored, {len(others):,} in all, such as {as_text(others[0])}. The "
            f"names of pictures end in {', '.join(SUFFIXES)}"
        )
    status = functools.cache(os.stat)  # an archive has many pictures
    labels, pictures = class_folders(names), []
    for name in names:
        file, member = tree.entries[name]
        try:
            size, modified = status(file).st_size, status(file).st_mtime_ns
        except OSError as error:
            missing.append(unreadable(file, error))
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
