"""The supervised contrastive loss."""

import jax.numpy as jnp

from symm_jax.losses import pair_loss, rows
from symm_jax.losses.batch import Embeddings, Labels, Loss, Positives, Winners, prepare
from symm_jax.losses.rows import Mean, Row
from symm_jax.queues import Queue
from symm_jax.synthesis import Synthesis
from symm_jax.synthesis.mixtures import Mixture


def supcon_loss(
    embeddings: Embeddings,
    labels: Labels,
    *,
    temperature: float = 0.1,
    positives: Positives = None,
    synthesis: Synthesis | Mixture | None = None,
    queue: Queue | None = None,
    l2_normalize: bool = True,
    candidates: str = "product",
    with_winners: bool = False,
    block_size: int | None = None,
    axis_name: str | None = None,
) -> Loss | tuple[Loss, Winners]:
    """Supervised contrastive loss, SupCon (Khosla et al., NeurIPS 2020, equation 2).

    The mean over rows, of those above 0, of

        -mean over positives p of log(e^(s_p / temperature) / sum over all other images z of e^(s_z / temperature))

    where s is the cosine similarity. The paper's temperature is 0.1 too. With synthesis, s of a negative is the largest
    over the candidate pairs of points of two classes.

    Args:
      embeddings: (n, dim) floating, or (n, 2, dim): the anchor and the positive of n pairs. A synthesis of points
        needs pairs.
      labels: (n,) integer, of the images or of the pairs. Equal labels mean the same class. Labels beyond the integers
        of JAX are an error.
      temperature: divides the similarities, above 0.
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
      Scalar, float32 (float64 for float64 input), 0 without positives. If `with_winners`, also the
      fraction (points, points) of each pair among the hardest negatives: see `synthetic_share`.

    Raises:
      ValueError: a shape, a dtype or an option is wrong, or a label or embedding does not fit JAX's 32 bits.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
      >>> print(f"{supcon_loss(x, jnp.array([0, 0, 1]), temperature=1.0):.4f}")  # log(1 + exp(-1))
      0.3133
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
        logits = row.values / temperature
        number = jnp.sum(row.positive, axis=1)
        attraction = jnp.sum(jnp.where(row.positive, logits, 0), axis=1) / jnp.maximum(number, 1)
        loss = rows.log_sum_exp(logits, row.positive | row.negative) - attraction
        return rows.mean_nonzero(loss, number > 0)

    return rows.mean_over_rows(batch, formula)
