"""Symm + N-pair on Stanford Online Products.

    python launch.py --config=configs/sop_symm_npair.py --mode=prepare
    python launch.py --config=configs/sop_symm_npair.py

Needs what configs/sop_npair.py needs. Not yet run to its end here.
"""

from configs import sop_npair


def get_config():
    config = sop_npair.get_config()
    config.losses = ({"name": "npair", "synthesis": "symmetric"},)
    return config
