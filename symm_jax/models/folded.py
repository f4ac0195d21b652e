"""Convolutions whose frozen batch norm is folded into them, or which keep a trainable one, and the readers for both.

A batch norm that only applies its running statistics is a scale and a shift of each channel. Convolution and norm then
are one convolution with bias, and the network is a pure function of one tree of parameters.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from jaxtyping import Array, Float

from symm_jax.dtypes import to_float32
from symm_jax.errors import InputError

_NHWC = ("NHWC", "HWIO", "NHWC")
_NORM = ("weight", "bias", "running_mean", "running_var")


class FoldedConv(nn.Module):
    """Convolution with bias or norm; kernel HWIO.

    A 1x1 convolution is computed as a matrix multiplication, which is several times faster on a CPU.

    Attributes:
      features: number of output channels.
      size: side of the kernel.
      stride: stride in both directions.
      padding: an argument of `lax.conv_general_dilated`. "SAME" is TensorFlow's, which is asymmetric at stride 2.
      norm: creates a module, named "norm", that replaces the bias.
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.
    """

    features: int
    size: int
    stride: int = 1
    padding: Any = "SAME"
    norm: Callable[..., nn.Module] | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n height width channels"]) -> Float[Array, "n height_out width_out features"]:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = jnp.asarray(self.param("kernel", nn.initializers.he_normal(), shape, self.param_dtype), self.dtype)
        if self.size == 1:
            # A slice, where indexing would be a gather, which other formats of networks lack.
            y = jax.lax.slice(x, (0, 0, 0, 0), x.shape, (1, self.stride, self.stride, 1))
            y = jnp.einsum("nhwi,io->nhwo", y, kernel[0, 0])
        else:
            strides = (self.stride, self.stride)
            y = jax.lax.conv_general_dilated(x, kernel, strides, self.padding, dimension_numbers=_NHWC)
        if self.norm:
            return self.norm(name="norm")(y)
        bias = jnp.asarray(self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype), self.dtype)
        return y + bias.reshape(1, 1, 1, -1)


def load(
    path: str | Path,
    read: Callable[[Path], Mapping[str, np.ndarray]],
    backbone: nn.Module,
    convert: Callable[[Mapping[str, np.ndarray], dict], dict],
) -> dict:
    """Reads a file of pretrained weights for a backbone of `FoldedConv` layers.

    Args:
      path: the file.
      read: path -> tensors by name; raises InputError.
      backbone: the backbone with the batch norms folded.
      convert: `fold` or `keep` with its `names`: (tensors, shapes of the backbone's parameters) -> weights.

    Returns:
      The result of `convert`.

    Raises:
      InputError: there is no such file, it cannot be read, or its tensors do not fit.
    """
    path = Path(path).expanduser()
    shapes = jax.eval_shape(backbone.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
    try:
        if not path.is_file():
            raise InputError("there is no such file")
        return convert(read(path), shapes)
    except InputError as error:
        raise InputError(f"{path}: {error}. Download the file again.", argument="pretrained") from error


def fold(
    tensors: Mapping[str, np.ndarray], shapes: dict, names: Callable[[tuple[str, ...]], tuple[str, str]], epsilon: float
) -> dict:
    """Folds the batch norms of a PyTorch state dict into its convolutions.

    Args:
      tensors: the tensors of the file by name; kernels OIHW.
      shapes: the shapes of the backbone's parameters, {layer: {"kernel": ..., "bias": ...}}.
      names: path of a layer in `shapes` -> names of its convolution and its norm in the file.
      epsilon: epsilon of the norms.

    Returns:
      A tree like `shapes`, float32 arrays.

    Raises:
      InputError: tensors are missing, not finite or have wrong shapes, or a variance is negative.
    """
    params = {}
    for layer, arrays in _layers(tensors, shapes, names).items():
        kernel, scale, shift, mean, variance = (x.astype(np.float64) for x in arrays)
        scale = scale / np.sqrt(variance + epsilon)
        params[*layer, "kernel"] = to_float32(kernel * scale)
        params[*layer, "bias"] = to_float32(shift - mean * scale)
        if not all(np.isfinite(params[*layer, kind]).all() for kind in ("kernel", "bias")):
            raise InputError(f"{'/'.join(layer)}: float32 cannot hold the product of its kernel and its norm")
    return unflatten_dict(params)


def keep(tensors: Mapping[str, np.ndarray], shapes: dict, names: Callable[[tuple[str, ...]], tuple[str, str]]) -> dict:
    """Takes the convolutions and batch norms of a PyTorch state dict unchanged, for `FoldedConv` with `nn.BatchNorm`.

    Args:
      tensors: see `fold`.
      shapes: see `fold`: the shapes with the norms folded.
      names: see `fold`.

    Raises:
      InputError: see `fold`.

    Returns:
      {"params": {layer: {"kernel": ..., "norm": {"scale": ..., "bias": ...}}},
      "batch_stats": {layer: {"norm": {"mean": ..., "var": ...}}}}, float32 arrays.
    """
    found = {}
    for layer, arrays in _layers(tensors, shapes, names).items():
        kernel, scale, shift, mean, variance = (x.astype(np.float32) for x in arrays)
        found["params", *layer, "kernel"] = kernel
        found["params", *layer, "norm"] = {"scale": scale, "bias": shift}
        found["batch_stats", *layer, "norm"] = {"mean": mean, "var": variance}
    return unflatten_dict(found)


def _layers(tensors, shapes, names) -> dict[tuple[str, ...], list[np.ndarray]]:
    """{layer: kernel HWIO, and scale, shift, running mean and running variance of its norm}, checked."""
    layers, faults = {}, []
    for keys, like in jax.tree_util.tree_leaves_with_path(shapes):
        *path, kind = (key.key for key in keys)
        if kind == "bias":
            continue
        convolution, norm = names(tuple(path))
        wanted = {f"{convolution}.weight": tuple(like.shape[i] for i in (3, 2, 0, 1))}
        wanted |= {f"{norm}.{part}": (like.shape[-1],) for part in _NORM}
        found = {name: tensors.get(name) for name in wanted}
        wrong = [_fault(name, found[name], shape) for name, shape in wanted.items()]
        if any(wrong):
            faults += filter(None, wrong)
            continue
        kernel, *rest = found.values()
        layers[tuple(path)] = [kernel.transpose(2, 3, 1, 0), *rest]
    if faults:
        raise InputError(f"{len(faults)} tensors do not fit: {'; '.join(faults[:5])}")
    return layers


def _fault(name: str, value: np.ndarray | None, shape: tuple[int, ...]) -> str:
    """The fault of a tensor, or ""."""
    if value is None or value.shape != shape:
        return f"{name} {shape}: {'missing' if value is None else value.shape}"
    if not jnp.issubdtype(value.dtype, jnp.floating) or not np.isfinite(to_float32(value)).all():
        return f"{name} {shape}: not finite real numbers ({value.dtype})"
    if name.endswith("running_var") and value.min() < 0:
        return f"{name}: a variance is negative"
    return ""
