"""The Lifted-Structure loss, plain and on synthetic hard samples."""

import math

import jax
import jax.numpy as jnp

from symm_jax import similarity
from symm_jax.losses import pair_loss
from symm_jax.losses.candidates import Rule
from symm_jax.losses.mining import Synthesis

_NEVER = -1e30  # exponent of an entry that does not count; finite, so that a row without negatives stays finite


def lifted_structure_loss(
    anchor: jax.Array,
    positive: jax.Array,
    labels: jax.Array,
    *,
    margin: float = 1.0,
    synthesis: Synthesis | None = None,
    l2_normalize: bool = True,
    candidates: str = "product",
    with_winners: bool = False,
    block_size: int | None = None,
    axis_name: str | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Lifted-Structure loss (Oh Song et al., CVPR 2016, equation 4); with `synthesis` on the hardest negatives.

    With D the distance (not squared) of two embeddings, the mean over pairs of max(0, J)^2 / 2, where

        J = D(a, p) + log(sum over x in {a, p}, images z of other classes of exp(margin - D(x, z))).

    With synthesis each of the four distances between two classes is the smallest over the candidate pairs of their
    points, and D(a, p) stays that of the originals (Gu and Ko, AAAI 2020).

    Args:
      anchor: (n, dim) floating.
      positive: (n, dim), like `anchor`.
      labels: (n,) integer; equal labels are the same class.
      margin: how far negatives are to be, as a distance, 0 or more.
      synthesis: (anchor, positive) -> coefficients (n, points, 2), or None for the originals alone.
      l2_normalize: use embeddings of unit length.
      candidates: pairs of points to choose from: "product" (16 of 4 points), "ordered" (12) or "unordered" (6).
      with_winners: also return which pairs of points won.
      block_size: rows at a time, for memory that grows with n x block_size; None chooses, for speed.
      axis_name: the mapped axis over which the batch is split, if it is.

    Returns:
      Scalar, float32 (float64 for float64 input), 0 where there is no negative; if `with_winners`, also the share
      (points, points) of each pair among the hardest ones of different classes.

    Raises:
      ValueError: shapes, dtypes or options do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> a = jnp.eye(2)
      >>> loss = lifted_structure_loss(a, a, jnp.arange(2), margin=2.0)
      >>> print(f"{loss:.4f}")  # (2 - sqrt(2) + log(4))^2 / 2
      1.9446
    """
    pair_loss.check_number("margin", margin)
    batch = pair_loss.prepare_batch(
        anchor,
        positive,
        labels,
        synthesis=synthesis,
        candidates=candidates,
        l2_normalize=l2_normalize,
        with_winners=with_winners,
        block_size=block_size,
        axis_name=axis_name,
    )

    def row_loss(close, pull, row_ids, column_ids):
        different = row_ids.label[:, None] != column_ids.label[None, :]
        copies = close.shape[1] // different.shape[1]
        different = jnp.tile(different, (1, copies))
        push = jax.nn.logsumexp(jnp.where(different, margin - similarity.root(-2 * close), _NEVER), axis=1)
        return jnp.sum(jnp.square(jax.nn.relu(pull + push + math.log(4 / copies)))), None

    rule = Rule(batch.candidates, distance=True)
    pull = similarity.root(pair_loss.squared_distance(batch.points))
    total, _, winners = pair_loss.reduce_rows(batch, row_loss, pull, rule=rule, plain=pair_loss.closeness)
    loss = 0.5 * total / len(anchor)
    return (loss, winners) if with_winners else loss
