"""Proxy-Anchor on drawn characters, from scratch.

python launch.py --config=configs/glyphs_proxy_anchor.py
"""

from configs import glyphs_npair


def get_config():
    config = glyphs_npair.get_config()
    config.losses = ({"name": "proxy_anchor"},)
    config.optimizer.proxy_rate = 3.0  # 1e-2, the learning rate of the proxies in the paper
    return config
