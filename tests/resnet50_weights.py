"""The random tensors of the recorded ResNet-50 features, with the names of torchvision."""

import numpy as np

from symm_jax.models.resnet import STAGES


def layers():
    """Yields (convolution, norm, output channels, input channels, kernel side) in the order of the random values."""
    yield "conv1", "bn1", 64, 3, 7
    channels = 64
    for stage, (features, blocks) in enumerate(STAGES, 1):
        for block in range(blocks):
            prefix = f"layer{stage}.{block}"
            yield f"{prefix}.conv1", f"{prefix}.bn1", features, channels, 1
            yield f"{prefix}.conv2", f"{prefix}.bn2", features, features, 3
            yield f"{prefix}.conv3", f"{prefix}.bn3", 4 * features, features, 1
            if not block:
                yield f"{prefix}.downsample.0", f"{prefix}.downsample.1", 4 * features, channels, 1
            channels = 4 * features


def tensors(seed=7):
    """{name: float32 array}. The scales keep the values of all blocks in the same range."""
    rng, found = np.random.default_rng(seed), {}
    for convolution, norm, out, inputs, side in layers():
        kernel = rng.standard_normal((out, inputs, side, side), np.float32)
        found[f"{convolution}.weight"] = kernel * np.float32(np.sqrt(2 / (inputs * side**2)))
        found[f"{norm}.weight"] = rng.uniform(0.3, 0.9, out).astype(np.float32)
        found[f"{norm}.bias"] = rng.normal(scale=0.1, size=out).astype(np.float32)
        found[f"{norm}.running_mean"] = rng.normal(scale=0.1, size=out).astype(np.float32)
        found[f"{norm}.running_var"] = rng.uniform(0.5, 2, out).astype(np.float32)
    return found
