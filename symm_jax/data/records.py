"""Fast random access to the records of a data set that has been built."""

import bisect
import functools
import itertools
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]  # it is compiled

from symm_jax.data.example_proto import Example
from symm_jax.errors import InputError

if TYPE_CHECKING:
    import tensorflow_datasets as tfds  # takes a second, in every process that decodes

# A record is read in the thread that asks for it. Without this, array_record hands each one to another thread, which
# takes longer than to read a small image.
_OPTIONS, _BUFFER = "readahead_buffer_size:0,max_parallelism:0", 2**15
_MAX_REASON = 200  # characters of a library's message that are quoted


class DamagedRecords(InputError):
    """Records are missing or are not those that were written. They can be written again from the data set's files."""


class Records:
    """Examples of one split, random-access and picklable. Each is a dictionary with the builder's features.

    The image stays encoded, as bytes. Text is bytes, numbers and booleans are int, boxes are sequences of int.
    The features' own decoding gives the same values and takes several times as long, which matters for small images.
    The files have checksums, and each record that is read is verified. Only one thread at a time may read.

    Args:
      builder: a builder whose records have been written.
      split: name of the split.
      rows: indices of the examples to give, in this order; None for all.

    Raises:
      DamagedRecords: a file is missing or cut. Reading an example raises it for a damaged record.
    """

    def __init__(self, builder: "tfds.core.DatasetBuilder", split: str, rows: np.ndarray | None = None):
        self._folder = os.fspath(builder.data_path)
        features = cast(Mapping[str, Any], builder.info.features)  # a FeaturesDict
        self._names = set(features)
        self._single = {name for name, feature in features.items() if not feature.shape}
        self._num_classes = getattr(features["label"], "num_classes", None) or 2**31
        try:
            info = builder.info.splits[split]
            # The whole files, because a damaged dataset_info.json may name only a part of them.
            self._paths = [os.fspath(path) for path in info.filepaths]
            self._ends = list(itertools.accumulate(reader.num_records() for reader in self._readers))
            expected = info.num_examples
        except Exception as error:  # RuntimeError, ValueError, KeyError and others, as the two libraries happen to
            raise self._damaged(error) from error
        if self._ends[-1:] != [expected]:
            raise self._damaged(f"the {split} split has {sum(self._ends[-1:])} records instead of {expected}")
        self._rows = range(expected) if rows is None else rows

    @functools.cached_property
    def _readers(self) -> list[Any]:
        return [
            array_record_module.ArrayRecordReader(path, options=_OPTIONS, file_reader_buffer_size=_BUFFER)
            for path in self._paths
        ]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_readers"}

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = int(self._rows[index])
        example = {}
        try:
            for name, feature in Example.FromString(self._read(row)).features.feature.items():
                values = getattr(feature, feature.WhichOneof("kind")).value
                example[name] = values[0] if name == "image" or name in self._single else values
        except Exception as error:  # RuntimeError of array_record, DecodeError of protobuf, TypeError, IndexError
            raise self._damaged(error) from error
        if example.keys() != self._names:
            raise self._damaged(f"record {row} has the features {sorted(example)}")
        if not 0 <= example["label"] < self._num_classes:
            raise self._damaged(f"record {row} has label {example['label']} of {self._num_classes} classes")
        return example

    def _read(self, row: int) -> bytes:
        file = bisect.bisect_right(self._ends, row)
        reader = self._readers[file]
        reader.seek(row - (self._ends[file - 1] if file else 0))
        return reader.read()

    def _damaged(self, reason: Any) -> DamagedRecords:
        words = " ".join(str(reason).split())[:_MAX_REASON]
        return DamagedRecords(f"the records in {self._folder} are damaged ({words or type(reason).__name__})")
