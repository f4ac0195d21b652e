"""The N-pair loss, plain and on synthetic hard samples."""

import jax

from symm_jax.losses import pair_loss
from symm_jax.losses.mining import Synthesis


def npair_loss(
    anchor: jax.Array,
    positive: jax.Array,
    labels: jax.Array,
    *,
    synthesis: Synthesis | None = None,
    l2_normalize: bool = False,
    scale: float = 1.0,
    l2_reg: float = 0.002,
    candidates: str = "unordered",
    positives: str = "mined",
    with_winners: bool = False,
    block_size: int | None = None,
    axis_name: str | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """N-pair loss (Sohn, NIPS 2016); with `synthesis` on the hardest points (Gu and Ko, AAAI 2020, equation 8).

    Mean over rows of the cross-entropy of softmax(scale S[i]) against the columns of the same class, equally
    weighted, plus l2_reg / 4 (mean |a|^2 + mean |p|^2). S[i, j] = a_i.p_j; with synthesis it is the largest
    similarity over the candidate pairs of points, on the diagonal too, as in the original.

    Args:
      anchor: (n, dim) floating, not normalised (the original trains on raw embeddings).
      positive: (n, dim), like `anchor`.
      labels: (n,) integer; equal labels are the same class.
      synthesis: (anchor, positive) -> coefficients (n, points, 2), or None for the originals alone.
      l2_normalize: use embeddings of unit length in the similarities; the l2 term keeps the raw ones.
      scale: factor on the similarities, an inverse temperature; the original has none (1).
      l2_reg: weight of the l2 term; 0 turns it off.
      candidates: pairs of points to choose from: "unordered" (6 of 4 points, as the original), "ordered" (12) or
        "product" (16).
      positives: what stands on the diagonal: the "mined" hardest pair, as in the original, or the "original" a.p.
      with_winners: also return which pairs of points won.
      block_size: rows at a time, for memory that grows with n x block_size; None chooses, for speed.
      axis_name: the mapped axis over which the batch is split, if it is.

    Returns:
      Scalar, float32 (float64 for float64 input); if `with_winners`, also the share (points, points) of each
      pair among the hardest ones of different classes.

    Raises:
      ValueError: shapes, dtypes or options do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> a = jnp.eye(2)
      >>> print(f"{npair_loss(a, a, jnp.arange(2), l2_reg=0.0):.4f}")  # log(1 + exp(-1))
      0.3133
    """
    batch = pair_loss.prepare_batch(
        anchor,
        positive,
        labels,
        synthesis=synthesis,
        candidates=candidates,
        l2_normalize=l2_normalize,
        l2_reg=l2_reg,
        with_winners=with_winners,
        block_size=block_size,
        axis_name=axis_name,
    )
    return pair_loss.cross_entropy(batch, mix=(1.0, 0.0), own=1.0, scale=scale, positives=positives)
