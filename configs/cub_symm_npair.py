"""Symm + N-pair on CUB-200-2011.

    python launch.py --config=configs/cub_symm_npair.py --mode=prepare
    python launch.py --config=configs/cub_symm_npair.py

Needs CUB-200-2011 and the GoogLeNet weights, which the first command downloads. Not yet run to its end here.
"""

from configs import cub_npair


def get_config():
    config = cub_npair.get_config()
    config.losses = ({"name": "npair", "synthesis": "symmetric"},)
    return config
