"""The Lifted-Structure loss, plain and on synthetic hard samples."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float, Integer

from symm_jax import similarity
from symm_jax.losses import pair_loss
from symm_jax.losses.candidates import Rule
from symm_jax.losses.pair_loss import Loss, Winners
from symm_jax.synthesis import Synthesis


def lifted_structure_loss(
    anchor: Float[ArrayLike, "n dim"],
    positive: Float[ArrayLike, "n dim"],
    labels: Integer[ArrayLike, " n"],
    *,
    margin: float = 1.0,
    synthesis: Synthesis | None = None,
    l2_normalize: bool = True,
    candidates: str = "product",
    with_winners: bool = False,
    block_size: int | None = None,
    axis_name: str | None = None,
) -> Loss | tuple[Loss, Winners]:
    """Lifted-Structure loss (Oh Song et al., CVPR 2016, equation 4); with `synthesis` on the hardest negatives.

    The mean over pairs of max(0, J)^2 / 2, where D is the Euclidean distance of two embeddings and

        J = D(a, p) + log(sum over x in {a, p}, images z of other classes of exp(margin - D(x, z))).

    With synthesis, each of the four distances between two classes is the smallest distance over the candidate pairs of
    their points. D(a, p) is always that of the originals (Gu and Ko, AAAI 2020).

    Args:
      anchor: (n, dim) floating.
      positive: (n, dim), like `anchor`.
      labels: (n,) integer. Equal labels mean the same class. Labels beyond the integers of JAX are an error.
      margin: required distance of negatives, 0 or more.
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
        push = similarity.log_sum_exp(margin - similarity.root(-2 * close), different, axis=1)
        return jnp.sum(jnp.square(jax.nn.relu(pull + push + math.log(4 / copies)))), None

    rule = Rule(batch.pairs, distance=True)
    pull = similarity.root(pair_loss.squared_distance(batch.points))
    total, _, winners = pair_loss.reduce_rows(batch, row_loss, pull, rule=rule, plain=pair_loss.closeness)
    loss = 0.5 * total / len(batch.row_ids.label)
    return pair_loss.attach_winners(loss, winners)
