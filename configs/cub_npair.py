"""N-pair on CUB-200-2011: the baseline of the paper's table on birds.

    python launch.py --config=configs/cub_npair.py --mode=prepare
    python launch.py --config=configs/cub_npair.py

Needs CUB-200-2011 and the GoogLeNet weights, which the first command downloads. Not yet run to its end here.
The whole photographs are used; --config.data.crop=True crops to the boxes.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.data.name = "cub200_2011"
    config.data.dir = "data/cub200_2011"
    config.data.crop = False
    return config
