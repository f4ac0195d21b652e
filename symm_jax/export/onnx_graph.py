"""A traced JAX function as an ONNX model.

The function's jaxpr is walked once. Each primitive becomes one ONNX node or a few. What depends on constants alone is
computed at once, so kernels are stored as ONNX wants them. Another primitive than those of `onnx_primitives` is
refused.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import onnx
import onnx.helper
from jax.extend import core

from symm_jax.errors import InputError
from symm_jax.export.onnx_nodes import IMAGES, IR_VERSION, OPSET, Nodes, Value, element_type
from symm_jax.export.onnx_primitives import CONVERTERS

_INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr")  # the parameter of a call, such as of jit, that holds what it calls


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
    nodes = Nodes()
    (result,) = _walk(nodes, closed.jaxpr, closed.consts, [*constants, IMAGES])
    nodes.add("Identity", result, out="embeddings")
    (output,) = closed.out_avals
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            nodes.added,
            "embedder",
            [_describe(IMAGES, images)],
            [_describe("embeddings", output)],
            nodes.initializers,
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="symm_jax",
    )
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def _walk(nodes: Nodes, jaxpr: core.Jaxpr, consts: Sequence[Any], inputs: Sequence[Value]) -> list[Value]:
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
            outputs = _walk(nodes, inner.jaxpr, inner.consts, operands)
        elif name == "optimization_barrier":  # it only orders the work of XLA
            outputs = operands
        elif name in CONVERTERS:
            outputs = [CONVERTERS[name](nodes, equation, *operands)]
        else:
            raise InputError(f"ONNX: the operation {name!r} of JAX is not converted")
        values |= dict(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _describe(name: str, array: Any) -> onnx.ValueInfoProto:
    shape = [d if isinstance(d, int) else str(d) for d in array.shape]
    return onnx.helper.make_tensor_value_info(name, element_type(array.dtype), shape)
