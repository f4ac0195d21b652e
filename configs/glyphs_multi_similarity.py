"""Multi-Similarity on drawn characters, from scratch: a batch loss in place of N-pair.

    python launch.py --config=configs/glyphs_multi_similarity.py

Add "synthesis": "symmetric" to the loss to compare pairs by their hardest points.
"""

from configs import glyphs_npair


def get_config():
    config = glyphs_npair.get_config()
    config.losses = ({"name": "multi_similarity"},)
    return config
