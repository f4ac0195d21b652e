"""What of Symm + N-pair matters on photographs of cars, EfficientNet-Lite0 from ImageNet weights.

    python launch.py --mode=compare --config=configs/compare/cars_ablations.py --workdir=runs/cars

Needs what configs/compare/cars_npair.py needs, and takes its runs over where both name one workdir. "raw" is the
original's loss: embeddings as they are, with an l2 term.
"""

from configs.compare import cars_npair


def get_config():
    config = cars_npair.get_config()
    (symm,) = config.methods.symm_npair.losses
    raw = {"name": "npair"}
    losses = {
        "symm_npair_original_positives": {**symm, "positives": "original"},
        "symm_npair_smaller_ratio": {**symm, "synthesis": {"name": "symmetric", "ratio": 1.5}},
        "expansion_npair": {**symm, "synthesis": "interpolated"},
        "expansion_npair_original_positives": {**symm, "synthesis": "interpolated", "positives": "original"},
        "raw_npair": raw,
        "raw_symm_npair": {**raw, "synthesis": "symmetric"},
        "raw_symm_npair_original_positives": {**raw, "synthesis": "symmetric", "positives": "original"},
    }
    for name, loss in losses.items():
        config.methods[name] = config.methods.npair.copy_and_resolve_references()
        config.methods[name].losses = (loss,)
    return config
