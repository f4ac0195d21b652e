"""The contrastive loss."""

import jax

from symm_jax.losses import pair_loss, rows
from symm_jax.losses.batch import Embeddings, Labels, Loss, Positives, Winners, prepare
from symm_jax.losses.rows import Mean, Row
from symm_jax.queues import Queue
from symm_jax.synthesis import Synthesis
from symm_jax.synthesis.mixtures import Mixture


def contrastive_loss(
    embeddings: Embeddings,
    labels: Labels,
    *,
    positive_margin: float = 0.0,
    negative_margin: float = 1.0,
    positives: Positives = None,
    synthesis: Synthesis | Mixture | None = None,
    queue: Queue | None = None,
    l2_normalize: bool = True,
    candidates: str = "product",
    with_winners: bool = False,
    block_size: int | None = None,
    axis_name: str | None = None,
) -> Loss | tuple[Loss, Winners]:
    """Contrastive loss (Hadsell et al., CVPR 2006), on distances, not on their squares.

    The mean of max(0, D(x, p) - positive_margin) over all positives plus the mean of max(0, negative_margin - D(x, z))
    over all negatives, where D is the Euclidean distance. Each mean is over its terms above 0. The form and the
    defaults are those of pytorch-metric-learning. With synthesis, D(x, z) is the smallest distance over the candidate
    pairs of points of two classes.

    Args:
      embeddings: (n, dim) floating, or (n, 2, dim): the anchor and the positive of n pairs. A synthesis of points
        needs pairs.
      labels: (n,) integer, of the images or of the pairs. Equal labels mean the same class. Labels beyond the integers
        of JAX are an error.
      positive_margin: distance up to which positives cost nothing, 0 or more.
      negative_margin: distance from which negatives cost nothing, 0 or more.
      positives: with labels=None, (n, n) bool: which images, or pairs, are positives of each other; symmetric. Across
        devices (n, N), the rows of this device.
      synthesis: (anchor, positive) -> coefficients (n, points, 2); or SiMix or Metrix. None: the originals only.
      queue: past (embeddings (size, dim), labels (size,)) that each row is compared with too, without gradient:
        cross-batch memory (Wang et al., CVPR 2020). It goes with labels, and without a synthesis of points.
      l2_normalize: compare embeddings of unit norm.
      candidates: the pairs of points to mine: "product" (16 of 4 points), "ordered" (12) or "unordered" (6).
      with_winners: also return how often each pair of points was the hardest. It needs a synthesis.
      block_size: number of rows in a block; memory grows with n x block_size. None: chosen for speed.
      axis_name: name of the mapped axis that splits the batch. None: the batch is not split.

    Returns:
      Scalar, float32 (float64 for float64 input), 0 without terms above 0. If `with_winners`, also the
      fraction (points, points) of each pair among the hardest negatives: see `synthetic_share`.

    Raises:
      ValueError: a shape, a dtype or an option is wrong, or a label or embedding does not fit JAX's 32 bits.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.array([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6]])
      >>> print(f"{contrastive_loss(x, jnp.array([0, 0, 1])):.4f}")  # 0.8944, and the mean of 1 - 0.6325 and 1 - 0.2828
      1.4368
    """
    pair_loss.check_number("positive_margin", positive_margin)
    pair_loss.check_number("negative_margin", negative_margin)
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
        distance=True,
        weighted=True,
    )

    def pull(row: Row) -> Mean:
        return rows.mean_nonzero(jax.nn.relu(rows.to_distance(row.values) - positive_margin), row.positive)

    def push(row: Row) -> Mean:
        return rows.mean_nonzero(jax.nn.relu(negative_margin - rows.to_distance(row.values)), row.negative)

    return rows.mean_over_rows(batch, pull, push)
