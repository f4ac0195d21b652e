"""GoogLeNet (Szegedy et al., CVPR 2015) in the form of Caffe's ImageNet weights, and the reader of those weights."""

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Num

from symm_jax import matfile
from symm_jax.dtypes import to_device, to_float32
from symm_jax.errors import InputError
from symm_jax.models import layers

MEAN_RGB = (123.69, 116.78, 103.94)
MIN_SIDE = 35  # smaller images leave a pooling layer without input

# Module: channels of 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection.
INCEPTION = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
_POOL_AFTER = ("3b", "4e")


class ConvReLU(nn.Module):
    """Convolution with bias and ReLU, zero-padded so that stride 1 keeps the size; kernel HWIO."""

    features: int
    size: int
    stride: int = 1
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __call__(self, x: Float[Array, "n height width channels"]) -> Float[Array, "n height_out width_out features"]:
        return layers.conv_relu(x, *self.weights(x.shape[-1]), self.stride)

    @nn.compact
    def weights(self, channels: int) -> layers.Weights:
        """The kernel for `channels` channels, and the bias."""
        shape = (self.size, self.size, channels, self.features)
        kernel = jnp.asarray(self.param("kernel", nn.initializers.he_normal(), shape, self.param_dtype), self.dtype)
        bias = jnp.asarray(self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype), self.dtype)
        return kernel, bias


class Inception(nn.Module):
    """Four parallel branches: 1x1; 3x3; 5x5; 3x3 max pool and projection."""

    channels: tuple[int, int, int, int, int, int]
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n height width channels"]) -> Float[Array, "n height width features"]:
        def weights(features, size, channels, name):
            layer = ConvReLU(features, size, dtype=self.dtype, param_dtype=self.param_dtype, name=name)
            return layer.weights(channels)

        n1, reduce3, n3, reduce5, n5, projection = self.channels
        return layers.inception(
            x,
            {
                "1x1": weights(n1, 1, x.shape[-1], "1x1"),
                "3x3_reduce": weights(reduce3, 1, x.shape[-1], "3x3_reduce"),
                "3x3": weights(n3, 3, reduce3, "3x3"),
                "5x5_reduce": weights(reduce5, 1, x.shape[-1], "5x5_reduce"),
                "5x5": weights(n5, 5, reduce5, "5x5"),
                "pool_proj": weights(projection, 1, x.shape[-1], "pool_proj"),
            },
        )


class GoogLeNet(nn.Module):
    """The backbone: 57 convolutions with bias, no batch norm.

    Attributes:
      lrn: "reference" normalises over 11 channels, as the original does; "caffe" normalises over 5.
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.
    """

    lrn: str = "reference"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __call__(self, images: Num[ArrayLike, "n height width 3"]) -> Float[Array, "n features"]:
        """Unnormalised RGB images, 0..255, uint8 or float -> pooled features (n, 1024)."""
        return self.feature_map(images).mean(axis=(1, 2))

    @nn.compact
    def feature_map(self, images: Num[ArrayLike, "n height width 3"]) -> Float[Array, "n rows columns features"]:
        """Images as in `__call__` -> the last feature map, about 1/32 of the height and of the width, 1024 features."""
        images = to_device(images, "images")
        if min(images.shape[1:3]) < MIN_SIDE:
            raise InputError(
                f"googlenet needs images of at least {MIN_SIDE} px, got {images.shape[1:3]}", argument="image_size"
            )
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = (images.astype(jnp.float32) - jnp.array(MEAN_RGB).reshape(1, 1, 1, 3)).astype(self.dtype)
        x = ConvReLU(64, 7, stride=2, **dtypes, name="conv1_7x7_s2")(x)
        x = layers.local_response_norm(layers.max_pool(x, stride=2, padding=(0, 1)), self.lrn)
        x = ConvReLU(64, 1, **dtypes, name="conv2_3x3_reduce")(x)
        x = ConvReLU(192, 3, **dtypes, name="conv2_3x3")(x)
        x = layers.max_pool(layers.local_response_norm(x, self.lrn), stride=2, padding=(0, 0))
        for name, channels in INCEPTION.items():
            x = Inception(channels, **dtypes, name=f"inception_{name}")(x)
            if name in _POOL_AFTER:
                x = layers.max_pool(x, stride=2, padding=(0, 1))
        return x


def load_googlenet_mat(path: str | Path) -> dict:
    """Reads `tf_ckpt_from_caffe.mat`, the ImageNet weights of the original.

    The file holds, for each convolution, "CAFFE NAME" (out, in, height, width) and "CAFFE NAME_bias" (1, out).

    Returns:
      The parameters of a GoogLeNet, float32, kernels HWIO.

    Raises:
      InputError: there is no such file, it is not this weights file, or entries are missing, not finite, or have wrong
        shapes.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f"there is no file {path}", argument="pretrained")
    try:
        entries = matfile.read(path)
    except InputError as error:
        raise InputError(error.fact, argument="pretrained") from error
    shapes = jax.eval_shape(GoogLeNet().init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
    params, faults = {}, []
    for keys, like in jax.tree_util.tree_leaves_with_path(shapes):
        *modules, layer, kind = (key.key for key in keys)
        name = "/".join([*modules, layer]) if modules else layer.replace("_", "/", 1)
        name, stored = (
            (name, [like.shape[i] for i in (3, 2, 0, 1)]) if kind == "kernel" else (f"{name}_bias", [1, *like.shape])
        )
        value = entries.get(name)
        if value is None or list(value.shape) != stored:
            faults.append(f"{name} {tuple(stored)}: {'missing' if value is None else value.shape}")
            continue
        if value.dtype.kind not in "fiu" or not np.isfinite(to_float32(value)).all():
            faults.append(f"{name} {tuple(stored)}: not finite real numbers ({value.dtype})")
            continue
        value = value.transpose(2, 3, 1, 0) if kind == "kernel" else value[0]
        node = params
        for module in (*modules, layer):
            node = node.setdefault(module, {})
        node[kind] = np.asarray(value, np.float32)
    if faults:
        listed = "; ".join(faults[:5])
        raise InputError(
            f"{path}: {len(faults)} entries do not fit: {listed}. Download it again.", argument="pretrained"
        )
    return params
