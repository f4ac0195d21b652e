"""Symm + Triplet on Cars196, over all triplets of a batch: a row of the paper's Cars196 table.

    python launch.py --config=configs/car_symm_triplet.py

Needs Cars196 in data/cars196 and the GoogLeNet weights (see the README). Not yet run to its end here.
"""

from configs import car_triplet


def get_config():
    config = car_triplet.get_config()
    config.losses = ({**config.losses[0], "synthesis": "symmetric"},)
    return config
