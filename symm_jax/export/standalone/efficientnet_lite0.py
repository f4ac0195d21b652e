"""EfficientNet-Lite0 in Flax, batch norms folded, as model.safetensors has its parameters."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

# Stages: expansion, channels, side of the depthwise kernel, stride of the first block, blocks.
STAGES = (
    *((1, 16, 3, 1, 1), (6, 24, 3, 2, 2), (6, 40, 5, 2, 2), (6, 80, 3, 2, 3)),
    *((6, 112, 5, 1, 3), (6, 192, 5, 2, 4), (6, 320, 3, 1, 1)),
)


class Block(nn.Module):
    """1x1 expansion, depthwise convolution, 1x1 projection; plus the input if the shapes agree."""

    stage: Any
    stride: int
    dtypes: Any

    @nn.compact
    def __call__(self, x):
        expansion, features, size, *_ = self.stage
        y, wide = x, x.shape[-1] * expansion
        if expansion > 1:
            y = nn.relu6(nn.Conv(wide, (1, 1), **self.dtypes, name="expand")(y))
        y = nn.Conv(wide, (size, size), self.stride, feature_group_count=wide, **self.dtypes, name="depthwise")(y)
        y = nn.Conv(features, (1, 1), **self.dtypes, name="project")(nn.relu6(y))
        return x + y if x.shape == y.shape else y


class Backbone(nn.Module):
    """uint8 RGB (n, side, side, 3) -> features (n, 1280)."""

    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images):
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = ((images.astype(jnp.float32) - 127) / 128).astype(self.dtype)
        x = nn.relu6(nn.Conv(32, (3, 3), 2, **dtypes, name="stem")(x))
        blocks = [(stage, 1 if block else stage[3]) for stage in STAGES for block in range(stage[4])]
        for number, (stage, stride) in enumerate(blocks):
            x = Block(stage, stride, dtypes, name=f"block_{number}")(x)
        return nn.relu6(nn.Conv(1280, (1, 1), **dtypes, name="head")(x)).mean(axis=(1, 2))
