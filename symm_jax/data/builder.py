"""The common part of the photograph data sets: it turns examples in a tree of files into records of encoded images.

A data set is a class that names its files and reads its annotations in `read`. See cars196.py for an example.
"""

import abc
import collections
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from symm_jax import errors
from symm_jax.data import archives
from symm_jax.data.tree import Tree, as_text
from symm_jax.errors import InputError

_OTHER_ARCHIVES = (".rar", ".7z", ".xz", ".bz2", ".gz")
_MAX_MISSING = 0.5  # largest fraction of the annotated photographs of a split that may be missing
_MAX_NAMED = 5  # files that a message names


class Example(NamedTuple):
    """One photograph.

    name: its path in the annotations, unique.
    label: class, 0 .. num_classes - 1.
    box: x1, y1, x2, y2 in pixels, or None.
    query: in a test split with a gallery, whether it is a query (else it is in the gallery); None elsewhere.
    """

    name: str
    label: int
    box: tuple[int, int, int, int] | None = None
    query: bool | None = None


class Counts(NamedTuple):
    """The numbers of images and classes of a split, and the number of queries where there is a gallery."""

    images: int
    classes: int
    queries: int = 0


class Found(NamedTuple):
    """A tree of files, its examples, {split: {path in the tree: example}}, and the names of `class_names`."""

    tree: Tree
    splits: dict[str, dict[str, Example]]
    class_names: dict[int, str]


class Info(tfds.core.DatasetInfo):
    """What a data set consists of. Nothing about it is asked from tfds's bucket, where ours are not."""

    def initialize_from_bucket(self) -> None:
        """Does nothing, where tfds leaves an empty folder in the folder of temporary files at every build."""


class PhotographBuilder(tfds.core.GeneratorBasedBuilder, abc.ABC):
    """Encoded images as they are stored, with label and filename, and with box and query where the data set has them.

    Attributes:
      NUM_CLASSES: number of classes in both splits together; None if it depends on the files.
      PROTOCOL: the published split, {split: Counts}; empty if there is none.
      BOXES: whether there are bounding boxes.
      QUERIES: whether the test split consists of queries and a gallery.
      ORIENT: whether images are rotated by their EXIF orientation.
      MANUAL_DOWNLOAD_INSTRUCTIONS: the files of the data set, in words, also for messages.
    """

    VERSION = tfds.core.Version("1.0.0")
    NUM_CLASSES: ClassVar[int | None] = None
    PROTOCOL: ClassVar[Mapping[str, Counts]] = {}
    BOXES: ClassVar[bool] = False
    QUERIES: ClassVar[bool] = False
    ORIENT: ClassVar[bool] = False
    CITATION: ClassVar[str] = ""
    MANUAL_DOWNLOAD_INSTRUCTIONS: ClassVar[str] = ""
    found: Found | None = None

    @abc.abstractmethod
    def read(self, tree: Tree, open_file: Callable[[str], bytes]) -> dict[str, list[Example]]:
        """Reads the annotations.

        Args:
          tree: the files.
          open_file: path in the tree -> bytes.

        Returns:
          The examples of each split, in any order.

        Raises:
          InputError: annotations are missing or wrong.
        """

    def class_names(self, tree: Tree, open_file: Callable[[str], bytes]) -> dict[int, str]:
        """{label: name} for people, where annotations have names of classes. Others are named by their folders."""
        del tree, open_file
        return {}

    def scan(self, tree: Tree) -> Found:
        """Reads and checks the annotations: labels, boxes, photographs, and that the splits share no class.

        Warns of annotated photographs that are missing, and of files that cannot be read and are not needed. Assign the
        result to `found` before records are written. Otherwise this method is called again then.

        Raises:
          InputError: annotations are missing, damaged or contradictory, or most photographs of a split are missing.
        """
        try:
            with tree.opened() as open_file:
                splits = self.read(tree, open_file)
                class_names = self.class_names(tree, open_file)
        except InputError as error:
            place = "" if str(tree.root) in error.fact else f"{tree.root}: "
            named = any(fault.fact in error.fact for fault in tree.faults.values())
            rest = "" if named else _describe(tree.faults)
            raise InputError(f"{place}{error.fact}{rest}", argument=error.argument) from error
        self._check(tree, [e for examples in splits.values() for e in examples])
        seen: dict[int, str] = {}
        for split, examples in splits.items():
            for label in {e.label for e in examples}:
                if seen.setdefault(label, split) != split:
                    raise InputError(
                        f"{tree.root}: class {label + 1} is in {seen[label]} and in {split}. Restore the published "
                        "annotations."
                    )
        located = {split: self._located(tree, split, examples) for split, examples in splits.items()}
        found = Found(tree, located, class_names)
        for fault in tree.faults.values():
            errors.warn(f"{fault.fact} It is left out, and nothing is known to be missing")
        return found

    def _check(self, tree: Tree, examples: list[Example]) -> None:
        restore = "Restore the published annotations."
        for e in examples:
            if not 0 <= e.label < (self.NUM_CLASSES or np.iinfo(np.int32).max):
                raise InputError(
                    f"{tree.root}: {e.name} has class {e.label + 1}, and classes are 1 to {self.NUM_CLASSES}. {restore}"
                )
            if e.box and not (0 <= e.box[0] < e.box[2] and 0 <= e.box[1] < e.box[3]):
                raise InputError(f"{tree.root}: {e.name} has the impossible box {e.box}. {restore}")
        names = collections.Counter(e.name for e in examples)
        if repeated := [name for name, count in names.items() if count > 1]:
            raise InputError(f"{tree.root}: {repeated[0]} is annotated more than once. {restore}")

    def _located(self, tree: Tree, split: str, examples: list[Example]) -> dict[str, Example]:
        if not examples:
            raise InputError(
                f"{tree.root}: the annotations name no photographs of {self.name}'s {split} split. Restore the "
                "published annotations."
            )
        paths = tree.locate([e.name for e in examples])
        missing = [e.name for e, path in zip(examples, paths, strict=True) if path is None]
        if len(missing) > _MAX_MISSING * len(examples) or (missing and tree.faults):
            lacks = f"lacks {len(missing):,}" if len(missing) < len(examples) else "has none"
            raise InputError(
                f"{tree.root} {lacks} of the {len(examples):,} photographs of {self.name}'s {split} split, such as "
                f"{', '.join(missing[:_MAX_NAMED])}. Put them there, unpacked or not. The folder should hold "
                f"{self.MANUAL_DOWNLOAD_INSTRUCTIONS}. To use a part of the data set, remove the missing photographs "
                f"from the annotations.{_describe(tree.faults)}",
                argument="dir",
            )
        if missing:
            errors.warn(
                f"{tree.root} has {len(examples) - len(missing):,} of {len(examples):,} annotated photographs of "
                f"{self.name}'s {split} split. The first missing one is {missing[0]}"
            )
        return {path: e for path, e in zip(paths, examples, strict=True) if path is not None}

    def _info(self) -> Info:
        label = tfds.features.ClassLabel(num_classes=self.NUM_CLASSES) if self.NUM_CLASSES else np.int64
        features = {"image": tfds.features.Image(shape=(None, None, 3)), "label": label}
        features |= {"filename": tfds.features.Text()}
        # In pixels: tfds's relative BBox would not give exact crops.
        features |= {"box": tfds.features.Tensor(shape=(4,), dtype=np.int32)} if self.BOXES else {}
        features |= {"query": np.bool_} if self.QUERIES else {}
        return Info(
            builder=self,
            description=self.__doc__,
            citation=self.CITATION,
            features=tfds.features.FeaturesDict(features),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        tree, splits, _ = self.found or self.scan(Tree(Path(dl_manager.manual_dir)))
        return {split: self._generate_examples(tree, found) for split, found in splits.items()}

    def _generate_examples(self, tree: Tree, found: Mapping[str, Example]) -> Iterator[tuple[str, dict]]:
        paths = list(found)
        with tree.opened() as open_file:
            for i in tree.in_reading_order(paths):
                e = found[paths[i]]
                name = as_text(e.name)
                features = {"image": open_file(paths[i]), "label": e.label, "filename": name}
                features |= {"box": e.box} if self.BOXES else {}
                features |= {"query": e.query} if self.QUERIES else {}
                yield name, features


def require_file(tree: Tree, name: str, builder: PhotographBuilder) -> str:
    """The path of the annotation file `name`. Raises InputError when it is missing."""
    path = tree.find(name)
    if path is None:
        raise absence_error(tree, builder)
    return path


def absence_error(tree: Tree, builder: PhotographBuilder | type[PhotographBuilder]) -> InputError:
    """The error for a folder that does not hold the data set."""
    state = "does not hold the data set" if tree.root.exists() else "does not exist"
    others = [path for path in tree.entries if path.lower().endswith(_OTHER_ARCHIVES)]
    unpack = f" Unpack {others[0]} yourself: only {', '.join(archives.SUFFIXES)} are read." if others else ""
    return InputError(
        f"{tree.root} {state}. It should hold {builder.MANUAL_DOWNLOAD_INSTRUCTIONS}. Put them there, unpacked or not, "
        f"or pass the folder that has them.{unpack}",
        argument="dir",
    )


def _describe(faults: Mapping[Path, InputError]) -> str:
    """The files and folders that cannot be read, as the end of a message about missing files."""
    named = [f"\n  {fault.fact}" for fault in [*faults.values()][:_MAX_NAMED]]
    return f"\nThis cannot be read, and may hold what is missing:{''.join(named)}" if faults else ""
