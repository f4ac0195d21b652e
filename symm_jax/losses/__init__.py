"""Pair losses for deep metric learning, each with or without synthetic hard samples.

A loss is a pure function of (anchor (n, dim), positive (n, dim), labels (n,)) and keyword options. It returns a scalar.
Row i of anchor and positive are two different images of class labels[i]. `synthesis` is a function
(anchor, positive) -> coefficients: `synthesis.symmetric`, `synthesis.interpolated`, a `functools.partial` of one of
them, or your own.

Under `jax.pmap`, or any mapped axis, pass `axis_name`. Rows are then those of this device, and negatives are those of
the whole batch. The value is the mean over the rows of this device. Average values and gradients with `lax.pmean`: the
result is that of one device with the whole batch.

Losses have hand-written gradients. They support reverse mode and first derivatives only.

The contract of a loss is in registry.py. `register` adds your own loss to LOSSES, for use in configs.
"""

from symm_jax.losses.angular import angular_loss
from symm_jax.losses.candidates import synthetic_share
from symm_jax.losses.lifted_structure import lifted_structure_loss
from symm_jax.losses.npair import npair_loss
from symm_jax.losses.registry import LOSSES, find_synthesis, from_config, register
from symm_jax.losses.triplet import triplet_loss

__all__ = [
    "LOSSES",
    "angular_loss",
    "find_synthesis",
    "from_config",
    "lifted_structure_loss",
    "npair_loss",
    "register",
    "synthetic_share",
    "triplet_loss",
]
