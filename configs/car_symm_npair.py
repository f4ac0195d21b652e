"""Symm + N-pair on Cars196 as the original trains it. The paper reports Recall@1 76.5 %.

    python launch.py --config=configs/car_symm_npair.py

Needs Cars196 in data/cars196 and the GoogLeNet weights (see the README). Not yet run to its end here.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.losses = ({"name": "npair", "synthesis": "symmetric"},)
    return config
