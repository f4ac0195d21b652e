"""Made-up embeddings of a few classes."""

import numpy as np


def clusters(classes, of_each, dim=8, noise=0.6, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes, dtype=np.int32), of_each)
    centres = rng.normal(size=(classes, dim))
    return (centres[labels] + noise * rng.normal(size=(len(labels), dim))).astype(np.float32), labels
