"""All losses with and without synthesis on photographs of cars, and the variants of Symm + N-pair.

    python launch.py --mode=compare --config=configs/compare/cars.py --workdir=runs/cars

Needs what configs/compare/cars_npair.py needs, and takes its runs over where both name one workdir. Every method has
the rate that N-pair has; margins and degrees are the defaults.
"""

from configs.compare import cars_npair

_PAIRS = {
    "angular": {"name": "angular", "l2_normalize": True, "l2_reg": 0.0},
    "triplet_semihard": {"name": "triplet", "mining": "semihard"},
    "lifted": {"name": "lifted_structure"},
}


def get_config():
    config = cars_npair.get_config()
    npair = config.methods.npair
    (plain,) = npair.losses

    def add(name, loss):
        config.methods[name] = npair.copy_and_resolve_references()
        config.methods[name].losses = (loss,)

    for name, loss in _PAIRS.items():
        add(name, loss)
        add(f"symm_{name}", {**loss, "synthesis": "symmetric"})
    # The paper's ablations, and the other synthesis.
    add("symm_npair_original_positives", {**plain, "synthesis": "symmetric", "positives": "original"})
    add("symm_npair_ratio_1.5", {**plain, "synthesis": {"name": "symmetric", "ratio": 1.5}})
    add("expansion_npair", {**plain, "synthesis": "interpolated"})
    add("raw_npair", {"name": "npair"})
    add("raw_symm_npair", {"name": "npair", "synthesis": "symmetric"})
    return config
