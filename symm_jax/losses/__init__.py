"""Pair-based losses for deep metric learning, each with or without synthetic hard samples.

A loss is a pure function of (anchor (n, dim), positive (n, dim), labels (n,)) and keyword options, returning a
scalar; row i of anchor and positive are two different images of class labels[i]. `synthesis` is a function
(anchor, positive) -> coefficients: `synthesis.symmetric`, `synthesis.interpolated`, a `functools.partial` of one,
or your own.

Under `jax.pmap` (or any mapped axis) pass `axis_name`: rows are then this device's, negatives the whole
batch's, and the value is the mean over this device's rows. Average values and gradients with `lax.pmean`; the
result is that of one device holding the whole batch.

Losses differentiate in reverse mode, once: they have gradients of their own.
"""

from symm_jax.losses.angular import angular_loss
from symm_jax.losses.lifted_structure import lifted_structure_loss
from symm_jax.losses.npair import npair_loss
from symm_jax.losses.registry import LOSSES, find_synthesis, from_config
from symm_jax.losses.triplet import triplet_loss

__all__ = [
    "LOSSES",
    "angular_loss",
    "find_synthesis",
    "from_config",
    "lifted_structure_loss",
    "npair_loss",
    "triplet_loss",
]
