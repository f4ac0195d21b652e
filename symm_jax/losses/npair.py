"""The N-pair loss, plain and on synthetic hard samples."""

from jax.typing import ArrayLike
from jaxtyping import Float, Integer

from symm_jax.losses import pair_loss
from symm_jax.losses.pair_loss import Loss, Winners
from symm_jax.synthesis import Synthesis


def npair_loss(
    anchor: Float[ArrayLike, "n dim"],
    positive: Float[ArrayLike, "n dim"],
    labels: Integer[ArrayLike, " n"],
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
) -> Loss | tuple[Loss, Winners]:
    """N-pair loss (Sohn, NIPS 2016); with `synthesis` on the hardest points (Gu and Ko, AAAI 2020, equation 8).

    Mean over rows of the cross-entropy of softmax(scale S[i]) against the columns of the same class, equally
    weighted, plus l2_reg / 4 (mean |a|^2 + mean |p|^2). S[i, j] = a_i.p_j. With synthesis S[i, j] is the largest
    similarity over the candidate pairs of points, also on the diagonal, as in the original.

    Args:
      anchor: (n, dim) floating. The original does not normalise embeddings.
      positive: (n, dim), like `anchor`.
      labels: (n,) integer. Equal labels mean the same class. Labels beyond the integers of JAX are an error.
      synthesis: (anchor, positive) -> coefficients (n, points, 2), or None: the originals only.
      l2_normalize: compare embeddings of unit norm. The l2 term uses the unnormalised embeddings.
      scale: factor of the similarities (inverse temperature), above 0. The original has none (1).
      l2_reg: weight of the l2 term, 0 or more. 0: no l2 term.
      candidates: the pairs of points to mine: "unordered" (6 of 4 points, as the original), "ordered" (12) or
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
