"""The Angular loss, plain and on synthetic hard samples."""

import math

from jax.typing import ArrayLike
from jaxtyping import Float, Integer

from symm_jax.losses import pair_loss
from symm_jax.losses.pair_loss import Loss, Winners
from symm_jax.synthesis import Synthesis


def angular_loss(
    anchor: Float[ArrayLike, "n dim"],
    positive: Float[ArrayLike, "n dim"],
    labels: Integer[ArrayLike, " n"],
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
) -> Loss | tuple[Loss, Winners]:
    """Angular loss (Wang et al., ICCV 2017); with `synthesis` on the hardest points (Gu and Ko, AAAI 2020).

    Mean over rows of the cross-entropy of softmax(S[i]) against the columns of the same class, equally weighted,
    plus l2_reg / 4 (mean |a|^2 + mean |p|^2). With t = tan^2(degrees), S[i, j] = 4 t (a_i + p_i).p_j and
    S[i, i] = 2 (1 + t) a_i.p_i. With synthesis, a pair of points (k, l) replaces (a, p), and each value is the largest
    over the candidate pairs. The paper sums over negatives of other classes only. The original treats columns of the
    row's class as further positives, and so does this function.

    Args:
      anchor: (n, dim) floating.
      positive: (n, dim), like `anchor`.
      labels: (n,) integer. Equal labels mean the same class. Labels beyond the integers of JAX are an error.
      degrees: upper bound of the angle at the negative, in degrees, between 0 and 90.
      with_npair: add the N-pair similarity of the same points, a_i.p_j, to S.
      synthesis: (anchor, positive) -> coefficients (n, points, 2), or None: the originals only.
      l2_normalize: compare embeddings of unit norm. The l2 term uses the unnormalised embeddings.
      l2_reg: weight of the l2 term, 0 or more. 0: no l2 term.
      candidates: the pairs of points to mine: "ordered" (12 of 4 points, as the original), "unordered" (6) or
        "product" (16).
      positives: the value on the diagonal: "mined", of the hardest pair, as in the original; or "original", a.p.
      with_winners: also return how often each pair of points was the hardest. It needs a synthesis.
      block_size: number of rows in a block; memory grows with n x block_size. None: chosen for speed.
      axis_name: name of the mapped axis that splits the batch. None: the batch is not split.

    Returns:
      Scalar, float32 (float64 for float64 input); if `with_winners`, also the fraction (points, points) of
      each pair among the hardest pairs of different classes: see `synthetic_share`.

    Raises:
      ValueError: a shape, a dtype or an option is wrong, or a label or embedding does not fit JAX's 32 bits.

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
