"""ResNet-50 in Flax, batch norms folded or kept, as model.safetensors has its parameters."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, for values 0 to 1
STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))  # channels inside the blocks, blocks


class Conv(nn.Module):
    """Convolution with bias, or with a batch norm by its running statistics."""

    features: int
    size: int
    stride: int
    norm: bool
    dtypes: Any

    @nn.compact
    def __call__(self, x):
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape, self.dtypes["param_dtype"])
        pad, strides = (self.size // 2, self.size // 2), (self.stride, self.stride)
        kernel, layout = kernel.astype(self.dtypes["dtype"]), ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, kernel, strides, (pad, pad), dimension_numbers=layout)
        if self.norm:
            return nn.BatchNorm(use_running_average=True, epsilon=1e-5, **self.dtypes, name="norm")(x)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.dtypes["param_dtype"])
        return x + bias.astype(x.dtype)


class Backbone(nn.Module):
    """uint8 RGB (n, side, side, 3) -> features (n, 2048)."""

    train_batch_norm: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images):
        def conv(x, features, size, stride, name):
            return Conv(features, size, stride, self.train_batch_norm, dtypes, name=name)(x)

        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = ((images.astype(jnp.float32) / 255 - jnp.array(MEAN)) / jnp.array(DEVIATION)).astype(self.dtype)
        padding: Any = ((1, 1), (1, 1))
        x = nn.max_pool(nn.relu(conv(x, 64, 7, 2, "conv1")), (3, 3), strides=(2, 2), padding=padding)
        for stage, (features, blocks) in enumerate(STAGES, 1):
            for block in range(blocks):
                stride = 2 if stage > 1 and not block else 1
                x = Bottleneck(features, stride, self.train_batch_norm, dtypes, name=f"layer{stage}.{block}")(x)
        return x.mean(axis=(1, 2))


class Bottleneck(nn.Module):
    """1x1 reduction, 3x3 convolution, 1x1 expansion; plus the input, projected if needed."""

    features: int
    stride: int
    norm: bool
    dtypes: Any

    @nn.compact
    def __call__(self, x):
        def conv(x, features, size, stride, name):
            return Conv(features, size, stride, self.norm, self.dtypes, name=name)(x)

        y = nn.relu(conv(x, self.features, 1, 1, "conv1"))
        y = nn.relu(conv(y, self.features, 3, self.stride, "conv2"))
        y = conv(y, 4 * self.features, 1, 1, "conv3")
        if x.shape != y.shape:
            x = conv(x, 4 * self.features, 1, self.stride, "downsample")
        return nn.relu(x + y)
