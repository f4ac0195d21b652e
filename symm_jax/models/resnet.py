"""ResNet-50 (He et al., CVPR 2016) as torchvision and timm have it: in a block that halves, the 3x3 has the stride."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from symm_jax.devices import AXIS
from symm_jax.errors import InputError
from symm_jax.models import folded

MEAN_RGB = (0.485, 0.456, 0.406)  # of ImageNet, of values 0..1, as is the deviation
DEVIATION_RGB = (0.229, 0.224, 0.225)
STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))  # channels inside the blocks, blocks
_EPSILON, _MOMENTUM = 1e-5, 0.9  # of the batch norms; the momentum is what PyTorch calls 0.1


class Bottleneck(nn.Module):
    """Narrow with 1x1, convolve with 3x3, widen with 1x1 to four times the channels; plus the input, made to fit."""

    features: int
    stride: int
    norm: Callable[..., nn.Module] | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        options = {"norm": self.norm, "dtype": self.dtype, "param_dtype": self.param_dtype}
        y = nn.relu(folded.Conv(self.features, 1, **options, name="conv1")(x))
        y = nn.relu(folded.Conv(self.features, 3, self.stride, ((1, 1), (1, 1)), **options, name="conv2")(y))
        y = folded.Conv(4 * self.features, 1, **options, name="conv3")(y)
        if x.shape != y.shape:
            x = folded.Conv(4 * self.features, 1, self.stride, **options, name="downsample")(x)
        return nn.relu(x + y)


class ResNet50(nn.Module):
    """The backbone. Its batch norms are frozen and folded into the convolutions, so it is made for pretrained weights.

    Attributes:
      train_batch_norm: keep the batch norms and train them. Where the collection "batch_stats" is mutable, they
        normalise by the batch, which is that of all devices along the axis AXIS, and move its running statistics, by
        which they normalise elsewhere.
      dtype: of the computation.
      param_dtype: of the parameters.
    """

    train_batch_norm: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Raw RGB (n, side, side, 3), 0..255, uint8 or float -> pooled features (n, 2048)."""
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        options["norm"] = self._batch_norm(**options) if self.train_batch_norm else None
        mean, deviation = (jnp.array(x).reshape(1, 1, 1, 3) for x in (MEAN_RGB, DEVIATION_RGB))
        x = ((images.astype(jnp.float32) / 255 - mean) / deviation).astype(self.dtype)
        x = nn.relu(folded.Conv(64, 7, 2, ((3, 3), (3, 3)), **options, name="conv1")(x))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
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
    """Reads a state dict of torchvision or timm from a safetensors file and folds the batch norms.

    Returns:
      The parameters of a ResNet50, float32, kernels HWIO. The classifier is left out.

    Raises:
      InputError: there is no such file, it is none of safetensors, or tensors are missing, misshapen or not finite.
    """
    return folded.load(
        path, _read_safetensors, ResNet50(), functools.partial(folded.fold, names=_names, epsilon=_EPSILON)
    )


def load_resnet50_batch_norm(path: str | Path) -> dict:
    """Reads the same files for a ResNet50 with `train_batch_norm`, and raises the same.

    Returns:
      {"params": ..., "batch_stats": ...}, float32.
    """
    return folded.load(path, _read_safetensors, ResNet50(), functools.partial(folded.keep, names=_names))


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        import safetensors.numpy  # only needed here: the network does not depend on it
    except ImportError as error:
        raise InputError("reading it needs a package: pip install safetensors") from error
    try:
        return safetensors.numpy.load_file(path)
    # A number type that numpy lacks is one of the last two.
    except (safetensors.SafetensorError, KeyError, TypeError) as error:
        raise InputError(f"it cannot be read as a safetensors file ({error})") from error


def _names(path: tuple[str, ...]) -> tuple[str, str]:
    *block, layer = path
    prefix = f"{block[0]}." if block else ""
    if layer == "downsample":
        return f"{prefix}downsample.0", f"{prefix}downsample.1"
    return prefix + layer, prefix + layer.replace("conv", "bn")
