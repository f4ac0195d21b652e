"""The Multi-Similarity loss and its miner."""

import jax
import jax.numpy as jnp

from symm_jax.losses import pair_loss, rows
from symm_jax.losses.batch import Embeddings, Labels, Loss, Positives, Winners, prepare
from symm_jax.losses.rows import Mean, Row
from symm_jax.queues import Queue
from symm_jax.synthesis import Synthesis
from symm_jax.synthesis.mixtures import Mixture


def multi_similarity_loss(
    embeddings: Embeddings,
    labels: Labels,
    *,
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 0.5,
    mining: str = "all",
    epsilon: float = 0.1,
    positives: Positives = None,
    synthesis: Synthesis | Mixture | None = None,
    queue: Queue | None = None,
    l2_normalize: bool = True,
    candidates: str = "product",
    with_winners: bool = False,
    block_size: int | None = None,
    axis_name: str | None = None,
) -> Loss | tuple[Loss, Winners]:
    """Multi-Similarity loss (Wang et al., CVPR 2019).

    The mean over rows of

        log(1 + sum over positives of e^(-alpha (s - base))) / alpha
        + log(1 + sum over negatives of e^(beta (s - base))) / beta

    where s is the cosine similarity. The paper calls the base lambda and sets it to 1. These defaults are those of
    pytorch-metric-learning. With synthesis, s of a negative is the largest over the candidate pairs of points of two
    classes.

    Args:
      embeddings: (n, dim) floating, or (n, 2, dim): the anchor and the positive of n pairs. A synthesis of points
        needs pairs.
      labels: (n,) integer, of the images or of the pairs. Equal labels mean the same class. Labels beyond the integers
        of JAX are an error.
      alpha: weight of the positives' exponents, above 0.
      beta: weight of the negatives' exponents, above 0.
      base: the similarity that separates positives from negatives, 0 or more.
      mining: "all" pairs; or "hard", the paper's miner. It keeps a negative that is more similar than the least similar
        positive - epsilon, and a positive that is less similar than the most similar negative + epsilon. A row without
        either keeps its other term. It keeps all mixtures of Metrix.
      epsilon: margin of the miner, 0 or more.
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
      Scalar, float32 (float64 for float64 input), 0 without other images. If `with_winners`, also the
      fraction (points, points) of each pair among the hardest negatives: see `synthetic_share`.

    Raises:
      ValueError: a shape, a dtype or an option is wrong, or a label or embedding does not fit JAX's 32 bits.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.eye(2)
      >>> print(f"{multi_similarity_loss(x, jnp.zeros(2, int)):.4f}")  # log(1 + e) / 2: the images of one class, s = 0
      0.6566
    """
    pair_loss.check_number("alpha", alpha, above=0)
    pair_loss.check_number("beta", beta, above=0)
    pair_loss.check_number("base", base)
    pair_loss.check_number("epsilon", epsilon)
    if mining not in ("all", "hard"):
        raise ValueError(f"mining must be all or hard; got {mining!r}")
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
        weighted=True,
    )

    def formula(row: Row) -> Mean:
        s, positive, negative = row.values, row.positive, row.negative
        if mining == "hard":
            least_positive = jnp.min(jnp.where(positive != 0, s, jnp.inf), axis=1, keepdims=True)
            most_negative = jnp.max(jnp.where(negative != 0, s, -jnp.inf), axis=1, keepdims=True)
            positive, negative = positive * (s - epsilon < most_negative), negative * (s + epsilon > least_positive)
        pull = jax.nn.softplus(rows.log_sum_exp(-alpha * (s - base), positive)) / alpha
        push = jax.nn.softplus(rows.log_sum_exp(beta * (s - base), negative)) / beta
        return rows.mean(pull + push, jnp.ones(len(s), bool))

    return rows.mean_over_rows(batch, formula)
