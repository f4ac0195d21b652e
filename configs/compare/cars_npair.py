"""N-pair against Symm + N-pair on photographs of cars, EfficientNet-Lite0 from ImageNet weights, three seeds.

    python launch.py --mode=compare --config=configs/compare/cars_npair.py --workdir=runs/cars

Six runs of two to three minutes on two CPU cores; docs/study.md has the result. Needs Cars196, or a part of it, in
data/cars196. Seed 0 is left out, since the rates were chosen with it. 20 training classes are held out, so that each
run can be looked at both ways: by its best checkpoint on the test classes, and by the best on the classes held out.
"""

import ml_collections

from configs import car_effnet_npair, car_effnet_symm_npair


def get_config():
    config = ml_collections.ConfigDict()
    config.baseline = "npair"
    config.methods = ml_collections.ConfigDict(
        {"npair": car_effnet_npair.get_config(), "symm_npair": car_effnet_symm_npair.get_config()}
    )
    for method in config.methods.values():
        method.num_steps = 80
        method.checkpoint_every = 40
    config.seeds = (1, 2, 3)
    config.validation_classes = (20,)
    return config
