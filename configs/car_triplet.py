"""Triplet on Cars196, over all triplets of a batch: a row of the paper's Cars196 table.

    python launch.py --config=configs/car_triplet.py

Needs Cars196 in data/cars196 and the GoogLeNet weights (see the README). Not yet run to its end here.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.losses = ({"name": "triplet", "mining": "all"},)
    return config
