"""One loss of each family on drawn characters, with and without its syntheses: three seeds, 40 classes held out.

    python launch.py --mode=compare --config=configs/compare/glyphs_families.py

Twenty-seven runs of about a minute on two CPU cores; docs/study.md has the result. The recipe is that of
configs/glyphs_npair.py, with half of its updates. Of 0.3, 1 and 10 the rate of the proxies is the one that was best for
seed 0 with 800 updates, without synthesis. Nothing else was tuned, and nothing with a synthesis.
"""

import ml_collections

from configs import glyphs_npair

NPAIR = {"name": "npair", "l2_normalize": True, "scale": 16.0, "l2_reg": 0.0}
MEMVIR = {"name": "memvir", "steps": 5, "gap": 10, "warm_up": 100}  # the paper's queue has 45 steps

METHODS = {  # the plain loss of a family, and its syntheses
    "npair": (NPAIR, {"symm_npair": "symmetric"}),
    "multi_similarity": (
        {"name": "multi_similarity"},
        {
            "symm_multi_similarity": "symmetric",
            "simix_multi_similarity": "simix",
            "metrix_multi_similarity": "metrix",
        },
    ),
    "norm_softmax": (
        {"name": "norm_softmax"},
        {"ps_norm_softmax": "proxy_synthesis", "memvir_norm_softmax": MEMVIR},
    ),
}


def get_config():
    config, against = ml_collections.ConfigDict({"methods": {}}), {}
    for plain, (loss, syntheses) in METHODS.items():
        for method, synthesis in {plain: None, **syntheses}.items():
            one = config.methods[method] = glyphs_npair.get_config()
            one.num_steps, one.checkpoint_every, one.clustering = 400, 200, False
            one.optimizer.decay_every, one.optimizer.stop_step = 200, 320
            one.optimizer.proxy_rate = 0.3
            one.losses = ({**loss, **({"synthesis": synthesis} if synthesis else {})},)
        against |= dict.fromkeys(syntheses, plain)
    with config.ignore_type():
        config.baseline = ml_collections.ConfigDict(against)
    config.seeds = (1, 2, 3)
    config.validation_classes = (40,)
    return config
