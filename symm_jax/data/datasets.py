"""The data sets by name: fetched, built and decoded when first asked for, below `config.data.cache_dir`."""

import contextlib
import functools
import hashlib
import io
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from symm_jax import errors, files
from symm_jax.data import archives, arrays, download, glyphs, pairs, sources
from symm_jax.data.builder import Counts
from symm_jax.data.cars196 import Cars196
from symm_jax.data.cub200_2011 import Cub2002011
from symm_jax.data.folder import Folder
from symm_jax.data.inshop import Inshop
from symm_jax.data.records import Records
from symm_jax.data.sop import Sop
from symm_jax.data.tree import Tree, digest, files_below

BUILDERS = {
    "cars196": Cars196,
    "cub200_2011": Cub2002011,
    "sop": Sop,
    "inshop": Inshop,
    "folder": Folder,
    "glyphs": glyphs.Glyphs,
}
_DIGEST_LENGTH = 16
tfds.disable_progress_bar()


def load(data: Any, split: str, side: int) -> arrays.Arrays:
    """Opens a split of the data set that a config names, building and decoding it first if need be.

    Warns when the split has not the images and classes that it has in the literature.

    Args:
      data: `config.data`: name, dir, cache_dir, crop, split_seed, validation_classes.
      split: "train", "test", or "validation": the images of the last `validation_classes` classes of "train".
      side: pixels of the stored square images.

    Raises:
      InputError: the data set is unknown, its source missing or damaged.
    """
    opened = _open(data)
    builder = opened.create()
    if not builder.data_path.exists():
        builder = _build(data, opened)
    of_train = split == "validation"
    source = Records(builder, "train" if of_train else split)
    if not len(source):
        raise errors.InputError(f"config.data.dir: {opened.source} has no images of the {split} classes of {data.name}")
    kind = BUILDERS[data.name]
    options = arrays.Options(side, crop=data.crop and kind.BOXES, orient=kind.ORIENT)
    if of_train:
        labels = np.array([source[i]["label"] for i in range(len(source))])
        source = Records(builder, "train", pairs.hold_out(labels, data.validation_classes)[1])
        split = f"validation{data.validation_classes}"
    try:
        decoded = arrays.load(source, opened.root / "arrays", split, options)
    except errors.InputError as error:
        raise errors.InputError(f"{opened.source or data.name}: {error}") from error
    _compare(data.name, split, _counts(decoded), kind.PROTOCOL.get(split))
    return decoded


def fetch(data: Any) -> None:
    """Downloads the data set that a config names into `data.dir`, unless files are there that no download left.

    Raises:
      InputError: it cannot be fetched.
    """
    remotes = sources.remotes(data.name, data.mirrors)
    if remotes and {path.name for path in files_below(_folder(data.dir))} <= {remote.name for remote in remotes}:
        for remote in remotes:
            path = download.fetch(remote, _folder(data.dir))
            if not (remote.sha256 or remote.git_blob) and archives.is_archive(path.name):
                _require_whole(path)


def _require_whole(path: Path) -> None:
    """Keeps an archive aside, as NAME.wrong, that has no published digest and cannot be read, for the next try."""
    try:
        archives.members(path)
    except errors.InputError as error:
        aside = path.replace(path.with_name(f"{path.name}.wrong"))
        raise errors.InputError(
            f"{error}; what was downloaded is now {aside}, and the next run fetches it again"
        ) from error


class _Opened(NamedTuple):
    create: Callable[[], tfds.core.DatasetBuilder]
    root: Path  # of what is made of it
    source: Path | None  # what it is made of; None: it is drawn


def _open(data: Any) -> _Opened:
    kind = errors.choose("data set in config.data.name", data.name, BUILDERS)
    cache, source, options = _folder(data.cache_dir), None, {}
    if kind is glyphs.Glyphs:
        of_source = glyphs.source_digest()
    else:
        if not data.dir:
            raise errors.InputError(f"config.data.dir is empty; name the folder that holds the {data.name} data set")
        source = _folder(data.dir)
        options = {"split_seed": data.split_seed} if kind is Folder else {}
        of_source = hashlib.sha256(f"{digest(source, skip=cache)} {options}".encode()).hexdigest()
    root = cache / f"{data.name}-{of_source[:_DIGEST_LENGTH]}"
    return _Opened(functools.partial(kind, data_dir=root, **options), root, source)


def _build(data: Any, opened: _Opened) -> tfds.core.DatasetBuilder:
    """Makes the records, unless another process does so meanwhile."""
    found = None
    if opened.source is not None:  # before anything is written
        found = opened.create().scan(Tree(opened.source, skip=_folder(data.cache_dir)))
        _verify(opened.source)
    try:
        opened.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.InputError(
            f"config.data.cache_dir: {opened.root} cannot be made ({error.strerror}); pass another folder"
        ) from error
    with files.lock(opened.root / ".lock"):
        # Made anew: a builder knows only of records that were there when it was made.
        builder = opened.create()
        if not builder.data_path.exists():
            print(f"building  {opened.root}")
            for leftover in opened.root.rglob("incomplete.*"):  # of a process that was killed
                shutil.rmtree(leftover)
            if found:
                sizes = map(found.tree.size, itertools.chain(*found.splits.values()))
                files.require_space(opened.root, sum(sizes), "records")
            builder.found = found
            config = tfds.download.DownloadConfig(manual_dir=opened.source)
            with contextlib.redirect_stdout(io.StringIO()):  # tfds speaks of downloads, and there are none
                builder.download_and_prepare(download_config=config, file_format="array_record")
    return builder


def _verify(source: Path) -> None:
    """Warns of files that are called like published ones and are others."""
    for path in files_below(source):
        known = sources.published(path.name)
        if known and (reason := download.verify(path, known)):
            errors.warn(f"{path} is not the published file of that name: {reason}")


def _counts(decoded: arrays.Arrays) -> Counts:
    queries = 0 if decoded.query is None else int(decoded.query.sum())
    return Counts(len(decoded.labels), len(np.unique(decoded.labels)), queries)


def _compare(name: str, split: str, found: Counts, protocol: Counts | None) -> None:
    if protocol is None or found == protocol:
        return
    sides = [
        f"{c.images:,} images of {c.classes:,} classes" + (f", {c.queries:,} of them queries" if c.queries else "")
        for c in (found, protocol)
    ]
    errors.warn(
        f"{name} has {sides[0]} in its {split} split, the protocol {sides[1]}: figures are not those of the whole set"
    )


def _folder(path: str) -> Path:
    return Path(path).expanduser().resolve()
