"""When unnormalised Symm + N-pair collapses: a small network from random weights, on photographs of cars.

    python launch.py --mode=compare --config=configs/compare/collapse_cars.py --workdir=runs/collapse_cars

Under a minute a run on two CPU cores; docs/study.md has the result. configs/compare/cars_ablations.py has the same
losses from ImageNet weights. Needs Cars196, or a part of it, in data/cars196.
"""

from configs import glyphs_npair
from configs.compare import collapse_glyphs


def get_config():
    base = glyphs_npair.get_config()
    base.data.name, base.data.dir, base.data.image_size = "cars196", "data/cars196", 64
    base.augment.mirror = True
    base.optimizer.learning_rate = 1e-3
    base.batch_size = 64
    config = collapse_glyphs.get_config()
    config.methods = collapse_glyphs.methods(base)
    for method in config.methods.values():
        method.num_steps, method.checkpoint_every, method.log_every = 200, 100, 10
    return config
