"""Loads model.safetensors with its definition in backbone.py. Needs jax, flax and safetensors."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict
from safetensors import safe_open


def load(path, backbone):
    """Returns a function: uint8 RGB images (n, side, side, 3) -> (n, dim) float32, each row of unit length.

    Args:
      path: model.safetensors.
      backbone: the class `Backbone` of backbone.py.
    """
    with safe_open(path, "flax") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        network = json.loads(file.metadata()["network"])
    dtypes: dict = {"dtype": jnp.dtype(network["dtype"]), "param_dtype": jnp.dtype(network["param_dtype"])}
    model = backbone(**dtypes, **network["options"])
    variables = unflatten_dict(tensors, sep="/")
    layer = variables["params"].pop("embedding", None)
    if layer:  # without it, the embedding is the backbone's pooled features
        variables = {collection: tree["backbone"] for collection, tree in variables.items()}

    @jax.jit
    def embed(images):
        x = model.apply(variables, images)
        if layer:
            x = nn.Dense(layer["bias"].shape[0], **dtypes).apply({"params": layer}, x)
        x = jnp.asarray(x, jnp.float32)
        norms = jnp.linalg.norm(x, axis=1, keepdims=True)
        return x / jnp.maximum(norms, jnp.finfo(jnp.float32).tiny)

    return embed
