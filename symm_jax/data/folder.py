"""Your own photographs as a tfds builder: one folder of pictures per class."""

import collections
import os
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath

import numpy as np

from symm_jax import errors
from symm_jax.data import archives
from symm_jax.data.builder import Example, PhotographBuilder, absence_error
from symm_jax.data.tree import Tree, as_text
from symm_jax.errors import InputError

RARE_SUFFIXES = (".jpe", ".jfif", ".jif", ".pjpeg", ".pjp")  # other endings of JPEG files
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", *RARE_SUFFIXES)
_MAX_NAMED = 10  # folders that a message names
_HALVES = {"train", "test"}
_OTHER_HALVES = {"val", "valid", "validation", "query", "gallery"}  # folders of layouts that are not supported


class Folder(PhotographBuilder):
    """Pictures in one folder per class, rotated by their EXIF orientation.

    `ROOT/train/CLASS/*` and `ROOT/test/CLASS/*` are used as the splits. With `ROOT/CLASS/*`, half of the classes,
    drawn with `split_seed`, become "test". Labels are the positions in the sorted list of class names.
    """

    name = "folder"
    ORIENT = True
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "pictures (jpg, png, webp) in one folder per class: ROOT/CLASS/*, or ROOT/train/CLASS/* and ROOT/test/CLASS/*"
    )

    def __init__(self, *, split_seed: int = 0, **options):
        self._split_seed = split_seed
        super().__init__(**options)

    def read(self, tree: Tree, open_file: Callable[[str], bytes]) -> dict[str, list[Example]]:
        """See `PhotographBuilder.read`."""
        pictures = [path for path in tree.entries if path.lower().endswith(SUFFIXES)]
        _require_nothing_hidden(tree, pictures)
        if not pictures:
            raise absence_error(tree, self)
        base = PurePosixPath(os.path.commonpath([PurePosixPath(path).parent for path in pictures]))
        if all(PurePosixPath(path).parent == base for path in pictures):  # there is only one class
            base = base.parent
        parts = {path: PurePosixPath(path).relative_to(base).parts for path in pictures}
        others = sorted(tree.entries.keys() - set(pictures)) + [path for path in pictures if len(parts[path]) < 2]
        if others:
            errors.warn(
                f"{tree.root}: {len(others)} files are not pictures in the folder of a class, such as "
                f"{as_text(others[0])}. They are ignored"
            )
        tops = {p[0].lower() for p in parts.values() if len(p) > 1}
        nested = {p[0].lower() for p in parts.values() if len(p) > 2}
        by_folder = nested >= _HALVES or bool(tops & _HALVES and tops <= _HALVES | _OTHER_HALVES)
        _warn_of_lost_classes(tree, base, parts, others, depth=2 if by_folder else 1)
        classes = _split_by_folder(tree, parts) if by_folder else _split_by_seed(tree, parts, self._split_seed)
        labels = {name: label for label, name in enumerate(sorted(classes["train"] | classes["test"]))}
        return {
            split: [Example(path, labels[name]) for name, paths in by_class.items() for path in paths]
            for split, by_class in classes.items()
        }


def _require_nothing_hidden(tree: Tree, pictures: list[str]) -> None:
    """Raises the error of a folder or an archive that cannot be read and may hold a class.

    An archive beside plain pictures is taken for the one that they were unpacked from.
    """
    all_plain = bool(pictures) and all(tree.entries[path].member is None for path in pictures)
    for path, fault in tree.faults.items():
        if not (all_plain and archives.is_archive(path.name)):
            raise InputError(f"{fault.fact} Or move it out of the data folder.", argument="dir")


def _warn_of_lost_classes(
    tree: Tree, base: PurePosixPath, parts: Mapping[str, tuple[str, ...]], others: list[str], depth: int
) -> None:
    """Warns of folders in the place of a class, `depth` below `base`, that have files and no pictures."""
    classes = {p[:depth] for p in parts.values()}
    endings = collections.defaultdict(set)
    for path in map(PurePosixPath, others):
        inside = path.relative_to(base).parts if path.is_relative_to(base) else ()
        if len(inside) > depth and inside[:depth] not in classes:
            endings["/".join(inside[:depth])].add(path.suffix.lower() or "no ending")
    if endings:
        named = [f"{as_text(name)} ({', '.join(sorted(kinds))})" for name, kinds in sorted(endings.items())]
        errors.warn(
            f"{tree.root}: {len(named)} folders have files but no pictures, and are not classes: "
            f"{', '.join(named[:_MAX_NAMED])}{', ...' if len(named) > _MAX_NAMED else ''}. Pictures end in "
            f"{', '.join(SUFFIXES)}. Convert others to JPEG or PNG"
        )


def _split_by_folder(tree: Tree, parts: Mapping[str, tuple[str, ...]]) -> dict[str, dict[str, list[str]]]:
    """{split: {class: paths}} for ROOT/{train,test}/CLASS/*."""
    splits = {
        half: _group({path: p[1:] for path, p in parts.items() if p[0].lower() == half and len(p) > 2})
        for half in _HALVES
    }
    tops = {p[0] for p in parts.values() if len(p) > 1}
    if {top.lower() for top in tops} != _HALVES or not all(splits.values()):
        raise InputError(
            f"{tree.root} has the folders {', '.join(sorted(tops))}. It should hold train/CLASS/* and test/CLASS/*, "
            "with pictures in both, and no other folders. Move the pictures of other folders to train or test, or out "
            "of the data folder.",
            argument="dir",
        )
    if common := sorted(splits["train"].keys() & splits["test"].keys()):
        raise InputError(
            f"{tree.root} has {len(common)} classes in train and in test, such as {common[0]!r}. Retrieval is measured "
            "on classes that training never saw. Move each class to train or to test. To have the classes split for "
            "you, move all of them to ROOT/CLASS/*.",
            argument="dir",
        )
    return splits


def _split_by_seed(tree: Tree, parts: Mapping[str, tuple[str, ...]], seed: int) -> dict[str, dict[str, list[str]]]:
    """{split: {class: paths}} for ROOT/CLASS/*."""
    classes = _group({path: p for path, p in parts.items() if len(p) > 1})
    if len(classes) < 4:
        raise InputError(
            f"{tree.root} has pictures of {len(classes)} classes. Four are the minimum: two for training and two for "
            f"testing. The folder should hold {Folder.MANUAL_DOWNLOAD_INSTRUCTIONS}.",
            argument="dir",
        )
    names = sorted(classes)
    order = np.random.default_rng(seed).permutation(len(names))
    train = {names[i] for i in order[: (len(names) + 1) // 2]}
    return {
        "train": {name: paths for name, paths in classes.items() if name in train},
        "test": {name: paths for name, paths in classes.items() if name not in train},
    }


def _group(parts: Mapping[str, tuple[str, ...]]) -> dict[str, list[str]]:
    """{class: paths}. The class is the first part of a path."""
    classes: dict[str, list[str]] = {}
    for path, (name, *_) in parts.items():
        classes.setdefault(name, []).append(path)
    return classes
