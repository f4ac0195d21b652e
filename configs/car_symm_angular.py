"""Symm + Angular on Cars196, weighted as in the original: a row of the paper's Cars196 table.

    python launch.py --config=configs/car_symm_angular.py

Needs Cars196 in data/cars196 and the GoogLeNet weights (see the README). Not yet run to its end here.
"""

from configs import car_angular


def get_config():
    config = car_angular.get_config()
    config.losses = ({**config.losses[0], "synthesis": "symmetric", "weight": 1.0},)
    return config
