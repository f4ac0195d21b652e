"""Symm + N-pair on drawn characters, from scratch: the demonstration.

python launch.py --config=configs/glyphs_symm_npair.py
"""

from configs import glyphs_npair


def get_config():
    config = glyphs_npair.get_config()
    config.losses = ({**config.losses[0], "synthesis": "symmetric"},)
    return config
