"""The margin loss, over all triplets or with distance-weighted sampling."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from symm_jax import dtypes
from symm_jax.losses import pair_loss, rows
from symm_jax.losses.batch import Batch, Embeddings, Labels, Loss, Positives, Winners, prepare
from symm_jax.losses.rows import Mean, Row
from symm_jax.queues import Queue
from symm_jax.synthesis import Synthesis
from symm_jax.synthesis.mixtures import Mixture

_NEAREST, _FARTHEST = 0.5, 1.4  # distances of the sampled negatives: nearer ones are taken as this near


def margin_loss(
    embeddings: Embeddings,
    labels: Labels,
    *,
    margin: float = 0.2,
    beta: float | Float[ArrayLike, ""] | Float[ArrayLike, " classes"] = 1.2,
    mining: str = "all",
    key: Array | None = None,
    positives: Positives = None,
    synthesis: Synthesis | Mixture | None = None,
    queue: Queue | None = None,
    l2_normalize: bool = True,
    candidates: str = "product",
    with_winners: bool = False,
    block_size: int | None = None,
    axis_name: str | None = None,
) -> Loss | tuple[Loss, Winners]:
    """Margin loss (Wu et al., ICCV 2017).

    For each triplet of an image x, a positive p and a negative z, with the Euclidean distance D

        max(0, D(x, p) - beta + margin) + max(0, beta - D(x, z) + margin)

    The loss is the sum over the triplets, divided by the number of terms above 0. The defaults are those of
    pytorch-metric-learning, and the paper's. With synthesis, D(x, z) is the smallest distance over the candidate pairs
    of points of two classes.

    Args:
      embeddings: (n, dim) floating, or (n, 2, dim): the anchor and the positive of n pairs. A synthesis of points
        needs pairs.
      labels: (n,) integer, of the images or of the pairs. Equal labels mean the same class. Labels beyond the integers
        of JAX are an error.
      margin: distance from beta at which a term becomes 0, 0 or more.
      beta: the distance that separates positives from negatives: a number; or an array, () or (classes,), that is
        learnt: gradients pass through it. Labels then index it, from 0. In a compiled program, a label outside it makes
        the loss NaN. The paper adds nu x its mean to the loss.
      mining: the triplets. "all"; or "distance_weighted": for each (x, p) one negative, sampled with weights that are
        large where distances between random unit vectors are rare, among negatives nearer than 1.4.
      key: PRNG key of the sampling. The sample does not depend on the number of devices, with JAX's default keys
        (threefry).
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
      Scalar, float32 (float64 for float64 input), 0 without a triplet. If `with_winners`, also the
      fraction (points, points) of each pair among the hardest negatives: see `synthetic_share`.

    Raises:
      ValueError: a shape, a dtype or an option is wrong, or a label or embedding does not fit JAX's 32 bits.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.array([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6]])
      >>> loss = margin_loss(x, jnp.array([0, 0, 1]))
      >>> print(f"{loss:.4f}")  # D is 0.8944, 0.6325 and 0.2828: the mean of 1.4 - 0.6325 and 1.4 - 0.2828
      0.9424
    """
    pair_loss.check_number("margin", margin)
    if mining not in ("all", "distance_weighted"):
        raise ValueError(f"mining must be all or distance_weighted; got {mining!r}")
    if mining == "distance_weighted":
        dtypes.require_key(key, "mining='distance_weighted'")
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
    )
    dim = jnp.shape(embeddings)[-1]

    def formula(row: Row) -> Mean:
        if mining == "all":
            pulls = jnp.sum(row.negative, axis=1, keepdims=True)
            pushes = jnp.sum(row.positive, axis=1, keepdims=True)
        else:
            pulls = jnp.any(row.negative, axis=1, keepdims=True)
            pushes = _sample_negatives(row, dim, implementation)
        distance = rows.to_distance(row.values)
        threshold = row.extra[:, None]
        pull = jax.nn.relu(distance - threshold + margin)
        push = jax.nn.relu(threshold - distance + margin)
        dtype = distance.dtype
        pulls = jnp.where(row.positive, pulls, 0).astype(dtype)
        pushes = jnp.where(row.negative, pushes, 0).astype(dtype)
        return Mean(
            jnp.sum(pulls * pull) + jnp.sum(pushes * push), jnp.sum(pulls * (pull > 0)) + jnp.sum(pushes * (push > 0))
        )

    keys, implementation = None, None
    if mining == "distance_weighted" and key is not None:
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(batch.ids.position)
        if jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
            keys, implementation = jax.random.key_data(keys), jax.random.key_impl(keys)
    return rows.mean_over_rows(batch, formula, extra=_find_beta(beta, batch, labels is None), keys=keys)


def _find_beta(beta: ArrayLike, batch: Batch, masked: bool) -> jax.Array:
    """The beta of each row, (n,)."""
    label, dtype = batch.ids.label, jax.tree.leaves(batch.items)[0].dtype
    if isinstance(beta, (int, float)):
        pair_loss.check_number("beta", beta)
        return jnp.full(label.shape, beta, dtype)
    beta = dtypes.to_device(beta, "beta")
    if beta.ndim > 1 or not beta.size or not jnp.issubdtype(beta.dtype, jnp.floating):
        raise ValueError(f"beta must be a number, or a floating array () or (classes,); got {beta.dtype} {beta.shape}")
    if not beta.ndim:
        return jnp.broadcast_to(beta.astype(dtype), label.shape)
    if masked:
        raise ValueError(f"beta of shape {beta.shape} is one number per class, so it needs labels instead of positives")
    if not isinstance(label, Tracer):
        lowest, highest = np.min(label), np.max(label)
        if lowest < 0 or highest >= len(beta):
            raise ValueError(f"labels must index beta, from 0 to {len(beta) - 1}; they are {lowest} to {highest}")
    return jnp.where((label >= 0) & (label < len(beta)), beta.astype(dtype)[label], jnp.nan)


def _sample_negatives(row: Row, dim: int, implementation: Any = None) -> jax.Array:
    """How often each negative is sampled, (rows, columns): once per positive of its row, with replacement.

    The weight of a negative at the distance d is 1 / q(d), where q(d) = d^(dim - 2) (1 - d^2 / 4)^((dim - 3) / 2) is
    the density of distances between random unit vectors. A row without a negative nearer than 1.4 samples from all its
    negatives alike.
    """
    distance = jax.lax.stop_gradient(rows.to_distance(row.values))
    d = jnp.clip(distance, _NEAREST, _FARTHEST)
    log_weight = (2 - dim) * jnp.log(d) - 0.5 * (dim - 3) * jnp.log(1 - d * d / 4)
    near = row.negative & (distance < _FARTHEST)
    largest = jnp.max(jnp.where(near, log_weight, -jnp.inf), axis=1, keepdims=True)
    weight = jnp.where(near, jnp.exp(log_weight - jnp.where(jnp.isfinite(largest), largest, 0)), 0)
    weight = jnp.where(jnp.any(near, axis=1, keepdims=True), weight, row.negative.astype(d.dtype))
    upto = jnp.cumsum(weight, axis=1)
    number = jnp.sum(row.positive, axis=1)
    column = jnp.arange(weight.shape[1])[None, :]

    def draw(k, counts):
        wrap = functools.partial(jax.random.wrap_key_data, impl=implementation)
        keys = jax.vmap(lambda data: jax.random.fold_in(wrap(data), k))(row.keys)
        point = jax.vmap(lambda key: jax.random.uniform(key, dtype=d.dtype))(keys) * upto[:, -1]
        chosen = jnp.sum(upto <= point[:, None], axis=1)  # the first column whose sum is above the point
        return counts + ((column == chosen[:, None]) & (k < number[:, None]))

    return jax.lax.fori_loop(0, jnp.max(number), draw, jnp.zeros(weight.shape, jnp.int32))
