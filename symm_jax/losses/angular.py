"""The Angular loss, plain and on synthetic hard samples."""

import math

import jax

from symm_jax.losses import pair_loss
from symm_jax.losses.mining import Synthesis


def angular_loss(
    anchor: jax.Array,
    positive: jax.Array,
    labels: jax.Array,
    *,
    degrees: float = 45.0,
    with_npair: bool = False,
    synthesis: Synthesis | None = None,
    l2_normalize: bool = False,
    l2_reg: float = 0.002,
    candidates: str = "ordered",
    positives: str = "mined",
    with_winners: bool = False,
    block_size: int | None = None,
    axis_name: str | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Angular loss (Wang et al., ICCV 2017); with `synthesis` on the hardest points (Gu and Ko, AAAI 2020).

    Mean over rows of the cross-entropy of softmax(S[i]) against the columns of the same class, equally weighted,
    plus l2_reg / 4 (mean |a|^2 + mean |p|^2). With t = tan^2(degrees), S[i, j] = 4 t (a_i + p_i).p_j and
    S[i, i] = 2 (1 + t) a_i.p_i; with synthesis each is the largest over the candidate pairs of points (k, l) in
    place of (a, p). Where the paper sums over negatives of other classes only, the original, which this follows,
    treats columns of the row's own class as further positives.

    Args:
      anchor: (n, dim) floating.
      positive: (n, dim), like `anchor`.
      labels: (n,) integer; equal labels are the same class.
      degrees: upper bound of the angle at the negative, between 0 and 90.
      with_npair: add the N-pair similarity of the same points, a_i.p_j, to S.
      synthesis: (anchor, positive) -> coefficients (n, points, 2), or None for the originals alone.
      l2_normalize: use embeddings of unit length in the similarities; the l2 term keeps the raw ones.
      l2_reg: weight of the l2 term; 0 turns it off.
      candidates: pairs of points to choose from: "ordered" (12 of 4 points, as the original), "unordered" (6) or
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
      >>> print(f"{angular_loss(a, a, jnp.arange(2), l2_reg=0.0):.4f}")  # log(1 + exp(-4)): S = 4 on the diagonal
      0.0181
    """
    pair_loss.check_number("degrees", degrees, above=0)
    if degrees >= 90:
        raise ValueError(f"degrees must be between 0 and 90, got {degrees!r}")
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
    t = math.tan(math.radians(degrees)) ** 2
    npair = 1.0 if with_npair else 0.0
    return pair_loss.cross_entropy(
        batch, mix=(4 * t + npair, 4 * t), own=2 * (1 + t) + npair, scale=1.0, positives=positives
    )
