"""Symm + N-pair on your own photographs, a folder for each class.

    python launch.py --config=configs/folder_symm_npair.py --config.data.dir=FOLDER --mode=prepare
    python launch.py --config=configs/folder_symm_npair.py --config.data.dir=FOLDER

FOLDER holds CLASS/*.jpg (png, webp), half the classes being drawn for testing with config.data.split_seed, or
train/CLASS/* and test/CLASS/*. A batch of 64 images takes 32 training classes; with fewer, lower config.batch_size.
The first command downloads the GoogLeNet weights and draws what training will see.

Embeddings are normalised and similarities scaled, so that training is stable with any photographs, also from random
weights (--config.model.pretrained= --config.optimizer.learning_rate=1e-3). Not tuned.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.num_steps = 5_000
    config.checkpoint_every = 250
    config.batch_size = 64
    config.data.name = "folder"
    config.data.dir = "data/folder"
    config.data.validation_seed = 0  # classes are in alphabetical order: held-out ones are drawn
    config.losses = ({"name": "npair", "synthesis": "symmetric", "l2_normalize": True, "scale": 16.0, "l2_reg": 0.0},)
    config.optimizer.decay_every = 2_000
    config.optimizer.stop_step = 4_000
    return config
