"""N-pair on Stanford Online Products: the baseline of the paper's table on products.

    python launch.py --config=configs/sop_npair.py --mode=prepare
    python launch.py --config=configs/sop_npair.py

Needs Stanford Online Products and the GoogLeNet weights, which the first command downloads, and 24 GB of disk for the
decoded images. Not yet run to its end here, and the schedule is not tuned: it is that of Cars196, three times as long
for seven times as many images.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.num_steps = 30_000
    config.checkpoint_every = 1_000
    config.recall_ks = (1, 10, 100, 1000)
    config.clustering = False  # k-means with 11,316 clusters takes hours
    config.data.name = "sop"
    config.data.dir = "data/sop"
    config.optimizer.decay_every = 15_000
    config.optimizer.stop_step = 45_000
    return config
