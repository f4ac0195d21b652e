"""What the losses share: checking their arguments, summing over rows, cross-entropy and distances."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from symm_jax import mining, similarity
from symm_jax.mining import Points, Rule, Synthesis


class Places(NamedTuple):
    """Where pairs stand in the whole batch: label and row number, integers (n,)."""

    label: jax.Array
    row: jax.Array


class Batch(NamedTuple):
    """What a loss was given, checked: embeddings in float32 at least, and how to go through them."""

    points: Points
    places: Places
    l2: jax.Array | float
    candidates: mining.Candidates | None  # None without synthesis
    with_winners: bool
    block_size: int
    axis_name: str | None


def prepare(
    anchor: jax.Array,
    positive: jax.Array,
    labels: jax.Array,
    *,
    synthesis: Synthesis | None,
    candidates: str,
    l2_normalize: bool,
    with_winners: bool,
    block_size: int,
    axis_name: str | None,
    l2_reg: float = 0.0,
) -> Batch:
    """Checks the arguments of a loss and makes the points.

    The l2 term is l2_reg / 4 (mean |a|^2 + mean |p|^2) of the raw embeddings, as the original weighs it.

    Raises:
      ValueError: shapes, dtypes or options do not fit.
    """
    anchor, positive, labels = (jnp.asarray(x) for x in (anchor, positive, labels))
    _check(anchor, positive, labels)
    if not isinstance(block_size, int) or block_size < 1:
        raise ValueError(f"block_size must be a whole number of rows, 1 or more; got {block_size!r}")
    if with_winners and synthesis is None:
        raise ValueError("with_winners needs a synthesis: without one there is nothing to choose from")
    dtype = jnp.promote_types(anchor.dtype, jnp.float32)
    anchor, positive = anchor.astype(dtype), positive.astype(dtype)
    l2 = 0.25 * l2_reg * sum(jnp.mean(jnp.sum(x * x, axis=1)) for x in (anchor, positive)) if l2_reg else 0.0
    if l2_normalize:
        anchor, positive = similarity.normalize(anchor), similarity.normalize(positive)
    points = mining.create_points(anchor, positive, synthesis)
    pairs = mining.choose_candidates(candidates, points.products.shape[1])
    first = 0 if axis_name is None else len(labels) * jax.lax.axis_index(axis_name)
    places = Places(labels, first + jnp.arange(len(labels)))
    return Batch(points, places, l2, pairs if synthesis else None, with_winners, block_size, axis_name)


def sum_over_rows(
    batch: Batch, block: Callable[..., tuple[jax.Array, Any, Any]], extra: Any
) -> tuple[jax.Array, Any, jax.Array | None]:
    """Sums `block` over blocks of this device's rows, each against the columns of all devices.

    Args:
      batch: from `prepare`.
      block: (points, extra, places, column points, column places) -> (sum of the rows' losses, any other sum
        without gradient, winners (rows, columns) or None).
      extra: arrays (n, ...) that rows have beside their points.

    Returns:
      (loss sum, other sum, and, if asked for, the share (points, points) of each pair of points among the winners
      of entries of different classes).
    """

    def function(rows, columns, places, column_places):
        total, other, winners = block(*rows, places, columns, column_places)
        if not batch.with_winners:
            return total, (other, None)
        different = places.label[:, None] != column_places.label[None, :]
        return total, (other, mining.count_winners(winners, different, columns.products.shape[1]))

    columns = similarity.gather((batch.points, batch.places), batch.axis_name)
    total, (other, counts) = similarity.sum_over_rows(
        function, (batch.points, extra), columns[0], batch.places, columns[1], batch.block_size
    )
    return total, other, None if counts is None else counts / jnp.maximum(jnp.sum(counts), 1)


def cross_entropy(
    batch: Batch, *, mix: tuple[float, float], own: float, scale: float, positives: str
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Mean over rows of the cross-entropy of softmax(scale S[i]) against the columns of the row's class.

    S[i, j] is the largest over candidates (k, l) of (x q[i, k] + y q[i, l]) . q[j, l], (x, y) = `mix`, and on the
    diagonal of own q[i, k] . q[i, l]. Columns of one class share the target equally. Without synthesis the only
    candidate is the row's anchor with the column's positive.
    """
    if positives not in ("mined", "original"):
        raise ValueError(f"positives must be mined or original, got {positives!r}")
    mined = positives == "mined" and batch.candidates
    diagonal = own * mining.hardest_within(batch.points, mined or ((0, 1),))

    def block(points, diagonal, places, columns, column_places):
        winners = None
        if batch.candidates:
            logits, winners = mining.hardest(points, columns, Rule(batch.candidates, mix))
        else:
            logits = similarity.product(mix[0] * points.anchor + mix[1] * points.positive, columns.positive)
        logits = scale * jnp.where(places.row[:, None] == column_places.row[None, :], diagonal[:, None], logits)
        same = places.label[:, None] == column_places.label[None, :]
        positive = jnp.sum(jnp.where(same, logits, 0), axis=1) / jnp.sum(same, axis=1)
        return jnp.sum(jax.nn.logsumexp(logits, axis=1) - positive), None, winners

    total, _, winners = sum_over_rows(batch, block, diagonal)
    loss = total / len(diagonal) + batch.l2
    return (loss, winners) if batch.with_winners else loss


def closeness(batch: Batch, points: Points, columns: Points) -> tuple[list[jax.Array], jax.Array | None]:
    """Closeness -|x - y|^2 / 2 of images of the rows' classes to images of the columns'.

    Returns:
      Without synthesis, ([of the anchors, of the positives], None), each (n, 2 N): to the columns' anchors, then to
      their positives. With it, ([the largest over all candidates (n, N)], winners), which stands for those four.
    """
    if batch.candidates:
        largest, winners = mining.hardest(points, columns, Rule(batch.candidates, distance=True))
        return [largest], winners

    def halves(p):
        return (p.anchor, 0.5 * p.products[:, 0, 0]), (p.positive, 0.5 * p.products[:, 1, 1])

    def to_columns(x, half_x):
        return [similarity.product(x, y) - half_x[:, None] - half_y[None, :] for y, half_y in halves(columns)]

    return [jnp.concatenate(to_columns(x, half_x), axis=1) for x, half_x in halves(points)], None


def squared_distance(points: Points) -> jax.Array:
    """|anchor - positive|^2 of each pair, (n,): from the difference, exact for near neighbours."""
    return jnp.sum(jnp.square(points.anchor - points.positive), axis=1)


def check_margin(margin: float) -> None:
    """Raises ValueError for a margin that is no distance."""
    if not 0 <= margin < math.inf:
        raise ValueError(f"margin must be a finite number, 0 or more; got {margin!r}")


def _check(anchor: jax.Array, positive: jax.Array, labels: jax.Array) -> None:
    if anchor.ndim != 2 or anchor.shape != positive.shape or not anchor.size:
        raise ValueError(f"anchor and positive must both be (n, dim), got {anchor.shape} and {positive.shape}")
    if anchor.dtype != positive.dtype or not jnp.issubdtype(anchor.dtype, jnp.floating):
        raise ValueError(f"anchor and positive must share a floating dtype, got {anchor.dtype} and {positive.dtype}")
    if labels.shape != anchor.shape[:1]:
        raise ValueError(f"labels must be (n,) = {anchor.shape[:1]} for anchor {anchor.shape}, got {labels.shape}")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels must be integers, got {labels.dtype}")
