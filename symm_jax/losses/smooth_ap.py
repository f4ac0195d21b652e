"""The Smooth-AP loss."""

import jax.numpy as jnp

from symm_jax.losses import pair_loss, rows, soft_ranks
from symm_jax.losses.batch import Embeddings, Labels, Loss, Positives, Winners, prepare
from symm_jax.losses.rows import Mean, Row
from symm_jax.queues import Queue
from symm_jax.synthesis import Synthesis
from symm_jax.synthesis.mixtures import Mixture


def smooth_ap_loss(
    embeddings: Embeddings,
    labels: Labels,
    *,
    temperature: float = 0.01,
    positives: Positives = None,
    synthesis: Synthesis | Mixture | None = None,
    queue: Queue | None = None,
    l2_normalize: bool = True,
    candidates: str = "product",
    with_winners: bool = False,
    block_size: int | None = None,
    axis_name: str | None = None,
) -> Loss | tuple[Loss, Winners]:
    """Smooth-AP (Brown et al., ECCV 2020): one minus the mean of a smooth average precision.

    Each image with a positive is a query. Its average precision is the mean over positives p of

        (1 + sum over other positives z of g(z, p)) / (1 + sum over all other images z of g(z, p))

    where g(z, p) = sigmoid((s_z - s_p) / temperature), and s is the cosine similarity with the query. The temperature
    is the paper's. With synthesis, s of a negative is the largest over the candidate pairs of points of two classes.
    Time grows with n^2 x the images of the largest class.

    Args:
      embeddings: (n, dim) floating, or (n, 2, dim): the anchor and the positive of n pairs. A synthesis of points
        needs pairs.
      labels: (n,) integer, of the images or of the pairs. Equal labels mean the same class. Labels beyond the integers
        of JAX are an error.
      temperature: width of the sigmoid that replaces the step, above 0.
      positives: with labels=None, (n, n) bool: which images, or pairs, are positives of each other; symmetric. Across
        devices (n, N), the rows of this device.
      synthesis: (anchor, positive) -> coefficients (n, points, 2); or SiMix. None: the originals only.
      queue: past (embeddings (size, dim), labels (size,)) that each row is compared with too, without gradient:
        cross-batch memory (Wang et al., CVPR 2020). It goes with labels, and without a synthesis of points. The gallery
        of a query is then the batch and the queue; images of the queue are not queries.
      l2_normalize: compare embeddings of unit norm.
      candidates: the pairs of points to mine: "product" (16 of 4 points), "ordered" (12) or "unordered" (6).
      with_winners: also return how often each pair of points was the hardest. It needs a synthesis.
      block_size: number of rows in a block; memory grows with n x block_size. None: chosen for speed.
      axis_name: name of the mapped axis that splits the batch. None: the batch is not split.

    Returns:
      Scalar, float32 (float64 for float64 input), 0 without positives. If `with_winners`, also the
      fraction (points, points) of each pair among the hardest negatives: see `synthetic_share`.

    Raises:
      ValueError: a shape, a dtype or an option is wrong, or a label or embedding does not fit JAX's 32 bits.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
      >>> print(f"{smooth_ap_loss(x, jnp.array([0, 0, 1])):.4f}")  # 1 - mean of 1/2 (rank 2) and 1 / (1 + sigmoid(0))
      0.4167
    """
    pair_loss.check_number("temperature", temperature, above=0)
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
        masks = row.positive, row.positive | row.negative
        among_positives, among_all = soft_ranks.rank_positives(row.values, row.positive, masks, temperature)
        number = jnp.sum(row.positive, axis=1)
        precision = jnp.where(row.positive, among_positives / among_all, 0)
        return rows.mean(1 - jnp.sum(precision, axis=1) / jnp.maximum(number, 1), number > 0)

    return rows.mean_over_rows(batch, formula)
