"""A traced JAX function as an ONNX model.

The function's jaxpr is walked once. Each primitive becomes one ONNX node or a few. What depends on constants alone is
computed at once, so kernels are stored as ONNX wants them. The set of primitives is closed: another one is refused.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.reference
from jax.extend import core

from symm_jax.errors import InputError

OPSET, IR_VERSION = 18, 8  # onnxruntime 1.14 and later read them
BATCH = "n"  # the number of images, any
Value = np.ndarray | str  # a constant, or the name of a tensor


def convert(function: Callable[[Any, Any], Any], variables: Any, images: jax.ShapeDtypeStruct) -> bytes:
    """Converts a function of one network.

    Args:
      function: (variables, images) -> an array.
      variables: a tree of arrays; float32.
      images: shape and dtype. The first axis may be a symbol of jax.export.

    Returns:
      An ONNX file with the input "images" and the output "embeddings".

    Raises:
      InputError: the function has a primitive, or a form of one, that is not converted. The message names it.
    """
    closed = jax.make_jaxpr(function)(variables, images)
    constants = [np.asarray(x) for x in jax.tree.leaves(variables)]
    graph = _Graph()
    (result,) = graph.run(closed.jaxpr, closed.consts, [*constants, "images"])
    graph.node("Identity", result, out="embeddings")
    (output,) = closed.out_avals
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            "embedder",
            [_describe("images", images)],
            [_describe("embeddings", output)],
            graph.initializers,
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="symm_jax",
    )
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


class _Graph:
    """The nodes and constants so far."""

    def __init__(self):
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def run(self, jaxpr: core.Jaxpr, consts: Sequence[Any], inputs: Sequence[Value]) -> list[Value]:
        """Adds the nodes of a jaxpr. Returns its outputs."""
        values: dict[Any, Value] = dict(zip(jaxpr.constvars, map(np.asarray, consts), strict=True))
        values |= dict(zip(jaxpr.invars, inputs, strict=True))

        def read(atom) -> Value:
            if not isinstance(atom, core.Literal):
                return values[atom]
            described: Any = atom.aval
            return np.asarray(atom.val, described.dtype)

        for equation in jaxpr.eqns:
            name = equation.primitive.name
            operands = [read(atom) for atom in equation.invars]
            inner = next((equation.params[key] for key in _INNER if key in equation.params), None)
            if isinstance(inner, core.ClosedJaxpr):  # a call
                outputs = self.run(inner.jaxpr, inner.consts, operands)
            elif name == "optimization_barrier":  # it only orders the work of XLA
                outputs = operands
            elif name in _CONVERTERS:
                outputs = [_CONVERTERS[name](self, equation, *operands)]
            else:
                raise InputError(f"ONNX: the operation {name!r} of JAX is not converted")
            values |= dict(zip(equation.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def node(self, kind: str, *operands: Value, out: str = "", **attributes: Any) -> Value:
        """Adds a node with one output. Of constants alone, the value is computed instead."""
        if not out and all(isinstance(x, np.ndarray) for x in operands):
            names = [f"x{i}" for i in range(len(operands))]
            single = onnx.helper.make_node(kind, names, ["y"], **attributes)
            inputs = dict(zip(names, operands, strict=True))
            results: Any = onnx.reference.ReferenceEvaluator(single, opsets={"": OPSET}).run(None, inputs)
            return np.asarray(results[0])
        out = out or f"t{len(self.nodes)}"
        names = [self._name(x) for x in operands]
        self.nodes.append(onnx.helper.make_node(kind, names, [out], **attributes))
        return out

    def _name(self, value: Value) -> str:
        if isinstance(value, str):
            return value
        name = f"c{len(self.initializers)}"
        self.initializers.append(onnx.numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name))
        return name

    def transpose(self, x: Value, order: Sequence[int]) -> Value:
        return x if list(order) == sorted(order) else self.node("Transpose", x, perm=list(order))

    def reshape(self, x: Value, shape: Sequence[Any]) -> Value:
        """Reshapes. At most one length may be a symbol."""
        return self.node("Reshape", x, _int64([d if isinstance(d, int) else -1 for d in shape]))

    def slice(self, x: Value, shape: Sequence[Any], starts: Sequence[Any], limits: Sequence[Any], strides) -> Value:
        """Slices the axes that are not taken whole."""
        cut = [
            axis for axis, length in enumerate(shape) if (starts[axis], limits[axis], strides[axis]) != (0, length, 1)
        ]
        if not cut:
            return x
        first, end, step = (_int64([values[axis] for axis in cut]) for values in (starts, limits, strides))
        return self.node("Slice", x, first, end, _int64(cut), step)

    def reduced(self, kind: str, x: Value, axes: Sequence[int]) -> Value:
        return self.node(kind, x, _int64(axes), keepdims=0)


def _plain(kind: str) -> Callable[..., Value]:
    return lambda graph, equation, *x: graph.node(kind, *x)


def _inverse_root(graph: _Graph, equation, x):
    return graph.node("Reciprocal", graph.node("Sqrt", x))


def _square(graph: _Graph, equation, x):
    return graph.node("Mul", x, x)


def _integer_power(graph: _Graph, equation, x):
    return graph.node("Pow", x, np.asarray(equation.params["y"], equation.invars[0].aval.dtype))


def _maximum(graph: _Graph, equation, x, y):
    if isinstance(y, np.ndarray) and y.ndim == 0 and y == 0:
        return graph.node("Relu", x)
    return graph.node("Max", x, y)


def _clamp(graph: _Graph, equation, low, x, high):
    return graph.node("Min", graph.node("Max", x, low), high)


def _select(graph: _Graph, equation, condition, *cases):
    if len(cases) != 2 or equation.invars[0].aval.dtype != bool:
        raise _refusal(equation, "other than by a bool")
    return graph.node("Where", condition, cases[1], cases[0])


def _convert(graph: _Graph, equation, x):
    return graph.node("Cast", x, to=_element_type(equation.outvars[0].aval.dtype))


def _reshape(graph: _Graph, equation, x):
    return graph.reshape(x, equation.outvars[0].aval.shape)


def _transpose(graph: _Graph, equation, x):
    return graph.transpose(x, equation.params["permutation"])


def _broadcast(graph: _Graph, equation, x):
    shape, kept = equation.outvars[0].aval.shape, equation.params["broadcast_dimensions"]
    operand = equation.invars[0].aval.shape
    lengths = [1] * len(shape)
    for axis, length in zip(kept, operand, strict=True):
        lengths[axis] = length
    x = graph.reshape(x, lengths)
    if tuple(lengths) == tuple(shape):
        return x
    if any(not isinstance(d, int) and lengths[axis] == 1 for axis, d in enumerate(shape)):
        # The number of images is known when the model runs.
        parts = [_int64([d]) if isinstance(d, int) else _batch_size(graph, equation, d) for d in shape]
        return graph.node("Expand", x, graph.node("Concat", *parts, axis=0))
    return graph.node("Expand", x, _int64([d if isinstance(d, int) else 1 for d in shape]))


def _batch_size(graph: _Graph, equation, symbol) -> Value:
    if str(symbol) != BATCH:
        raise _refusal(equation, f"to the length {symbol}")
    return graph.node("Shape", "images", start=0, end=1)


def _concatenate(graph: _Graph, equation, *x):
    return graph.node("Concat", *x, axis=equation.params["dimension"])


def _slice(graph: _Graph, equation, x):
    p, shape = equation.params, equation.invars[0].aval.shape
    strides = p["strides"] or (1,) * len(shape)
    return graph.slice(x, shape, p["start_indices"], p["limit_indices"], strides)


def _gather(graph: _Graph, equation, x, indices):
    """Slices at constant indices, as x[:, :8, 3] is traced where an axis is a symbol."""
    p, shape = equation.params, equation.invars[0].aval.shape
    numbers, lengths = p["dimension_numbers"], p["slice_sizes"]
    out = equation.outvars[0].aval.shape
    if not isinstance(indices, np.ndarray) or indices.ndim != 1 or len(numbers.offset_dims) != len(out):
        raise _refusal(equation, "other than for slices. Cut with jax.lax.slice")
    starts = [0] * len(shape)
    for axis, start in zip(numbers.start_index_map, indices, strict=True):
        starts[axis] = int(start)
    limits = [
        shape[axis] if lengths[axis] == shape[axis] else start + lengths[axis] for axis, start in enumerate(starts)
    ]
    return graph.reshape(graph.slice(x, shape, starts, limits, [1] * len(shape)), out)


def _pad(graph: _Graph, equation, x, value):
    sides = equation.params["padding_config"]
    if any(inside or before < 0 or after < 0 for before, after, inside in sides):
        raise _refusal(equation, "with negative padding or padding between elements")
    return graph.node("Pad", x, _int64([*(s[0] for s in sides), *(s[1] for s in sides)]), value)


def _reduction(kind: str) -> Callable[..., Value]:
    return lambda graph, equation, x: graph.reduced(kind, x, equation.params["axes"])


def _product(graph: _Graph, equation, x, y):
    (over_x, over_y), (batch_x, batch_y) = equation.params["dimension_numbers"]
    rank_x, rank_y = (len(atom.aval.shape) for atom in equation.invars)
    if (tuple(over_x), tuple(over_y), batch_x, rank_y) == ((rank_x - 1,), (0,), (), 2):
        return graph.node("MatMul", x, y)
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    names_x = [next(letters) for _ in range(rank_x)]
    names_y = [next(letters) for _ in range(rank_y)]
    for axis_x, axis_y in zip((*over_x, *batch_x), (*over_y, *batch_y), strict=True):
        names_y[axis_y] = names_x[axis_x]
    rest_x = [name for axis, name in enumerate(names_x) if axis not in (*over_x, *batch_x)]
    rest_y = [name for axis, name in enumerate(names_y) if axis not in (*over_y, *batch_y)]
    result = "".join([*(names_x[axis] for axis in batch_x), *rest_x, *rest_y])
    return graph.node("Einsum", x, y, equation=f"{''.join(names_x)},{''.join(names_y)}->{result}")


def _convolution(graph: _Graph, equation, x, kernel):
    p = equation.params
    order_x, order_kernel, order_out = p["dimension_numbers"]
    if p["batch_group_count"] != 1 or set(p["lhs_dilation"]) != {1} or min(sum(p["padding"], ())) < 0:
        raise _refusal(equation, "with batch groups, dilated input or negative padding")
    y = graph.node(
        "Conv",
        graph.transpose(x, order_x),
        graph.transpose(kernel, order_kernel),
        strides=list(p["window_strides"]),
        pads=_pads(p["padding"]),
        dilations=list(p["rhs_dilation"]),
        group=p["feature_group_count"],
    )
    return graph.transpose(y, np.argsort(order_out).tolist())


def _window(kind: str) -> Callable[..., Value]:
    def convert(graph: _Graph, equation, x):
        p = equation.params
        window, strides, padding = p["window_dimensions"], p["window_strides"], p["padding"]
        trivial = [
            w == 1 and s == 1 and tuple(pads) == (0, 0) for w, s, pads in zip(window, strides, padding, strict=True)
        ]
        if len(window) != 4 or sum(trivial) < 2 or {*p["base_dilation"], *p["window_dilation"]} != {1}:
            raise _refusal(equation, "over more than two axes of four, or dilated")
        first = [axis for axis in range(4) if trivial[axis]][:2]  # takes the places of batch and channels
        order = [*first, *(axis for axis in range(4) if axis not in first)]
        options = {
            "kernel_shape": [window[axis] for axis in order[2:]],
            "strides": [strides[axis] for axis in order[2:]],
            "pads": _pads([padding[axis] for axis in order[2:]]),
        }
        if kind == "AveragePool":
            options["count_include_pad"] = 1
        y = graph.node(kind, graph.transpose(x, order), **options)
        if kind == "AveragePool":  # the mean times the size of the window is the sum
            y = graph.node("Mul", y, np.asarray(math.prod(window), equation.outvars[0].aval.dtype))
        return graph.transpose(y, np.argsort(order).tolist())

    return convert


def _pads(sides: Sequence[Sequence[int]]) -> list[int]:
    return [*(int(before) for before, _ in sides), *(int(after) for _, after in sides)]


def _int64(values: Sequence[Any]) -> np.ndarray:
    return np.array([int(x) for x in values], np.int64)


def _element_type(dtype) -> int:
    return onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def _describe(name: str, array: Any) -> onnx.ValueInfoProto:
    shape = [d if isinstance(d, int) else str(d) for d in array.shape]
    return onnx.helper.make_tensor_value_info(name, _element_type(array.dtype), shape)


def _refusal(equation, form: str) -> InputError:
    return InputError(f"ONNX: the operation {equation.primitive.name!r} of JAX is not converted {form}")


_INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr")  # the parameter of a call, such as of jit, that holds what it calls
_PLAIN = {
    **{"add": "Add", "add_any": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "neg": "Neg", "abs": "Abs"},
    **{"min": "Min", "pow": "Pow", "sqrt": "Sqrt", "exp": "Exp", "log": "Log", "tanh": "Tanh", "erf": "Erf"},
    **{"logistic": "Sigmoid", "floor": "Floor", "sign": "Sign", "copy": "Identity"},
    **{"eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual"},
}
_CONVERTERS: Mapping[str, Callable[..., Value]] = {
    **{name: _plain(kind) for name, kind in _PLAIN.items()},
    "rsqrt": _inverse_root,
    "square": _square,
    "integer_pow": _integer_power,
    "max": _maximum,
    "clamp": _clamp,
    "select_n": _select,
    "convert_element_type": _convert,
    "reshape": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "slice": _slice,
    "gather": _gather,
    "pad": _pad,
    "reduce_sum": _reduction("ReduceSum"),
    "reduce_max": _reduction("ReduceMax"),
    "reduce_min": _reduction("ReduceMin"),
    "dot_general": _product,
    "conv_general_dilated": _convolution,
    "reduce_window_max": _window("MaxPool"),
    "reduce_window_sum": _window("AveragePool"),
}
