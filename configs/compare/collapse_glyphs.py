"""When unnormalised Symm + N-pair collapses: from random weights, on drawn characters.

    python launch.py --mode=compare --config=configs/compare/collapse_glyphs.py --workdir=runs/collapse_glyphs

Under a minute a run on two CPU cores; docs/study.md has the result. "raw" is the original's loss: embeddings as they
are, an l2 term, mined positives. The others change one thing each.
"""

import ml_collections

from configs import glyphs_npair


def get_config():
    config = ml_collections.ConfigDict()
    config.baseline = "raw_npair"
    config.methods = methods(glyphs_npair.get_config())
    for method in config.methods.values():
        method.num_steps, method.checkpoint_every, method.log_every = 400, 100, 10
    config.seeds = (2,)
    config.validation_classes = (0,)
    return config


def methods(base):
    """The losses that are compared, each in a copy of the config `base`."""
    symm = {"name": "npair", "synthesis": "symmetric"}
    found = {
        "raw_npair": {"name": "npair"},
        "raw_symm_npair": symm,
        "raw_symm_npair_original_positives": {**symm, "positives": "original"},
        "symm_npair": {**symm, "l2_normalize": True, "scale": 16.0, "l2_reg": 0.0},
    }
    configs = {name: base.copy_and_resolve_references() for name in found}
    for name, loss in found.items():
        configs[name].losses = (loss,)
    return ml_collections.ConfigDict(configs)
