"""Convolutions whose frozen batch norm is folded into them, or which keep a trainable one, and the readers for both.

A batch norm that only applies its running statistics is a scale and a shift of each channel. Convolution and norm then
are one convolution with bias, and the network is a pure function of one tree of parameters.
"""

import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from jaxtyping import Array, Float

from symm_jax import devices
from symm_jax.dtypes import to_float32
from symm_jax.errors import InputError

Images = Float[Array, "n height width channels"]
ImagesOut = Float[Array, "n height_out width_out channels"]
Kernel = Float[Array, "size size 1 channels"]

_NHWC = ("NHWC", "HWIO", "NHWC")
_NORM = ("weight", "bias", "running_mean", "running_var")
# The gradient of a depthwise kernel is summed over so many images at a time, and output pixels of each. More pixels
# lengthen compilation.
_IMAGES, _PIXELS = 4, 64


class FoldedConv(nn.Module):
    """Convolution with bias or norm; kernel HWIO.

    A 1x1 convolution is computed as a matrix multiplication, which is several times faster on a CPU.

    Attributes:
      features: number of output channels.
      size: side of the kernel.
      stride: stride in both directions.
      padding: an argument of `lax.conv_general_dilated`. "SAME" is TensorFlow's, which is asymmetric at stride 2.
      depthwise: whether each channel is convolved separately; `features` must then equal the number of input channels.
      norm: creates a module, named "norm", that replaces the bias.
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.
    """

    features: int
    size: int
    stride: int = 1
    padding: Any = "SAME"
    depthwise: bool = False
    norm: Callable[..., nn.Module] | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n height width channels"]) -> Float[Array, "n height_out width_out features"]:
        shape = (self.size, self.size, 1 if self.depthwise else x.shape[-1], self.features)
        kernel = jnp.asarray(self.param("kernel", nn.initializers.he_normal(), shape, self.param_dtype), self.dtype)
        if self.depthwise:
            y = depthwise(x, kernel, self.stride)
        elif self.size == 1:
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


def depthwise(x: Images, kernel: Kernel, stride: int) -> ImagesOut:
    """Convolves each channel separately, padded as TensorFlow's "SAME".

    Args:
      x: the images.
      kernel: one weight per position and channel.
      stride: stride in both directions.

    Returns:
      (n, ceil(height / stride), ceil(width / stride), channels).
    """
    # XLA's grouped convolution is fast on a GPU, and about twenty times slower than the shifted sum on a CPU.
    return (depthwise_shifted if devices.platform() == "cpu" else depthwise_grouped)(x, kernel, stride)


def depthwise_grouped(x: Images, kernel: Kernel, stride: int) -> ImagesOut:
    """`depthwise` as one convolution with one group per channel."""
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=_NHWC, feature_group_count=x.shape[-1]
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise_shifted(x: Images, kernel: Kernel, stride: int) -> ImagesOut:
    """`depthwise` as a sum of shifted images, each times one weight per channel. Has no forward-mode derivative."""
    return _shifted(x, kernel, stride)


def _shifted(x: Array, kernel: Array, stride: int) -> Array:
    size = kernel.shape[0]
    x, total = _padded(x, size, stride), jnp.zeros((), x.dtype)
    for position, weight in zip(np.ndindex(size, size), kernel.reshape(size**2, 1, 1, 1, -1), strict=True):
        total = total + _window(x, position, size, stride) * weight
    return total


def _window(x: Array, position: tuple[int, int], size: int, stride: int) -> Array:
    """The pixels of padded images that meet one position of the kernel."""
    rows, columns = (slice(i, x.shape[a] - size + 1 + i, stride) for a, i in enumerate(position, start=1))
    return x[:, rows, columns]


def _padded(x: Array, size: int, stride: int) -> Array:
    sides = jax.lax.padtype_to_pads(x.shape[1:3], (size, size), (stride, stride), "SAME")
    # Stored, because XLA otherwise tests at every read whether it meets the padding.
    return jax.lax.optimization_barrier(jnp.pad(x, ((0, 0), *sides, (0, 0))))


def _forward(x, kernel, stride):
    return _shifted(x, kernel, stride), (x, kernel)


def _backward(stride, residuals, dy):
    x, kernel = residuals
    size = kernel.shape[0]
    if stride == 1 and size % 2:
        dx = _shifted(dy, kernel[::-1, ::-1], 1)
    else:
        (dx,) = jax.vjp(lambda x: _shifted(x, kernel, stride), x)[1](dy)

    return dx, _kernel_gradient(x, dy, size, stride).reshape(kernel.shape).astype(kernel.dtype)


def _kernel_gradient(x: Array, dy: Array, size: int, stride: int) -> Array:
    """(size, size, channels): the sum over all output pixels of the inputs that they meet, times their gradient."""
    (n, height, width, channels), dtype = dy.shape, jnp.promote_types(dy.dtype, jnp.float32)
    # Few rows of an output image at a time: their terms are one sum, which stays in registers.
    rows = max(r for r in range(1, height + 1) if height % r == 0 and (r == 1 or r * width <= _PIXELS))

    def add_images(total, images):
        x, dy = _padded(images[0], size, stride), images[1]

        def add_rows(block, total):
            row = rows * block
            inputs = jax.lax.dynamic_slice_in_dim(x, stride * row, stride * (rows - 1) + size, axis=1).astype(dtype)
            gradients = jax.lax.dynamic_slice_in_dim(dy, row, rows, axis=1)
            for i, j in np.ndindex(rows, width):
                met = inputs[:, stride * i : stride * i + size, stride * j : stride * j + size]
                total = total + met * gradients[:, i, j, None, None]
            return total

        return jax.lax.fori_loop(0, height // rows, add_rows, total), None

    # Few images at a time: padded, they stay in the caches. The processor's cores share them.
    group = math.gcd(n, _IMAGES)
    zeros = jnp.zeros((group, size, size, channels), dtype)
    total, _ = jax.lax.scan(add_images, zeros, tuple(a.reshape(n // group, group, *a.shape[1:]) for a in (x, dy)))
    return total.sum(0)


depthwise_shifted.defvjp(_forward, _backward)


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
