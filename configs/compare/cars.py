"""All losses with and without synthesis on photographs of cars, EfficientNet-Lite0 from ImageNet weights.

    python launch.py --mode=compare --config=configs/compare/cars.py --workdir=runs/cars

Needs what configs/compare/cars_npair.py needs, and takes its runs over where both name one workdir. Every method has
the rate that N-pair has; margins and degrees are the defaults.
"""

import ml_collections

from configs.compare import cars_npair

LOSSES = {
    "angular": {"name": "angular", "l2_normalize": True, "l2_reg": 0.0},
    "triplet_semihard": {"name": "triplet", "mining": "semihard"},
    "lifted": {"name": "lifted_structure"},
}


def get_config():
    config = cars_npair.get_config()
    npair, against = config.methods.npair, {"symm_npair": "npair"}
    for name, loss in LOSSES.items():
        for method, options in {name: {}, f"symm_{name}": {"synthesis": "symmetric"}}.items():
            config.methods[method] = npair.copy_and_resolve_references()
            config.methods[method].losses = ({**loss, **options},)
        against[f"symm_{name}"] = name
    with config.ignore_type():
        config.baseline = ml_collections.ConfigDict(against)
    return config
