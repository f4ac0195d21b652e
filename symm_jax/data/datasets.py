"""The data sets by name. Each is built and decoded when it is first used."""

import contextlib
import functools
import hashlib
import io
import itertools
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from symm_jax import errors, files
from symm_jax.data import arrays, download, duplicates, glyphs, names, pairs, sources
from symm_jax.data.builder import Counts, PhotographBuilder
from symm_jax.data.cars196 import Cars196
from symm_jax.data.cub200_2011 import Cub2002011
from symm_jax.data.folder import RARE_SUFFIXES, Folder
from symm_jax.data.inshop import Inshop
from symm_jax.data.records import DamagedRecords, Records
from symm_jax.data.sop import Sop
from symm_jax.data.tree import Tree, as_text, digest, files_below

BUILDERS: dict[str, type[PhotographBuilder] | type[glyphs.Glyphs]] = {
    "cars196": Cars196,
    "cub200_2011": Cub2002011,
    "sop": Sop,
    "inshop": Inshop,
    "folder": Folder,
    "glyphs": glyphs.Glyphs,
}
_SPLITS = ("train", "test", "validation")
_DIGEST_LENGTH = 16
_MAX_LISTED = 10  # damaged images that a message lists


class Source(NamedTuple):
    """A data set and how it is read. Its fields have the names of those of `config.data`.

    name: a key of BUILDERS.
    dir: folder of the data set's files, unpacked or in archives; not used for "glyphs".
    cache_dir: folder for records and decoded arrays, which are written once.
    crop: whether images are cropped to their bounding boxes, where the data set has boxes.
    split_seed: for "folder", the seed that draws the test classes.
    validation_classes: number of training classes held out for validation.
    validation_seed: seed that draws the validation classes; -1 takes the last classes.
    mirrors: URLs to download the data set from, instead of the known ones.
    accept_duplicates: whether one picture may be in several classes, or in training and in test.
    """

    name: str
    dir: str = ""
    cache_dir: str = "data/cache"
    crop: bool = True
    split_seed: int = 0
    validation_classes: int = 0
    validation_seed: int = -1
    mirrors: Sequence[str] = ()
    accept_duplicates: bool = False

    @classmethod
    def from_section(cls, section: Any) -> "Source":
        """The data set that `config.data` describes, a ConfigDict or another mapping from field to value."""
        return cls(**{field: section[field] for field in cls._fields})


def load(source: Source, split: str, side: int) -> arrays.Arrays:
    """Opens a split. If this has not been done before, builds and decodes the data set first.

    Warns when the numbers of images and classes differ from the published ones.

    Args:
      source: the data set.
      split: "train", "test", or "validation": the images of the held-out classes of "train".
      side: side of the stored square images in pixels.

    Raises:
      InputError: the data set or the split is unknown, files are missing or damaged, or one picture has two classes.
    """
    errors.lookup("split", split, dict.fromkeys(_SPLITS))
    opened = _open(source)
    records = opened.root / BUILDERS[source.name].name
    version = _version(records)
    try:
        return _load(source, opened, split, side)
    except DamagedRecords as error:
        errors.warn(f"{error.fact}. They are written again")
        _remove(records, version)
    try:
        return _load(source, opened, split, side)
    except DamagedRecords as error:
        raise errors.InputError(
            f"{error.fact}, although they were just written. Check the disk, or pass another folder.",
            argument="cache_dir",
        ) from error


class _Opened(NamedTuple):
    """A data set before it is read.

    create: creates its builder.
    root: folder of the records and arrays.
    folder: folder of the files that they are made from; None if images are rendered.
    """

    create: Callable[[], tfds.core.DatasetBuilder]
    root: Path
    folder: Path | None


def _open(source: Source) -> _Opened:
    kind = errors.lookup("data set", source.name, BUILDERS, argument="dataset")
    if not source.cache_dir:
        raise errors.InputError("the name of the folder is empty", argument="cache_dir")
    cache, folder, options = to_path(source.cache_dir), None, {}
    try:
        str(cache).encode()
    except UnicodeEncodeError:  # tfds opens files by names in UTF-8
        raise errors.InputError(
            f"the name of the folder {as_text(str(cache))} is not UTF-8. Pass another folder.", argument="cache_dir"
        ) from None
    if kind is glyphs.Glyphs:
        key = glyphs.source_digest()
    else:
        if not source.dir:
            raise errors.InputError(
                f"the name of the folder is empty. Pass the folder that holds the {source.name} data set.",
                argument="dir",
            )
        folder = to_path(source.dir)
        options = {"split_seed": source.split_seed} if kind is Folder else {}
        found = files_below(folder, cache)
        # Records of before lack the pictures with these endings.
        rare = kind is Folder and any(path.name.lower().endswith(RARE_SUFFIXES) for path in found)
        key = f"{digest(folder, found)} {options}{' rare endings' if rare else ''}"
        key = hashlib.sha256(key.encode()).hexdigest()
    root = cache / f"{source.name}-{key[:_DIGEST_LENGTH]}"
    return _Opened(functools.partial(kind, data_dir=root, **options), root, folder)


def _build(source: Source, opened: _Opened) -> tfds.core.DatasetBuilder:
    """Writes the records, unless another process has written them in the meantime."""
    found, builder = None, opened.create()
    if isinstance(builder, PhotographBuilder) and opened.folder is not None:
        # The files are checked before anything is written.
        found = builder.scan(Tree(opened.folder, skip=to_path(source.cache_dir)))
        _verify_published_files(opened.folder)
    try:
        opened.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.InputError(
            f"the folder {opened.root} cannot be created ({error.strerror}). Pass another folder.",
            argument="cache_dir",
        ) from error
    with files.lock(opened.root / ".lock"):
        # A builder knows only of records that existed when it was created, so it is created again.
        builder = opened.create()
        if not builder.data_path.exists():
            print(f"building  {opened.root}")
            for leftover in opened.root.rglob("incomplete.*"):  # left by a process that was killed
                shutil.rmtree(leftover)
            if found and isinstance(builder, PhotographBuilder):
                sizes = map(found.tree.size, itertools.chain(*found.splits.values()))
                files.require_space(opened.root, sum(sizes), "records", argument="cache_dir")
                builder.found = found
                if found.class_names:
                    names.write_published(opened.root, found.class_names)
            config = tfds.download.DownloadConfig(manual_dir=opened.folder)
            with contextlib.redirect_stdout(io.StringIO()):  # tfds prints about downloads, and there are none
                builder.download_and_prepare(download_config=config, file_format="array_record")
    return builder


def _check_duplicates(source: Source, opened: _Opened, builder: tfds.core.DatasetBuilder) -> None:
    """Warns of duplicates. Raises InputError when a picture is in several classes and `source` does not accept it.

    The protocols of benchmarks are fixed, so duplicates in them are accepted.
    """
    if opened.folder is None or not isinstance(builder, PhotographBuilder):
        return
    path = opened.root / "duplicates.json"
    with contextlib.nullcontext() if path.exists() else files.lock(opened.root / ".lock"):
        found = duplicates.load(path, {split: Records(builder, split) for split in ("train", "test")})
    duplicates.judge(found, opened.folder, path, accept=source.accept_duplicates or bool(builder.PROTOCOL))


def _load(source: Source, opened: _Opened, split: str, side: int) -> arrays.Arrays:
    """`load`. Raises DamagedRecords when the records cannot be read."""
    kind = BUILDERS[source.name]
    try:
        builder = opened.create()
    except Exception as error:  # of many kinds, as the damage of dataset_info.json happens to be
        if (opened.root / kind.name).exists():
            reason = " ".join(str(error).split())
            raise DamagedRecords(f"dataset_info.json in {opened.root / kind.name} is damaged ({reason})") from error
        raise
    if not builder.data_path.exists():
        builder = _build(source, opened)
    _check_duplicates(source, opened, builder)
    is_validation = split == "validation"
    stored = "train" if is_validation else split
    records = Records(builder, stored)
    if not len(records):
        raise errors.InputError(
            f"{opened.folder} has no images of the {split} classes of {source.name}. Add them, or pass another folder.",
            argument="dir",
        )
    options = arrays.Options(side, crop=source.crop and kind.BOXES, orient=kind.ORIENT)
    if is_validation:
        labels = np.array([example["label"] for example in records])
        _, held_out = pairs.hold_out(labels, source.validation_classes, source.validation_seed)
        records = Records(builder, "train", held_out)
        split = f"validation{source.validation_classes}"
        split += f"-seed{source.validation_seed}" if source.validation_seed >= 0 else ""
    where = opened.folder or source.name
    name = functools.partial(_name, builder, opened.root)
    try:
        decoded = arrays.load(records, opened.root / "arrays", split, options, name)
    except arrays.DamagedImages as error:
        # The other images are looked at too, so that one run names all that are damaged.
        faults = [] if is_validation else error.faults
        for other in builder.info.splits:
            if is_validation or other != stored:
                faults += arrays.find_faults(Records(builder, other), options, other)
        raise _damage_error(where, sorted(faults), opened.root / "damaged-images.txt") from error
    except errors.InputError as error:
        if error.argument or isinstance(error, DamagedRecords):
            raise
        raise errors.InputError(f"{where}: {error.fact}") from error
    _warn_of_other_counts(source.name, split, _count(decoded), kind.PROTOCOL.get(split))
    folder = arrays.folder(opened.root / "arrays", split, options)
    return decoded._replace(names=names.load(folder, lambda: name(records)))


def _name(builder: tfds.core.DatasetBuilder, root: Path, examples: Iterable[Mapping[str, Any]]) -> names.Names:
    if isinstance(builder.builder_config, glyphs.GlyphsConfig):
        return names.of_glyphs(examples, builder.builder_config.seed)
    return names.of_photographs(examples, names.read_published(root))


def _damage_error(where: Path | str, faults: list[str], listing: Path) -> errors.InputError:
    """The error for damaged images. If there are many, all are listed in the file `listing`."""
    listed = faults[:_MAX_LISTED]
    if len(faults) > _MAX_LISTED:
        files.write_text(listing, "\n".join(faults) + "\n")
        listed.append(f"and {len(faults) - _MAX_LISTED:,} more. All {len(faults):,} are listed in {listing}")
    return errors.InputError("\n  ".join([f"{where}:", *listed]) if listed[1:] else f"{where}: {listed[0]}")


def _version(folder: Path) -> tuple[int, ...]:
    """Differs for a folder that has been replaced."""
    return (folder.stat().st_ino, folder.stat().st_mtime_ns) if folder.exists() else ()


def _remove(records: Path, version: tuple[int, ...]) -> None:
    """Deletes damaged records, which are made of files that are still there, unless they were replaced meanwhile.

    Args:
      records: their folder.
      version: its `_version` before they were found to be damaged.
    """
    try:
        with files.lock(records.parent / ".lock"):
            if version and _version(records) == version:
                shutil.rmtree(records)
    except OSError as error:
        raise errors.InputError(
            f"the damaged records in {records} cannot be replaced ({error.strerror}). Make the folder writable, or "
            "pass another one.",
            argument="cache_dir",
        ) from error


def _verify_published_files(folder: Path) -> None:
    """Warns of files that have the name of a published file and other content."""
    for path in files_below(folder):
        known = sources.published(path.name)
        try:
            reason = download.verify(path, known) if known else ""
        except OSError as error:  # it is not needed: what is needed has been read
            reason = f"it cannot be read ({error.strerror})"
        if reason:
            errors.warn(
                f"{path} is not the published file of that name: {reason}. Results may not be comparable with "
                "published ones"
            )


def _count(decoded: arrays.Arrays) -> Counts:
    queries = 0 if decoded.query is None else int(decoded.query.sum())
    return Counts(len(decoded.labels), len(np.unique(decoded.labels)), queries)


def _warn_of_other_counts(name: str, split: str, found: Counts, protocol: Counts | None) -> None:
    if protocol is None or found == protocol:
        return
    sides = [
        f"{c.images:,} images of {c.classes:,} classes" + (f", {c.queries:,} of them queries" if c.queries else "")
        for c in (found, protocol)
    ]
    errors.warn(
        f"{name} has {sides[0]} in its {split} split, the protocol {sides[1]}. Results are not comparable with "
        "published ones. Check the data folder for missing files"
    )


def to_path(path: str) -> Path:
    """The folder that a field of `Source` names."""
    return Path(path).expanduser().resolve()
