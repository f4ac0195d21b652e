"""N-pair on In-Shop Clothes Retrieval, with its query and gallery sets.

    python launch.py --config=configs/inshop_npair.py

Needs the benchmark in data/inshop: its authors give it to those who sign their agreement (see docs/data.md), so nothing
is downloaded. Needs the GoogLeNet weights, which --mode=prepare downloads. Not yet run to its end here, and the
schedule is not tuned: it is that of Cars196, twice as long for three times as many images.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.num_steps = 20_000
    config.checkpoint_every = 500
    config.recall_ks = (1, 10, 20)
    config.clustering = False  # k-means with 3,985 clusters takes long
    config.data.name = "inshop"
    config.data.dir = "data/inshop"
    config.optimizer.decay_every = 10_000
    config.optimizer.stop_step = 30_000
    return config
