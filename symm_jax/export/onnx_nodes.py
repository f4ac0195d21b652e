"""The nodes and constants of an ONNX graph, as they are added one after the other."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.reference

OPSET, IR_VERSION = 18, 8  # onnxruntime 1.14 and later read them
IMAGES = "images"  # the name of the input
BATCH = "n"  # the number of images, any
Value = np.ndarray | str  # a constant, or the name of a tensor


class Nodes:
    """The nodes and constants so far."""

    def __init__(self):
        self.added: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def add(self, kind: str, *operands: Value, out: str = "", **attributes: Any) -> Value:
        """Adds a node with one output. Of constants alone, the value is computed instead."""
        if not out and all(isinstance(x, np.ndarray) for x in operands):
            names = [f"x{i}" for i in range(len(operands))]
            single = onnx.helper.make_node(kind, names, ["y"], **attributes)
            inputs = dict(zip(names, operands, strict=True))
            results: Any = onnx.reference.ReferenceEvaluator(single, opsets={"": OPSET}).run(None, inputs)
            return np.asarray(results[0])
        out = out or f"t{len(self.added)}"
        names = [self._name(x) for x in operands]
        self.added.append(onnx.helper.make_node(kind, names, [out], **attributes))
        return out

    def _name(self, value: Value) -> str:
        if isinstance(value, str):
            return value
        name = f"c{len(self.initializers)}"
        self.initializers.append(onnx.numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name))
        return name

    def transpose(self, x: Value, order: Sequence[int]) -> Value:
        return x if list(order) == sorted(order) else self.add("Transpose", x, perm=list(order))

    def reshape(self, x: Value, shape: Sequence[Any]) -> Value:
        """Reshapes. At most one length may be a symbol."""
        return self.add("Reshape", x, int64([d if isinstance(d, int) else -1 for d in shape]))

    def slice(self, x: Value, shape: Sequence[Any], starts: Sequence[Any], limits: Sequence[Any], strides) -> Value:
        """Slices the axes that are not taken whole."""
        cut = [
            axis for axis, length in enumerate(shape) if (starts[axis], limits[axis], strides[axis]) != (0, length, 1)
        ]
        if not cut:
            return x
        first, end, step = (int64([values[axis] for axis in cut]) for values in (starts, limits, strides))
        return self.add("Slice", x, first, end, int64(cut), step)

    def reduced(self, kind: str, x: Value, axes: Sequence[int]) -> Value:
        return self.add(kind, x, int64(axes), keepdims=0)


def int64(values: Sequence[Any]) -> np.ndarray:
    """Integers as ONNX wants shapes and axes."""
    return np.array([int(x) for x in values], np.int64)


def element_type(dtype) -> int:
    """ONNX's number of a NumPy dtype."""
    return onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
