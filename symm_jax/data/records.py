"""The records of a built data set, read fast."""

from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2


class Records(Sequence):
    """Examples of one split, random-access and picklable: each a dictionary with the builder's features.

    The image is left encoded, as bytes; text is bytes, numbers and truth values are int, boxes are sequences of int.
    The features' own decoding does the same and takes several times as long, which counts for small images.

    Args:
      builder: a builder whose records have been made.
      split: name of the split.
      rows: which of its examples, in which order; None for all.
    """

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str, rows: np.ndarray | None = None):
        self._source = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
        self._rows = range(len(self._source)) if rows is None else rows
        self._single = {name for name, feature in builder.info.features.items() if not feature.shape}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict:
        features = tf_example_pb2.Example.FromString(self._source[int(self._rows[index])]).features.feature
        example = {}
        for name, feature in features.items():
            values = getattr(feature, feature.WhichOneof("kind")).value
            example[name] = values[0] if name == "image" or name in self._single else values
        return example
