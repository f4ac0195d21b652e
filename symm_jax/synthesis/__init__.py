"""Syntheses of hard samples.

- plane.py: points in the plane of a pair, as coefficients. `symmetric` and `interpolated`.
- classes.py: new classes beside proxies. `ProxySynthesis` and `MemVir`.
- mixtures.py: mixed similarities. `SiMix` and `Metrix`.

`register` adds your own synthesis of points to SYNTHESES, for use in configs.
"""

from symm_jax.synthesis.classes import MemVir, ProxySynthesis
from symm_jax.synthesis.mixtures import Metrix, SiMix
from symm_jax.synthesis.plane import MAX_POINTS, Synthesis, check, interpolated, points, symmetric, with_originals
from symm_jax.synthesis.registry import SYNTHESES, register

__all__ = [
    "MAX_POINTS",
    "SYNTHESES",
    "MemVir",
    "Metrix",
    "ProxySynthesis",
    "SiMix",
    "Synthesis",
    "check",
    "interpolated",
    "points",
    "register",
    "symmetric",
    "with_originals",
]
