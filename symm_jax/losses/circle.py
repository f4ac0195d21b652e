"""The Circle loss."""

import jax
import jax.numpy as jnp

from symm_jax.losses import pair_loss, rows
from symm_jax.losses.batch import Embeddings, Labels, Loss, Positives, Winners, prepare
from symm_jax.losses.rows import Mean, Row
from symm_jax.queues import Queue
from symm_jax.synthesis import Synthesis
from symm_jax.synthesis.mixtures import Mixture


def circle_loss(
    embeddings: Embeddings,
    labels: Labels,
    *,
    m: float = 0.4,
    gamma: float = 80.0,
    positives: Positives = None,
    synthesis: Synthesis | Mixture | None = None,
    queue: Queue | None = None,
    l2_normalize: bool = True,
    candidates: str = "product",
    with_winners: bool = False,
    block_size: int | None = None,
    axis_name: str | None = None,
) -> Loss | tuple[Loss, Winners]:
    """Circle loss (Sun et al., CVPR 2020, equation 6), on pairs.

    The mean over rows, of those above 0, of

        log(1 + sum over negatives z of e^(gamma [s_z + m]+ (s_z - m))
              * sum over positives p of e^(-gamma [1 + m - s_p]+ (s_p - 1 + m)))

    where s is the cosine similarity and [x]+ = max(0, x), through which no gradient passes. A row without a positive or
    without a negative costs nothing. The defaults are those of pytorch-metric-learning. With synthesis, s of a negative
    is the largest over the candidate pairs of points of two classes.

    Args:
      embeddings: (n, dim) floating, or (n, 2, dim): the anchor and the positive of n pairs. A synthesis of points
        needs pairs.
      labels: (n,) integer, of the images or of the pairs. Equal labels mean the same class. Labels beyond the integers
        of JAX are an error.
      m: relaxation; positives should reach 1 - m, and negatives stay below m. 0 or more.
      gamma: scale, above 0.
      positives: with labels=None, (n, n) bool: which images, or pairs, are positives of each other; symmetric. Across
        devices (n, N), the rows of this device.
      synthesis: (anchor, positive) -> coefficients (n, points, 2); or SiMix. None: the originals only.
      queue: past (embeddings (size, dim), labels (size,)) that each row is compared with too, without gradient:
        cross-batch memory (Wang et al., CVPR 2020). It goes with labels, and without a synthesis of points.
      l2_normalize: compare embeddings of unit norm.
      candidates: the pairs of points to mine: "product" (16 of 4 points), "ordered" (12) or "unordered" (6).
      with_winners: also return how often each pair of points was the hardest. It needs a synthesis.
      block_size: number of rows in a block; memory grows with n x block_size. None: chosen for speed.
      axis_name: name of the mapped axis that splits the batch. None: the batch is not split.

    Returns:
      Scalar, float32 (float64 for float64 input), 0 without such a row. If `with_winners`, also the
      fraction (points, points) of each pair among the hardest negatives: see `synthetic_share`.

    Raises:
      ValueError: a shape, a dtype or an option is wrong, or a label or embedding does not fit JAX's 32 bits.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
      >>> loss = circle_loss(x, jnp.array([0, 0, 1]), gamma=1.0)
      >>> print(f"{loss:.4f}")  # log(1 + exp(0.4 (0 - 0.4) - 0.4 (1 - 0.6)))
      0.5459
    """
    pair_loss.check_number("m", m)
    pair_loss.check_number("gamma", gamma, above=0)
    batch = prepare(
        embeddings,
        labels,
        positives=positives,
        synthesis=synthesis,
        queue=queue,
        l2_normalize=l2_normalize,
        candidates=candidates,
        with_winners=with_winners,
        block_size=block_size,
        axis_name=axis_name,
    )

    def formula(row: Row) -> Mean:
        s, fixed = row.values, jax.lax.stop_gradient(row.values)
        push = rows.log_sum_exp(gamma * jax.nn.relu(fixed + m) * (s - m), row.negative)
        pull = rows.log_sum_exp(-gamma * jax.nn.relu(1 + m - fixed) * (s - 1 + m), row.positive)
        complete = jnp.any(row.positive, axis=1) & jnp.any(row.negative, axis=1)
        return rows.mean_nonzero(jax.nn.softplus(push + pull), complete)

    return rows.mean_over_rows(batch, formula)
