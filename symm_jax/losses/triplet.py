"""The Triplet loss, plain and on synthetic hard samples."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float, Integer

from symm_jax.losses import pair_loss
from symm_jax.losses.candidates import Rule
from symm_jax.losses.pair_loss import Loss, Winners
from symm_jax.synthesis import Synthesis


def triplet_loss(
    anchor: Float[ArrayLike, "n dim"],
    positive: Float[ArrayLike, "n dim"],
    labels: Integer[ArrayLike, " n"],
    *,
    margin: float = 0.2,
    mining: str = "all",
    synthesis: Synthesis | None = None,
    l2_normalize: bool = True,
    candidates: str = "product",
    with_winners: bool = False,
    block_size: int | None = None,
    axis_name: str | None = None,
) -> Loss | tuple[Loss, Winners]:
    """Triplet loss (Schroff et al., CVPR 2015); with `synthesis` on the hardest negatives.

    A mean of max(0, |x - y|^2 - |x - z|^2 + margin), where (x, y) is (anchor, positive) or (positive, anchor), and z is
    an image of another class. With synthesis, |x - z|^2 is the smallest squared distance over the candidate pairs of
    points of the two classes. |x - y|^2 is always that of the originals (Gu and Ko, AAAI 2020).

    Args:
      anchor: (n, dim) floating.
      positive: (n, dim), like `anchor`.
      labels: (n,) integer. Equal labels mean the same class. Labels beyond the integers of JAX are an error.
      margin: required difference of the squared distances of negative and positive, 0 or more.
      mining: the miner of triplets. "all": the mean over all triplets. "hard": the mean over the nearest negative of
        each (x, y). "semihard": the mean over the nearest of the negatives that are farther than y; if there is none,
        over the farthest negative.
      synthesis: (anchor, positive) -> coefficients (n, points, 2), or None: the originals only.
      l2_normalize: compare embeddings of unit norm.
      candidates: the pairs of points to mine: "product" (16 of 4 points), "ordered" (12) or "unordered" (6).
      with_winners: also return how often each pair of points was the hardest. It needs a synthesis.
      block_size: number of rows in a block; memory grows with n x block_size. None: chosen for speed.
      axis_name: name of the mapped axis that splits the batch. None: the batch is not split.

    Returns:
      Scalar, float32 (float64 for float64 input), 0 if there is no negative; if `with_winners`, also the
      fraction (points, points) of each pair among the hardest pairs of different classes: see `synthetic_share`.

    Raises:
      ValueError: a shape, a dtype or an option is wrong, or a label or embedding does not fit JAX's 32 bits.

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
        groups = [close] if batch.pairs else jnp.split(close, 2, axis=1)
        different = jnp.tile(different, (1, groups[0].shape[1] // different.shape[1]))
        total: Any = 0.0
        number: Any = 0
        for close in groups:
            if mining == "all":
                selected, counted = close, different
            else:
                selected = _select_negatives(close, different, positive, semihard=mining == "semihard")
                counted = jnp.any(different, axis=1, keepdims=True)
            excess = jax.nn.relu(2 * (selected - positive[:, None]) + margin)
            total += jnp.sum(jnp.where(counted, excess, 0))
            number += jnp.sum(counted, dtype=jnp.float32)
        return total, number

    rule = Rule(batch.pairs, distance=True)
    positive_closeness = -0.5 * pair_loss.squared_distance(batch.points)
    total, number, winners = pair_loss.reduce_rows(
        batch, row_loss, positive_closeness, rule=rule, plain=pair_loss.closeness
    )
    if axis_name is not None:
        # Devices may have different numbers of triplets. The mean of the devices' losses must be the mean over all.
        number = jax.lax.pmean(number, axis_name)
    loss = total / jnp.maximum(number, 1)
    return pair_loss.attach_winners(loss, winners)


def _select_negatives(close: jax.Array, different: jax.Array, positive: jax.Array, *, semihard: bool) -> jax.Array:
    """Returns the closeness (n, 1) of the selected negative of each row, among the entries `different`."""
    fixed = jax.lax.stop_gradient(close)
    nearest = jnp.argmax(jnp.where(different, fixed, -jnp.inf), axis=1)
    if semihard:
        farther = different & (fixed < jax.lax.stop_gradient(positive)[:, None])
        nearest_farther = jnp.argmax(jnp.where(farther, fixed, -jnp.inf), axis=1)
        farthest = jnp.argmin(jnp.where(different, fixed, jnp.inf), axis=1)
        nearest = jnp.where(jnp.any(farther, axis=1), nearest_farther, farthest)
    return jnp.take_along_axis(close, nearest[:, None], axis=1)
