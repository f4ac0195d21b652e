"""All losses with and without synthesis on photographs of cars, EfficientNet-Lite0 from ImageNet weights.

    python launch.py --mode=compare --config=configs/compare/cars.py --workdir=runs/cars

Needs what configs/compare/cars_npair.py needs, and takes its runs over where both name one workdir. Margins and degrees
are the defaults; of 1e-4 and 3e-5 each loss has the learning rate that was better on the held-out classes, with and
without synthesis alike.
"""

import ml_collections

from configs.compare import cars_npair

LOSSES = {  # and their learning rates
    "angular": ({"name": "angular", "l2_normalize": True, "l2_reg": 0.0}, 3e-5),
    "triplet_semihard": ({"name": "triplet", "mining": "semihard"}, 1e-4),
    "lifted": ({"name": "lifted_structure"}, 3e-5),
}


def get_config():
    config = cars_npair.get_config()
    npair, against = config.methods.npair, {"symm_npair": "npair"}
    for name, (loss, rate) in LOSSES.items():
        for method, options in {name: {}, f"symm_{name}": {"synthesis": "symmetric"}}.items():
            config.methods[method] = npair.copy_and_resolve_references()
            config.methods[method].losses = ({**loss, **options},)
            config.methods[method].optimizer.learning_rate = rate
        against[f"symm_{name}"] = name
    with config.ignore_type():
        config.baseline = ml_collections.ConfigDict(against)
    return config
