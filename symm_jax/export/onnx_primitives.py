"""Each primitive of JAX as one ONNX node or a few.

A converter gets the nodes so far, the equation of the jaxpr and its operands, and returns the result. The set of
primitives is closed: `CONVERTERS` has them all.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from symm_jax.errors import InputError
from symm_jax.export.onnx_nodes import BATCH, IMAGES, Nodes, Value, element_type, int64


def _plain(kind: str) -> Callable[..., Value]:
    return lambda nodes, equation, *x: nodes.add(kind, *x)


def _inverse_root(nodes: Nodes, equation, x):
    return nodes.add("Reciprocal", nodes.add("Sqrt", x))


def _square(nodes: Nodes, equation, x):
    return nodes.add("Mul", x, x)


def _integer_power(nodes: Nodes, equation, x):
    return nodes.add("Pow", x, np.asarray(equation.params["y"], equation.invars[0].aval.dtype))


def _maximum(nodes: Nodes, equation, x, y):
    if isinstance(y, np.ndarray) and y.ndim == 0 and y == 0:
        return nodes.add("Relu", x)
    return nodes.add("Max", x, y)


def _clamp(nodes: Nodes, equation, low, x, high):
    return nodes.add("Min", nodes.add("Max", x, low), high)


def _select(nodes: Nodes, equation, condition, *cases):
    if len(cases) != 2 or equation.invars[0].aval.dtype != bool:
        raise _refusal(equation, "other than by a bool")
    return nodes.add("Where", condition, cases[1], cases[0])


def _convert(nodes: Nodes, equation, x):
    return nodes.add("Cast", x, to=element_type(equation.outvars[0].aval.dtype))


def _reshape(nodes: Nodes, equation, x):
    return nodes.reshape(x, equation.outvars[0].aval.shape)


def _transpose(nodes: Nodes, equation, x):
    return nodes.transpose(x, equation.params["permutation"])


def _broadcast(nodes: Nodes, equation, x):
    shape, kept = equation.outvars[0].aval.shape, equation.params["broadcast_dimensions"]
    operand = equation.invars[0].aval.shape
    lengths = [1] * len(shape)
    for axis, length in zip(kept, operand, strict=True):
        lengths[axis] = length
    x = nodes.reshape(x, lengths)
    if tuple(lengths) == tuple(shape):
        return x
    if any(not isinstance(d, int) and lengths[axis] == 1 for axis, d in enumerate(shape)):
        # The number of images is known when the model runs.
        parts = [int64([d]) if isinstance(d, int) else _batch_size(nodes, equation, d) for d in shape]
        return nodes.add("Expand", x, nodes.add("Concat", *parts, axis=0))
    return nodes.add("Expand", x, int64([d if isinstance(d, int) else 1 for d in shape]))


def _batch_size(nodes: Nodes, equation, symbol) -> Value:
    if str(symbol) != BATCH:
        raise _refusal(equation, f"to the length {symbol}")
    return nodes.add("Shape", IMAGES, start=0, end=1)


def _concatenate(nodes: Nodes, equation, *x):
    return nodes.add("Concat", *x, axis=equation.params["dimension"])


def _slice(nodes: Nodes, equation, x):
    p, shape = equation.params, equation.invars[0].aval.shape
    strides = p["strides"] or (1,) * len(shape)
    return nodes.slice(x, shape, p["start_indices"], p["limit_indices"], strides)


def _gather(nodes: Nodes, equation, x, indices):
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
    return nodes.reshape(nodes.slice(x, shape, starts, limits, [1] * len(shape)), out)


def _pad(nodes: Nodes, equation, x, value):
    sides = equation.params["padding_config"]
    if any(inside or before < 0 or after < 0 for before, after, inside in sides):
        raise _refusal(equation, "with negative padding or padding between elements")
    return nodes.add("Pad", x, int64([*(s[0] for s in sides), *(s[1] for s in sides)]), value)


def _reduction(kind: str) -> Callable[..., Value]:
    return lambda nodes, equation, x: nodes.reduced(kind, x, equation.params["axes"])


def _product(nodes: Nodes, equation, x, y):
    (over_x, over_y), (batch_x, batch_y) = equation.params["dimension_numbers"]
    rank_x, rank_y = (len(atom.aval.shape) for atom in equation.invars)
    if (tuple(over_x), tuple(over_y), batch_x, rank_y) == ((rank_x - 1,), (0,), (), 2):
        return nodes.add("MatMul", x, y)
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    names_x = [next(letters) for _ in range(rank_x)]
    names_y = [next(letters) for _ in range(rank_y)]
    for axis_x, axis_y in zip((*over_x, *batch_x), (*over_y, *batch_y), strict=True):
        names_y[axis_y] = names_x[axis_x]
    rest_x = [name for axis, name in enumerate(names_x) if axis not in (*over_x, *batch_x)]
    rest_y = [name for axis, name in enumerate(names_y) if axis not in (*over_y, *batch_y)]
    result = "".join([*(names_x[axis] for axis in batch_x), *rest_x, *rest_y])
    return nodes.add("Einsum", x, y, equation=f"{''.join(names_x)},{''.join(names_y)}->{result}")


def _convolution(nodes: Nodes, equation, x, kernel):
    p = equation.params
    order_x, order_kernel, order_out = p["dimension_numbers"]
    if p["batch_group_count"] != 1 or set(p["lhs_dilation"]) != {1} or min(sum(p["padding"], ())) < 0:
        raise _refusal(equation, "with batch groups, dilated input or negative padding")
    y = nodes.add(
        "Conv",
        nodes.transpose(x, order_x),
        nodes.transpose(kernel, order_kernel),
        strides=list(p["window_strides"]),
        pads=_pads(p["padding"]),
        dilations=list(p["rhs_dilation"]),
        group=p["feature_group_count"],
    )
    return nodes.transpose(y, np.argsort(order_out).tolist())


def _window(kind: str) -> Callable[..., Value]:
    def convert(nodes: Nodes, equation, x):
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
        y = nodes.add(kind, nodes.transpose(x, order), **options)
        if kind == "AveragePool":  # the mean times the size of the window is the sum
            y = nodes.add("Mul", y, np.asarray(math.prod(window), equation.outvars[0].aval.dtype))
        return nodes.transpose(y, np.argsort(order).tolist())

    return convert


def _pads(sides: Sequence[Sequence[int]]) -> list[int]:
    return [*(int(before) for before, _ in sides), *(int(after) for _, after in sides)]


def _refusal(equation, form: str) -> InputError:
    return InputError(f"ONNX: the operation {equation.primitive.name!r} of JAX is not converted {form}")


_PLAIN = {
    **{"add": "Add", "add_any": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "neg": "Neg", "abs": "Abs"},
    **{"min": "Min", "pow": "Pow", "sqrt": "Sqrt", "exp": "Exp", "log": "Log", "tanh": "Tanh", "erf": "Erf"},
    **{"logistic": "Sigmoid", "floor": "Floor", "sign": "Sign", "copy": "Identity"},
    **{"eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual"},
}
CONVERTERS: Mapping[str, Callable[..., Value]] = {
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
