"""Data sets: a tfds builder each, decoded once into arrays.

`load(config.data, split, side)` is the way in: it builds what is missing below `config.data.cache_dir`, in a
folder named by a digest of the source, and opens it.
"""

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from symm_jax import errors, files
from symm_jax.data import arrays, cars196, glyphs, pairs

_DIGEST_LENGTH = 16
tfds.disable_progress_bar()


def load(data: Any, split: str, side: int) -> arrays.Arrays:
    """Opens a split of the data set that a config names, building and decoding it first if need be.

    Args:
      data: `config.data`: name, dir, cache_dir, validation_classes.
      split: "train", "test", or "validation": the images of the last `validation_classes` classes of "train".
      side: pixels of the stored square images.

    Raises:
      InputError: the data set is unknown, its source missing or damaged.
    """
    builder, source_dir = create_builder(data)
    root = Path(builder.data_dir).parents[1]
    if not builder.data_path.exists():
        with files.lock(root / ".lock"):
            # Made anew: a builder knows of records only that were there when it was made.
            builder, _ = create_builder(data)
            if not builder.data_path.exists():
                print(f"building  {root}")
                config = tfds.download.DownloadConfig(manual_dir=source_dir)
                with contextlib.redirect_stdout(io.StringIO()):  # tfds speaks of downloads, and there are none
                    builder.download_and_prepare(download_config=config, file_format="array_record")
    of_train = split == "validation"
    source = builder.as_data_source("train" if of_train else split, decoders={"image": tfds.decode.SkipDecoding()})
    if not len(source):
        raise errors.InputError(f"config.data.dir: {source_dir} has no images of the {split} classes of {data.name}")
    if of_train:
        labels = np.array([source[i]["label"] for i in range(len(source))])
        source = _Subset(source, pairs.hold_out(labels, data.validation_classes)[1])
        split = f"validation{data.validation_classes}"
    return arrays.load(source, root / "arrays", split, side)


class _Subset(Sequence):
    def __init__(self, source: Sequence, rows: np.ndarray):
        self._source, self._rows = source, rows

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, index):
        return self._source[int(self._rows[index])]


def create_builder(data: Any) -> tuple[tfds.core.DatasetBuilder, Path | None]:
    """The tfds builder that a config names, not yet prepared, and the folder that it reads (None: no folder)."""
    create = errors.choose("data set in config.data.name", data.name, {"cars196": _cars196, "glyphs": _glyphs})
    return create(data)


def _cars196(data: Any):
    source = Path(data.dir).expanduser().resolve()
    cars196.read_annotations(source)
    return cars196.Cars196(data_dir=_root(data, cars196.source_digest(source))), source


def _glyphs(data: Any):
    return glyphs.Glyphs(data_dir=_root(data, glyphs.source_digest())), None


def _root(data: Any, digest: str) -> Path:
    return Path(data.cache_dir).expanduser().resolve() / f"{data.name}-{digest[:_DIGEST_LENGTH]}"
