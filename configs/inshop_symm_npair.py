"""Symm + N-pair on In-Shop Clothes Retrieval, with its query and gallery sets.

    python launch.py --config=configs/inshop_symm_npair.py

Needs what configs/inshop_npair.py needs. Not yet run to its end here.
"""

from configs import inshop_npair


def get_config():
    config = inshop_npair.get_config()
    config.losses = ({"name": "npair", "synthesis": "symmetric"},)
    return config
