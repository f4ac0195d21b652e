"""Pair-based losses for deep metric learning, each with or without synthetic hard samples.

A loss is a pure function of (anchor (n, dim), positive (n, dim), labels (n,)) and keyword options, returning a
scalar; row i of anchor and positive are two different images of class labels[i]. `synthesis` is a function
(anchor, positive) -> coefficients: `synthesis.symmetric`, a `functools.partial` of it, or your own.

Under `jax.pmap` (or any mapped axis) pass `axis_name`: rows are then this device's, negatives the whole
batch's, and the value is the mean over this device's rows. Average values and gradients with `lax.pmean`; the
result is that of one device holding the whole batch.
"""

import functools
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from symm_jax import errors, similarity
from symm_jax.synthesis import SYNTHESES

Synthesis = Callable[[jax.Array, jax.Array], jax.Array]


def npair_loss(
    anchor: jax.Array,
    positive: jax.Array,
    labels: jax.Array,
    *,
    synthesis: Synthesis | None = None,
    l2_normalize: bool = False,
    scale: float = 1.0,
    l2_reg: float = 0.002,
    axis_name: str | None = None,
) -> jax.Array:
    """N-pair loss (Sohn, NIPS 2016); with `synthesis` on the hardest points (Gu and Ko, AAAI 2020, equation 8).

    Mean over rows of the cross-entropy of softmax(scale S[i]) against the columns of the same class, equally
    weighted, plus l2_reg / 4 (mean |a|^2 + mean |p|^2). S[i, j] = a_i.p_j; with synthesis it is the largest
    over the unordered pairs of points (6 for `synthesis.symmetric`), on the diagonal too, as in the original.

    Args:
      anchor: (n, dim) floating, not normalised (the original trains on raw embeddings).
      positive: (n, dim), like `anchor`.
      labels: (n,) integer; equal labels are the same class.
      synthesis: (anchor, positive) -> coefficients (n, points, 2), or None for the originals alone.
      l2_normalize: use embeddings of unit length in the similarities; the l2 term keeps the raw ones.
      scale: factor on the similarities, an inverse temperature; the original has none (1).
      l2_reg: weight of the l2 term; 0 turns it off.
      axis_name: the mapped axis over which the batch is split, if it is.

    Returns:
      Scalar, float32 (float64 for float64 input).

    Raises:
      ValueError: shapes or dtypes do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> a = jnp.eye(2)
      >>> print(f"{npair_loss(a, a, jnp.arange(2), l2_reg=0.0):.4f}")  # log(1 + exp(-1))
      0.3133
    """
    _check(anchor, positive, labels)
    l2 = 0.25 * l2_reg * (_mean_square_norm(anchor) + _mean_square_norm(positive)) if l2_reg else 0.0
    if l2_normalize:
        anchor, positive = similarity.normalize(anchor), similarity.normalize(positive)
    if synthesis is None:
        logits = similarity.product(anchor, similarity.gather(positive, axis_name))
    else:
        coefficients = synthesis(anchor, positive)
        unordered = list(itertools.combinations(range(coefficients.shape[1]), 2))
        logits = similarity.hardest(anchor, positive, coefficients, unordered, axis_name)
    return _cross_entropy(scale * logits, labels, similarity.gather(labels, axis_name)) + l2


LOSSES = {"npair": npair_loss}


def from_config(specs: Sequence[Mapping]) -> Callable[..., jax.Array]:
    """The weighted sum of the losses that a config names.

    Args:
      specs: mappings with "name" (a key of LOSSES), optionally "weight" (default 1), "synthesis" (a key of
        SYNTHESES; "" or None for none) and the loss's own keyword options.

    Returns:
      loss(anchor, positive, labels, axis_name=None) -> scalar.

    Raises:
      InputError: unknown name or option, with the nearest known one; no losses at all.
    """
    if not specs:
        raise errors.InputError("config.losses is empty; name at least one, such as dict(name='npair')")
    terms = [_term(dict(spec)) for spec in specs]

    def loss(anchor, positive, labels, axis_name=None):
        return sum(weight * term(anchor, positive, labels, axis_name=axis_name) for weight, term in terms)

    return loss


def synthesis_of(specs: Sequence[Mapping]) -> Synthesis | None:
    """The synthesis of the first loss in a config that has one, for figures."""
    return next((SYNTHESES[spec["synthesis"]] for spec in specs if spec.get("synthesis")), None)


def _term(options: dict) -> tuple[float, Callable]:
    name, weight = options.pop("name", ""), options.pop("weight", 1.0)
    function = errors.choose("loss in config.losses", name, LOSSES)
    if not (isinstance(weight, (int, float)) and 0 <= weight < float("inf")):
        raise errors.InputError(f"config.losses: weight of {name!r} must be a finite number >= 0, got {weight!r}")
    if synthesis := options.pop("synthesis", None):
        options["synthesis"] = errors.choose("synthesis in config.losses", synthesis, SYNTHESES)
    known = [k for k, v in inspect.signature(function).parameters.items() if v.kind is v.KEYWORD_ONLY]
    known.remove("axis_name")
    for key in options.keys() - set(known):
        raise errors.InputError(
            f"config.losses: {name!r} has no option {key!r}{errors.suggest(key, known)}; options: {', '.join(known)}"
        )
    return weight, functools.partial(function, **options)


def _check(anchor: jax.Array, positive: jax.Array, labels: jax.Array) -> None:
    if anchor.ndim != 2 or anchor.shape != positive.shape:
        raise ValueError(f"anchor and positive must both be (n, dim), got {anchor.shape} and {positive.shape}")
    if anchor.dtype != positive.dtype or not jnp.issubdtype(anchor.dtype, jnp.floating):
        raise ValueError(f"anchor and positive must share a floating dtype, got {anchor.dtype} and {positive.dtype}")
    if labels.shape != anchor.shape[:1]:
        raise ValueError(f"labels must be (n,) = {anchor.shape[:1]} for anchor {anchor.shape}, got {labels.shape}")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels must be integers, got {labels.dtype}")


def _mean_square_norm(x: jax.Array) -> jax.Array:
    return jnp.mean(jnp.sum(jnp.square(x.astype(jnp.promote_types(x.dtype, jnp.float32))), axis=-1))


def _cross_entropy(logits: jax.Array, labels: jax.Array, column_labels: jax.Array) -> jax.Array:
    """Mean over rows (n, N) of the cross-entropy against the columns of the row's label, equally weighted."""
    same = labels[:, None] == column_labels[None, :]
    positive = jnp.sum(jnp.where(same, logits, 0), axis=1) / jnp.sum(same, axis=1)
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - positive)
