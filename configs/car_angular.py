"""Angular on Cars196, weighted as in the original: a row of the paper's Cars196 table.

    python launch.py --config=configs/car_angular.py

Needs Cars196 in data/cars196 and the GoogLeNet weights (see the README). Not yet run to its end here.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.losses = ({"name": "angular", "weight": 2.0},)
    return config
