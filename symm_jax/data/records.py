"""Fast random access to the records of a data set that has been built."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2


class Records:
    """Examples of one split, random-access and picklable. Each is a dictionary with the builder's features.

    The image stays encoded, as bytes. Text is bytes, numbers and booleans are int, boxes are sequences of int.
    The features' own decoding gives the same values and takes several times as long, which matters for small images.

    Args:
      builder: a builder whose records have been written.
      split: name of the split.
      rows: indices of the examples to give, in this order; None for all.
    """

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str, rows: np.ndarray | None = None):
        read_raw: Any = builder.as_data_source  # tfds's decorators hide its signature from type checkers
        self._source = read_raw(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
        self._rows = range(len(self._source)) if rows is None else rows
        features = cast(Mapping[str, Any], builder.info.features)  # a FeaturesDict
        self._single = {name for name, feature in features.items() if not feature.shape}

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> dict[str, Any]:
        message = tf_example_pb2.Example  # pyright: ignore[reportAttributeAccessIssue]  protobuf makes it at run time
        features = message.FromString(self._source[int(self._rows[index])]).features.feature
        example = {}
        for name, feature in features.items():
            values = getattr(feature, feature.WhichOneof("kind")).value
            example[name] = values[0] if name == "image" or name in self._single else values
        return example
