"""Names for people, of classes and of pictures. Everything that computes uses labels and rows."""

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import tqdm

from symm_jax import files
from symm_jax.data import manifest
from symm_jax.errors import InputError

_FILE = "names.json"  # in the folder of a split's arrays
_PUBLISHED = "class-names.json"  # in the folder of a data set's records


class Names(NamedTuple):
    """The names of a split. A number stands for a name that is not known.

    Names are text that somebody else wrote: a page or a figure must not take them for markup.

    classes: {label: name}.
    pictures: the name of each image; empty if no name is known.
    """

    classes: Mapping[int, str]
    pictures: Sequence[str]

    def of_class(self, label: int) -> str:
        """The name of a class, or "class 7"."""
        return self.classes.get(int(label), f"class {label}")

    def of_picture(self, row: int) -> str:
        """The name of the image in a row, or "image 7"."""
        return self.pictures[row] if self.pictures else f"image {row}"


NUMBERS = Names({}, ())  # no name is known


def load(folder: Path, make: Callable[[], Names]) -> Names:
    """The names that are stored with the arrays in `folder`.

    If they are missing or damaged, they are made, and stored where that is possible. In a folder that is read-only, no
    name is known then, because making them reads every record.
    """
    with contextlib.suppress(manifest.Damaged, ValueError, KeyError, TypeError, AttributeError):
        stored = json.loads(manifest.read_text(folder, _FILE))
        return Names({int(label): name for label, name in stored["classes"].items()}, tuple(stored["pictures"]))
    if not os.access(folder, os.W_OK):
        return NUMBERS
    try:
        made = make()
    except InputError:  # of records that are damaged, and that nothing else needs
        return NUMBERS
    with contextlib.suppress(OSError, ValueError), files.lock(folder.parent / ".lock"):
        store(folder, made)
    return made


def store(folder: Path, names: Names) -> None:
    """Stores names with the arrays in `folder`. Raises OSError or ValueError as manifest.write_text does."""
    manifest.write_text(folder, _FILE, json.dumps(names._asdict(), ensure_ascii=False))


def of_photographs(examples: Iterable[Mapping[str, Any]], published: Mapping[int, str]) -> Names:
    """Names of photographs: a picture's is its path in the data folder.

    Args:
      examples: each has "label" and "filename".
      published: names of classes, where the annotations have them. Others are found in the paths.
    """
    labels, pictures = _columns(examples)
    return Names(_parts_of_classes(labels, pictures) | {k: published[k] for k in {*labels} & {*published}}, pictures)


def of_glyphs(examples: Iterable[Mapping[str, Any]], seed: int) -> Names:
    """Names of drawn characters: a class's is the character and its code point, and a picture's has the font."""
    from symm_jax.data import glyphs  # imported here: processes that decode images do not need matplotlib

    labels, pictures = _columns(examples)
    classes, described = {}, []
    for label, path in zip(labels, pictures, strict=True):
        code, index = PurePosixPath(path).parent.name, int(PurePosixPath(path).stem)
        character = chr(int(code.removeprefix("U+"), 16))
        faces = glyphs.faces_of(character)
        face = faces[np.random.default_rng([seed, label, index]).integers(len(faces))]  # as glyphs.render draws it
        classes[label] = f"{character} ({code})"
        described.append(f"{path}, {face}")
    return Names(classes, tuple(described))


def write_published(root: Path, classes: Mapping[int, str]) -> None:
    """Stores the class names of annotations in the folder of a data set."""
    files.write_text(root / _PUBLISHED, json.dumps(classes, ensure_ascii=False))


def read_published(root: Path) -> dict[int, str]:
    """The class names of annotations; empty where they are not stored, as in folders of before."""
    try:
        return {int(label): str(name) for label, name in files.read_json_object(root / _PUBLISHED).items()}
    except ValueError:
        return {}


def _columns(examples: Iterable[Mapping[str, Any]]) -> tuple[list[int], tuple[str, ...]]:
    """The labels and the file names of examples."""
    rows = [
        (int(example["label"]), example["filename"])
        for example in tqdm.tqdm(examples, desc="read names", unit="image", leave=False, dynamic_ncols=True, delay=1)
    ]
    pictures = (name.decode() if isinstance(name, bytes) else name for _, name in rows)
    return [label for label, _ in rows], tuple(pictures)


def _parts_of_classes(labels: Sequence[int], pictures: Sequence[str]) -> dict[int, str]:
    """{label: the first part of the paths of its pictures that is common to all of them and to no other class}.

    A part is a folder or, last, what a file's name has before its last "_", as in SOP's bicycle_final/1110_0.JPG.
    A class without such a part is left out.
    """
    starts: dict[int, list[set[tuple[str, ...]]]] = {}
    for label, picture in zip(labels, pictures, strict=True):
        *folders, name = picture.split("/")
        parts = (*folders, name.rpartition("_")[0])
        levels = starts.setdefault(label, [])
        for depth in range(len(parts)):
            if depth == len(levels):
                levels.append(set())
            levels[depth].add(parts[: depth + 1])
    classes: dict[tuple[str, ...], set[int]] = {}
    for label, levels in starts.items():
        for start in set().union(*levels):
            classes.setdefault(start, set()).add(label)
    names = {}
    for label, levels in starts.items():
        own = [start for level in levels if len(level) == 1 for start in level if classes[start] == {label}]
        if own and own[0][-1]:
            names[label] = own[0][-1]
    return names
