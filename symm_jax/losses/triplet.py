"""The Triplet loss, plain and on synthetic hard samples."""

import jax
import jax.numpy as jnp

from symm_jax.losses import pair_loss
from symm_jax.losses.candidates import Rule
from symm_jax.losses.mining import Synthesis


def triplet_loss(
    anchor: jax.Array,
    positive: jax.Array,
    labels: jax.Array,
    *,
    margin: float = 0.2,
    mining: str = "all",
    synthesis: Synthesis | None = None,
    l2_normalize: bool = True,
    candidates: str = "product",
    with_winners: bool = False,
    block_size: int | None = None,
    axis_name: str | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Triplet loss (Schroff et al., CVPR 2015); with `synthesis` on the hardest negatives.

    A mean of max(0, |x - y|^2 - |x - z|^2 + margin), where (x, y) is a pair either way round and z an image of
    another class. With synthesis |x - z|^2 is the smallest squared distance over the candidate pairs of points of
    the two classes, and |x - y|^2 stays that of the originals (Gu and Ko, AAAI 2020).

    Args:
      anchor: (n, dim) floating.
      positive: (n, dim), like `anchor`.
      labels: (n,) integer; equal labels are the same class.
      margin: by how much a negative is to be farther than the positive, as a squared distance, 0 or more.
      mining: "all" takes the mean over all triplets; "hard" that over the nearest negative of each (x, y);
        "semihard" that over the nearest of the negatives farther than y, or the farthest where none is.
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
      >>> print(f"{triplet_loss(a, a, jnp.arange(2), margin=2.5):.4f}")  # 0 - 2 + margin
      0.5000
    """
    if mining not in ("all", "semihard", "hard"):
        raise ValueError(f"mining must be all, semihard or hard; got {mining!r}")
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

    def row_loss(close, positive, row_ids, column_ids):
        different = row_ids.label[:, None] != column_ids.label[None, :]
        groups = [close] if batch.candidates else jnp.split(close, 2, axis=1)
        different = jnp.tile(different, (1, groups[0].shape[1] // different.shape[1]))
        total, number = 0.0, 0
        for close in groups:
            if mining == "all":
                chosen, counted = close, different
            else:
                chosen = _choose(close, different, positive, semihard=mining == "semihard")
                counted = jnp.any(different, axis=1, keepdims=True)
            excess = jax.nn.relu(2 * (chosen - positive[:, None]) + margin)
            total += jnp.sum(jnp.where(counted, excess, 0))
            number += jnp.sum(counted, dtype=jnp.float32)
        return total, number

    rule = Rule(batch.candidates, distance=True)
    positive_closeness = -0.5 * pair_loss.squared_distance(batch.points)
    total, number, winners = pair_loss.reduce_rows(
        batch, row_loss, positive_closeness, rule=rule, plain=pair_loss.closeness
    )
    if axis_name is not None:
        # Devices may have different numbers of triplets; the mean over devices is to be the whole batch's.
        number = jax.lax.pmean(number, axis_name)
    loss = total / jnp.maximum(number, 1)
    return (loss, winners) if with_winners else loss


def _choose(close: jax.Array, different: jax.Array, positive: jax.Array, *, semihard: bool) -> jax.Array:
    """The closeness (n, 1) of the chosen negative of each row, among the entries `different`."""
    fixed = jax.lax.stop_gradient(close)
    nearest = jnp.argmax(jnp.where(different, fixed, -jnp.inf), axis=1)
    if semihard:
        farther = different & (fixed < jax.lax.stop_gradient(positive)[:, None])
        nearest_farther = jnp.argmax(jnp.where(farther, fixed, -jnp.inf), axis=1)
        farthest = jnp.argmin(jnp.where(different, fixed, jnp.inf), axis=1)
        nearest = jnp.where(jnp.any(farther, axis=1), nearest_farther, farthest)
    return jnp.take_along_axis(close, nearest[:, None], axis=1)
