"""The random weights file of the recorded GoogLeNet outputs, and a narrow GoogLeNet that compiles fast."""

import jax
import numpy as np
import scipy.io

from symm_jax.models import googlenet
from symm_jax.models.googlenet import INCEPTION


def layers():
    """Yields (Caffe name, output channels, input channels, kernel side) in the order of the random values."""
    yield from (("conv1/7x7_s2", 64, 3, 7), ("conv2/3x3_reduce", 64, 64, 1), ("conv2/3x3", 192, 64, 3))
    channels = 192
    for module, (n1, reduce3, n3, reduce5, n5, projection) in INCEPTION.items():
        yield f"inception_{module}/1x1", n1, channels, 1
        yield f"inception_{module}/3x3_reduce", reduce3, channels, 1
        yield f"inception_{module}/3x3", n3, reduce3, 3
        yield f"inception_{module}/5x5_reduce", reduce5, channels, 1
        yield f"inception_{module}/5x5", n5, reduce5, 5
        yield f"inception_{module}/pool_proj", projection, channels, 1
        channels = n1 + n3 + n5 + projection


def entries(seed=7):
    random, weights = np.random.RandomState(seed), {}
    for name, out, inputs, side in layers():
        kernel = random.randn(out, inputs, side, side) * np.sqrt(2.0 / (inputs * side**2))
        weights[name] = kernel.astype(np.float32)
        weights[f"{name}_bias"] = (0.1 * random.randn(1, out)).astype(np.float32)
    return weights


def write(path, **changes):
    """Writes the file; `changes` replace entries, None removes one."""
    weights = entries() | changes
    scipy.io.savemat(path, {k: v for k, v in weights.items() if v is not None})
    return path


def narrow(monkeypatch):
    """Reduces GoogLeNet to its stem and the modules 3b and 4e, which precede pooling, at a quarter of the channels."""
    few = {name: tuple(n // 4 for n in INCEPTION[name]) for name in ("3b", "4e")}
    monkeypatch.setattr(googlenet, "INCEPTION", few)


def random_params(shapes):
    """Values like those of the initialisers, without compiling the initialisers."""
    rng = np.random.default_rng(0)

    def draw(x):
        scale = np.sqrt(2 / np.prod(x.shape[:-1])) if len(x.shape) > 1 else 0
        return rng.normal(scale=scale, size=x.shape).astype(x.dtype)

    return jax.tree.map(draw, shapes)
