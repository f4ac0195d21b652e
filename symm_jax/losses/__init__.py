"""Losses for deep metric learning, each with or without synthetic hard samples.

A loss is a pure function of arrays and keyword options. It returns a scalar. There are three families:

- Pair losses take (anchor (n, dim), positive (n, dim), labels (n,)). Row i of anchor and positive are two different
  images of class labels[i].
- Batch losses take (embeddings (n, dim), labels (n,)), with any number of images per class. With a synthesis they take
  pairs, (embeddings (n, 2, dim), labels (n,)). rows.py is what they share.
- Proxy losses take (embeddings (n, dim), labels (n,), proxies (classes, dim)). proxy_loss.py is what they share.

`synthesis` is a function (anchor, positive) -> coefficients: `synthesis.symmetric`, `synthesis.interpolated`, a
`functools.partial` of one of them, or your own.

Under `jax.pmap`, or any mapped axis, pass `axis_name`. Rows are then those of this device, and negatives are those of
the whole batch. The value is the mean over the rows of this device. Average values and gradients with `lax.pmean`: the
result is that of one device with the whole batch.

Losses have hand-written gradients. They support reverse mode and first derivatives only.

The contract of a loss is in registry.py. `register` adds your own loss to LOSSES, for use in configs.
"""

from symm_jax.losses.angular import angular_loss
from symm_jax.losses.arcface import arcface_loss
from symm_jax.losses.candidates import synthetic_share
from symm_jax.losses.circle import circle_loss
from symm_jax.losses.contrastive import contrastive_loss
from symm_jax.losses.cosface import cosface_loss
from symm_jax.losses.init_proxies import init_proxies
from symm_jax.losses.lifted_structure import lifted_structure_loss
from symm_jax.losses.margin import margin_loss
from symm_jax.losses.multi_similarity import multi_similarity_loss
from symm_jax.losses.norm_softmax import norm_softmax_loss
from symm_jax.losses.npair import npair_loss
from symm_jax.losses.ntxent import ntxent_loss
from symm_jax.losses.proxy_anchor import proxy_anchor_loss
from symm_jax.losses.proxy_nca import proxy_nca_loss
from symm_jax.losses.proxy_terms import PROXY_LOSSES, create_proxies
from symm_jax.losses.queue_terms import create_queues, push_queues
from symm_jax.losses.recall_at_k import recall_at_k_loss
from symm_jax.losses.registry import LOSSES, find_synthesis, from_config, register
from symm_jax.losses.smooth_ap import smooth_ap_loss
from symm_jax.losses.soft_triple import soft_triple_loss
from symm_jax.losses.supcon import supcon_loss
from symm_jax.losses.triplet import triplet_loss

__all__ = [
    "LOSSES",
    "PROXY_LOSSES",
    "angular_loss",
    "arcface_loss",
    "circle_loss",
    "contrastive_loss",
    "cosface_loss",
    "create_proxies",
    "create_queues",
    "find_synthesis",
    "from_config",
    "init_proxies",
    "lifted_structure_loss",
    "margin_loss",
    "multi_similarity_loss",
    "norm_softmax_loss",
    "npair_loss",
    "ntxent_loss",
    "proxy_anchor_loss",
    "proxy_nca_loss",
    "push_queues",
    "recall_at_k_loss",
    "register",
    "smooth_ap_loss",
    "soft_triple_loss",
    "supcon_loss",
    "synthetic_share",
    "triplet_loss",
]
