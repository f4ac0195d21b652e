"""N-pair on Cars196 as the original trains it: the baseline of the paper's Cars196 table.

    python launch.py --config=configs/car_npair.py

Needs Cars196 in data/cars196 and the GoogLeNet weights (see the README). Not yet run to its end here.
"""

from configs import default


def get_config():
    return default.get_config()
