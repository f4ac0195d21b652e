"""The comparison of configs/compare/cars_npair.py over four times as many updates: does the gain come later?

    python launch.py --mode=compare --config=configs/compare/cars_npair_long.py --workdir=runs/cars_long

Eight runs of about seven minutes on two CPU cores; docs/study.md has the result.
"""

from configs.compare import cars_npair


def get_config():
    config = cars_npair.get_config()
    config.seeds = (1, 2, 3, 4)
    for method in config.methods.values():
        method.num_steps = 320
    return config
