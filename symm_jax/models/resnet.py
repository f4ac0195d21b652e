"""ResNet-50 (He et al., CVPR 2016) as in torchvision and timm: the 3x3 convolution of a block has the stride."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Num

from symm_jax.devices import AXIS
from symm_jax.dtypes import to_device
from symm_jax.errors import InputError
from symm_jax.models import folded

MEAN_RGB = (0.485, 0.456, 0.406)  # mean and standard deviation of ImageNet, for values 0..1
DEVIATION_RGB = (0.229, 0.224, 0.225)
STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))  # channels inside the blocks, blocks
_EPSILON, _MOMENTUM = 1e-5, 0.9  # of the batch norms; PyTorch calls this momentum 0.1


class Bottleneck(nn.Module):
    """1x1 reduction, 3x3 convolution, 1x1 expansion to four times the channels; plus the input, projected if needed."""

    features: int
    stride: int
    norm: Callable[..., nn.Module] | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n height width channels"]) -> Float[Array, "n height_out width_out features"]:
        options = {"norm": self.norm, "dtype": self.dtype, "param_dtype": self.param_dtype}
        y = nn.relu(folded.FoldedConv(self.features, 1, **options, name="conv1")(x))
        y = nn.relu(folded.FoldedConv(self.features, 3, self.stride, ((1, 1), (1, 1)), **options, name="conv2")(y))
        y = folded.FoldedConv(4 * self.features, 1, **options, name="conv3")(y)
        if x.shape != y.shape:
            x = folded.FoldedConv(4 * self.features, 1, self.stride, **options, name="downsample")(x)
        return nn.relu(x + y)


class ResNet50(nn.Module):
    """The backbone. By default, batch norms are frozen and folded into the convolutions: it needs pretrained weights.

    Attributes:
      train_batch_norm: keep the batch norms and train them. If the collection "batch_stats" is mutable, they normalise
        by the statistics of the whole batch, on all devices along the axis AXIS, and update the running statistics.
        Otherwise they normalise by the running statistics.
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.
    """

    train_batch_norm: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Num[ArrayLike, "n height width 3"]) -> Float[Array, "n features"]:
        """Unnormalised RGB images, 0..255, uint8 or float -> pooled features (n, 2048)."""
        images = to_device(images, "images")
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        options["norm"] = self._batch_norm(**options) if self.train_batch_norm else None
        mean, deviation = (jnp.array(x).reshape(1, 1, 1, 3) for x in (MEAN_RGB, DEVIATION_RGB))
        x = ((images.astype(jnp.float32) / 255 - mean) / deviation).astype(self.dtype)
        x = nn.relu(folded.FoldedConv(64, 7, 2, ((3, 3), (3, 3)), **options, name="conv1")(x))
        padding: Any = ((1, 1), (1, 1))  # Linen's annotation has only str
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=padding)
        for stage, (features, blocks) in enumerate(STAGES, 1):
            for block in range(blocks):
                stride = 2 if stage > 1 and not block else 1
                x = Bottleneck(features, stride, **options, name=f"layer{stage}.{block}")(x)
        return x.mean(axis=(1, 2))

    def _batch_norm(self, **dtypes) -> Callable[..., nn.Module]:
        return functools.partial(
            nn.BatchNorm,
            use_running_average=not self.is_mutable_collection("batch_stats"),
            momentum=_MOMENTUM,
            epsilon=_EPSILON,
            axis_name=AXIS,
            **dtypes,
        )


def load_resnet50(path: str | Path) -> dict:
    """Reads a state dict of torchvision or timm from a safetensors file, and folds the batch norms.

    Returns:
      The parameters of a ResNet50, float32, kernels HWIO. The classifier is left out.

    Raises:
      InputError: there is no such file, it is not a safetensors file, or tensors are missing, not finite or have wrong
        shapes.
    """
    return folded.load(
        path, _read_safetensors, ResNet50(), functools.partial(folded.fold, names=_names, epsilon=_EPSILON)
    )


def load_resnet50_batch_norm(path: str | Path) -> dict:
    """Reads the files of `load_resnet50` for a ResNet50 with `train_batch_norm`.

    Returns:
      {"params": ..., "batch_stats": ...}, float32.

    Raises:
      InputError: see `load_resnet50`.
    """
    return folded.load(path, _read_safetensors, ResNet50(), functools.partial(folded.keep, names=_names))


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        import safetensors.numpy  # only needed here: the network does not depend on it
    except ImportError as error:
        raise InputError("a package is needed to read it. Run: pip install safetensors") from error
    try:
        return safetensors.numpy.load_file(path)
    # The last two are raised for number types that NumPy does not have.
    except (safetensors.SafetensorError, KeyError, TypeError) as error:
        raise InputError(f"it cannot be read as a safetensors file ({error})") from error


def _names(path: tuple[str, ...]) -> tuple[str, str]:
    *block, layer = path
    prefix = f"{block[0]}." if block else ""
    if layer == "downsample":
        return f"{prefix}downsample.0", f"{prefix}downsample.1"
    return prefix + layer, prefix + layer.replace("conv", "bn")
