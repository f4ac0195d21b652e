"""Symm + Lifted-Structure on Cars196: a row of the paper's Cars196 table.

    python launch.py --config=configs/car_symm_lifted.py

Needs Cars196 in data/cars196 and the GoogLeNet weights (see the README). Not yet run to its end here.
"""

from configs import car_lifted


def get_config():
    config = car_lifted.get_config()
    config.losses = ({**config.losses[0], "synthesis": "symmetric"},)
    return config
