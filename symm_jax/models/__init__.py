"""Embedding networks: a backbone, which pools an image to features, and a linear layer.

Every model takes unnormalised RGB images (n, side, side, 3), 0..255, uint8 or float, and normalises them itself. The
parameters are {"backbone": ..., "embedding": {"kernel": (features, dim), "bias": (dim,)}}. A backbone may have running
statistics in the collection "batch_stats". Training updates them, and evaluation reads them.
"""

from symm_jax.models.backbones import (
    BACKBONES,
    PACKAGE,
    BackboneSpec,
    find_weights,
    load_pretrained,
    pretrained_features,
)
from symm_jax.models.convnet import ConvNet
from symm_jax.models.efficientnet_lite import EfficientNetLite0, load_efficientnet_lite0
from symm_jax.models.embedder import Embedder, create, init_variables
from symm_jax.models.googlenet import GoogLeNet, load_googlenet_mat
from symm_jax.models.resnet import ResNet50, load_resnet50, load_resnet50_batch_norm

__all__ = [
    "BACKBONES",
    "PACKAGE",
    "BackboneSpec",
    "ConvNet",
    "EfficientNetLite0",
    "Embedder",
    "GoogLeNet",
    "ResNet50",
    "create",
    "find_weights",
    "init_variables",
    "load_efficientnet_lite0",
    "load_googlenet_mat",
    "load_pretrained",
    "load_resnet50",
    "load_resnet50_batch_norm",
    "pretrained_features",
]
