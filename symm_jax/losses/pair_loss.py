"""The common parts of the pair losses: checks of arguments, sums over rows, cross-entropy and distances."""

import math
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from symm_jax import devices, dtypes, similarity
from symm_jax.losses import candidates, mining
from symm_jax.losses.candidates import Pairs, Rule, lookup_pairs
from symm_jax.losses.mining import PairPoints
from symm_jax.synthesis import Synthesis

Loss = Float[Array, ""]
Winners = Float[Array, "points points"]

_MAX_PLAIN_ENTRIES = 2**20  # up to so many rows x columns, a loss without mining is computed in one block
_MAX_STORED_PAIRS = 4096  # up to so many pairs, all similarities are stored: about 0.7 GB


class RowIds(NamedTuple):
    """The identity of rows in the whole batch: label and row number, integers (n,)."""

    label: jax.Array
    row: jax.Array


class PairBatch(NamedTuple):
    """The checked arguments of a loss. Embeddings are float32 or float64."""

    points: PairPoints
    row_ids: RowIds
    l2: jax.Array | float  # the value of the l2 term
    pairs: Pairs  # the candidate pairs; () without synthesis
    with_winners: bool
    block_size: int | None
    axis_name: str | None


def prepare_batch(
    anchor: ArrayLike,
    positive: ArrayLike,
    labels: ArrayLike,
    *,
    synthesis: Synthesis | None,
    candidates: str,
    l2_normalize: bool,
    with_winners: bool,
    block_size: int | None,
    axis_name: str | None,
    l2_reg: float = 0.0,
) -> PairBatch:
    """Checks the arguments of a loss and creates the points.

    The l2 term is l2_reg / 4 (mean |a|^2 + mean |p|^2) of the unnormalised embeddings, with the original's factor 1/4.

    Raises:
      ValueError: shapes, dtypes or options do not fit.
    """
    anchor, positive = dtypes.to_device(anchor, "anchor"), dtypes.to_device(positive, "positive")
    labels = dtypes.to_device(labels, "labels")
    _check(anchor, positive, labels)
    check_number("l2_reg", l2_reg)
    check_options(synthesis, l2_normalize, with_winners, block_size)
    dtype = jnp.promote_types(anchor.dtype, jnp.float32)
    anchor, positive = anchor.astype(dtype), positive.astype(dtype)
    l2 = 0.25 * l2_reg * sum(jnp.mean(jnp.sum(x * x, axis=1)) for x in (anchor, positive)) if l2_reg else 0.0
    if l2_normalize:
        anchor, positive = similarity.normalize(anchor), similarity.normalize(positive)
    points = mining.create_points(anchor, positive, synthesis)
    pairs = lookup_pairs(candidates, points.products.shape[1])
    first = 0 if axis_name is None else len(labels) * jax.lax.axis_index(axis_name)
    row_ids = RowIds(labels, first + jnp.arange(len(labels)))
    return PairBatch(points, row_ids, l2, pairs if synthesis else (), with_winners, block_size, axis_name)


def reduce_rows(
    batch: PairBatch,
    row_loss: Callable[..., tuple[jax.Array, Any]],
    extra: Any,
    *,
    rule: Rule,
    plain: Callable[[PairPoints, PairPoints], jax.Array],
) -> tuple[jax.Array, Any, jax.Array | None]:
    """Sums a loss over the rows of this device, each compared with the columns of all devices.

    Args:
      batch: from `prepare_batch`.
      row_loss: (values (rows, columns), extra, row ids, column ids) -> (sum of the losses of the rows, further sums
        without gradient).
      extra: arrays (n, ...) of the rows, besides their points.
      rule: with synthesis, the values are the largest over the candidates of this rule.
      plain: without synthesis, the values are those of this function: (row points, column points) -> values.

    Returns:
      (sum of the losses, further sums, winners). With `batch.with_winners`, winners (points, points) is the fraction
      of each pair of points among the winners of entries of different classes. Otherwise it is None.
    """
    count = batch.points.products.shape[1]

    def mined_loss(values, winners, extra, row_ids, column_ids):
        total, other = row_loss(values, extra, row_ids, column_ids)
        if not batch.with_winners:
            return total, (other, None)
        different = row_ids.label[:, None] != column_ids.label[None, :]
        counts = candidates.count_winners(winners, different, count)
        return total, (other, counts.astype(jnp.float32))  # their sum may exceed int32

    def block(rows, columns, row_ids, column_ids):
        points, extra = rows
        if not batch.pairs:
            total, other = row_loss(plain(points, columns), extra, row_ids, column_ids)
            return total, (other, None)
        return mined_loss(*mining.find_hardest(points, columns, rule), extra, row_ids, column_ids)

    if _stores_all_entries(batch):
        total, (other, counts) = mining.sum_over_square(mined_loss, batch.points, extra, batch.row_ids, rule)
    else:
        columns, column_ids = similarity.gather((batch.points, batch.row_ids), batch.axis_name)
        rows = batch.points, extra
        size = batch.block_size or _choose_block_size(batch)
        total, (other, counts) = similarity.sum_over_row_blocks(block, rows, columns, batch.row_ids, column_ids, size)
    return total, other, None if counts is None else counts / jnp.maximum(jnp.sum(counts), 1)


def _stores_all_entries(batch: PairBatch) -> bool:
    """Whether to store all n x n entries, for speed.

    They are stored with synthesis, without a `block_size`, if the rows are all the classes and not too many.
    """
    n = len(batch.points.anchor)
    whole = batch.axis_name is None or jax.lax.axis_size(batch.axis_name) == 1
    automatic = batch.pairs and batch.block_size is None
    return bool(whole and automatic and n <= _MAX_STORED_PAIRS and mining.square_block_size(n))


def _choose_block_size(batch: PairBatch) -> int:
    """The number of rows in a block. Without mining a block has few arrays, so a small batch is one block."""
    n = len(batch.points.anchor)
    columns = n if batch.axis_name is None else n * jax.lax.axis_size(batch.axis_name)
    return n if not batch.pairs and n * columns <= _MAX_PLAIN_ENTRIES else devices.block_sizes().loss_rows


def cross_entropy(
    batch: PairBatch, *, mix: tuple[float, float], own: float, scale: float, positives: str
) -> Loss | tuple[Loss, Winners]:
    """Mean over rows of the cross-entropy of softmax(scale S[i]) against the columns of the row's class.

    S[i, j] is the largest value over candidates (k, l) of (x q[i, k] + y q[i, l]) . q[j, l], where (x, y) = `mix`.
    S[i, i] is the largest value of own q[i, k] . q[i, l], where k != l. Columns of one class share the target
    equally. Without synthesis the only candidate is the row's anchor with the column's positive.
    """
    check_number("scale", scale, above=0)
    if positives not in ("mined", "original"):
        raise ValueError(f"positives must be mined or original, got {positives!r}")
    # A point is not a positive of itself.
    mined = [(k, l) for k, l in batch.pairs if k != l and positives == "mined"]
    diagonal = own * mining.find_hardest_within(batch.points, mined or [(0, 1)])

    def plain(points, columns):
        row = points.anchor if mix == (1.0, 0.0) else mix[0] * points.anchor + mix[1] * points.positive
        return similarity.product(row, columns.positive)

    on_diagonal = not batch.pairs and mix == (own, 0.0)  # the similarities hold the diagonal already

    def row_loss(logits, diagonal, row_ids, column_ids):
        if not on_diagonal:
            logits = jnp.where(row_ids.row[:, None] == column_ids.row[None, :], diagonal[:, None], logits)
        logits = logits if scale == 1 else scale * logits
        same = row_ids.label[:, None] == column_ids.label[None, :]
        entropies = jnp.where(same, jax.nn.logsumexp(logits, axis=1, keepdims=True) - logits, 0)
        # XLA sums integers slower than floating numbers.
        return jnp.sum(jnp.sum(entropies, axis=1) / jnp.sum(same.astype(logits.dtype), axis=1)), None

    rule = Rule(batch.pairs, mix)
    total, _, winners = reduce_rows(batch, row_loss, diagonal, rule=rule, plain=plain)
    return attach_winners(total / len(diagonal) + batch.l2, winners)


def attach_winners(loss: Loss, winners: Winners | None) -> Loss | tuple[Loss, Winners]:
    """Returns (loss, winners), or the loss if `winners` is None: the result of a loss."""
    return loss if winners is None else (loss, winners)


def closeness(points: PairPoints, columns: PairPoints) -> jax.Array:
    """Closeness -|x - y|^2 / 2 of images, (n, 4 N), in four blocks of columns.

    The blocks are: anchor to anchors, anchor to positives, positive to anchors, positive to positives.
    """

    def half_squares(p):
        return (p.anchor, 0.5 * p.products[:, 0, 0]), (p.positive, 0.5 * p.products[:, 1, 1])

    return jnp.concatenate(
        [
            similarity.product(x, y) - half_x[:, None] - half_y[None, :]
            for x, half_x in half_squares(points)
            for y, half_y in half_squares(columns)
        ],
        axis=1,
    )


def squared_distance(points: PairPoints) -> jax.Array:
    """|anchor - positive|^2 of each pair, (n,). Computed from the difference, so it is exact for near neighbours."""
    return jnp.sum(jnp.square(points.anchor - points.positive), axis=1)


def check_options(synthesis: Any, l2_normalize: Any, with_winners: bool, block_size: Any) -> None:
    """Raises ValueError for a wrong value of an option that pair losses and batch losses share."""
    check_flag("l2_normalize", l2_normalize)
    require_created(synthesis)
    if synthesis is not None and not callable(synthesis):
        refuse(synthesis)
        raise ValueError(
            f"synthesis must be a function, such as synthesis.symmetric, or synthesis.SiMix(key); got {synthesis!r}"
        )
    if block_size is not None and (not isinstance(block_size, numbers.Integral) or block_size < 1):
        raise ValueError(f"block_size must be None or an integer number of rows, 1 or more; got {block_size!r}")
    if with_winners and synthesis is None:
        raise ValueError("with_winners needs a synthesis of points: without one there are no candidate pairs")


def require_created(synthesis: Any) -> None:
    """Raises ValueError for the class of a synthesis in place of an object."""
    if isinstance(synthesis, type):
        raise ValueError(f"synthesis must be created, as in {synthesis.__name__}(key); got the class")


def refuse(synthesis: Any) -> None:
    """Raises ValueError for a synthesis of another kind, with what it goes with."""
    if place := getattr(synthesis, "place", None):
        raise ValueError(f"{type(synthesis).__name__} {place}; this loss does not take it")


def check_flag(name: str, value: Any) -> None:
    """Raises ValueError for an option that is not True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")


def check_integers(labels: jax.Array, meaning: str = "") -> None:
    """Raises ValueError for labels that are not integers. `meaning` says what they number, for the message."""
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"labels must be integers,{meaning} got {labels.dtype}. Number the classes from 0: "
            "np.unique(labels, return_inverse=True)[1]."
        )


def check_number(name: str, value: float, *, above: float = -math.inf) -> None:
    """Raises ValueError unless `value` is a finite Python number, 0 or more, and larger than `above`.

    Options are fixed at compilation, so traced arrays are not accepted.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not (0 <= value < math.inf and value > above):
        bound = "0 or more" if above < 0 else f"above {above}"
        raise ValueError(f"{name} must be a Python number, finite and {bound}; got {value!r}")


def _check(anchor: jax.Array, positive: jax.Array, labels: jax.Array) -> None:
    if anchor.ndim != 2 or anchor.shape != positive.shape or not anchor.size:
        raise ValueError(
            f"anchor and positive must both be (n, dim), not empty; got {anchor.shape} and {positive.shape}"
        )
    if anchor.dtype != positive.dtype or not jnp.issubdtype(anchor.dtype, jnp.floating):
        raise ValueError(f"anchor and positive must share a floating dtype, got {anchor.dtype} and {positive.dtype}")
    if labels.shape != anchor.shape[:1]:
        raise ValueError(f"labels must be (n,) = {anchor.shape[:1]} for anchor {anchor.shape}, got {labels.shape}")
    check_integers(labels)
