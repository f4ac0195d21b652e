"""The batch losses' common part: rows of similarities, split into positives and negatives, and means over them.

A batch loss is a function of rows. Row i holds the similarity of item i with every item of the whole batch, and says
which of them are positives and which are negatives. A loss is a formula over a few rows that returns a mean:

    def formula(row):
        loss = ...                                      # (rows,) or (rows, columns), from row.values
        return rows.mean(loss, row.positive)

`mean_over_rows` evaluates it over all rows, stored or in blocks, on one device or several.

The items are images. An image is neither a positive nor a negative of itself. With a synthesis of points, the items
are pairs. The value of two pairs is that of their hardest two points (mining.py), and the value of a pair with itself
is that of its two images, which is a positive.

No other option changes a formula either. SiMix adds images. A queue adds columns to the rows of images: past images.
With Metrix, the formulas see every row once more, mixed: it has the negatives only, and each counts in part as a
positive and in part as a negative.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from symm_jax import devices, similarity
from symm_jax.losses import candidates, mining
from symm_jax.losses.batch import Batch, Ids, Images, Loss, Past, Winners
from symm_jax.losses.mining import PairPoints

_MAX_STORED = 2**24, 2**22  # with more entries, of images and of pairs with a synthesis, blocks are recomputed
_PAST, _EMPTY = -1, -2  # positions of columns that a queue holds, and of its places that were never written


class Row(NamedTuple):
    """Some rows of a batch, as a formula sees them. All three are (rows, columns)."""

    values: jax.Array  # similarity x . y; or the closeness -|x - y|^2 / 2, if the batch compares distances
    positive: jax.Array  # bool; the item itself is neither positive nor negative. Of mixed rows, weights from 0 to 1
    negative: jax.Array  # likewise
    extra: Any  # what the loss gave to `mean_over_rows`, of these rows
    keys: Any


class Mean(NamedTuple):
    """A mean over entries or rows: their sum, and how many count. Both are summed over blocks and devices."""

    total: jax.Array
    number: jax.Array


def mean_over_rows(
    batch: Batch, *formulas: Callable[[Row], Mean], extra: Any = None, keys: jax.Array | None = None
) -> Loss | tuple[Loss, Winners]:
    """Sums the means that the formulas describe, over all rows of all devices.

    Args:
      batch: from `prepare`.
      formulas: each maps a `Row` of any number of rows to a `Mean`. They may close over Python values only, not over
        arrays.
      extra: tree of floating arrays (n, ...) of the rows, for the formulas. Gradients pass through them.
      keys: integers (n, ...) of the rows, for the formulas.

    Returns:
      The loss; with `with_winners`, (loss, winners): see `pair_loss.reduce_rows`. A mean over nothing is 0. Across
      devices, the mean of the devices' losses is the loss of the whole batch.
    """
    mined, distance, rule, with_winners = batch.own is not None, batch.rule.distance, batch.rule, batch.with_winners
    count = batch.items.products.shape[1] if isinstance(batch.items, PairPoints) else 0

    def compare(rows, columns, past):
        if mined:
            return mining.find_hardest(rows, columns, rule)
        x, y = rows.embeddings, columns.embeddings
        values = _square(x) if columns is rows else similarity.product(x, y)
        if past is not None:
            values = jnp.concatenate([values, similarity.product(x, past.images.embeddings)], axis=1)
        return values, None

    def block(wanted, rows, columns, row_ids, column_ids):
        items, row_half, own, base, extra = rows
        columns, column_half, weights = columns
        column_ids, past = column_ids
        values, winners = (items, row_ids.winners) if columns is None else compare(items, columns, past)
        itself = row_ids.position[:, None] == column_ids.position[None, :]
        same = row_ids.positives if row_ids.positives is not None else row_ids.label[:, None] == column_ids.label[None]
        if row_half is not None and column_half is not None:
            values = values - row_half[:, None] - column_half[None, :]
        if own is not None:
            values, same, compared = jnp.where(itself, own[:, None], values), same | itself, True
        else:
            compared = ~itself if past is None else ~itself & (column_ids.position != _EMPTY)[None, :]
        row = Row(values, same & compared, ~same & compared, extra, row_ids.keys)
        means = [formula(row) for formula in formulas]
        if base is not None:
            means += [formula(_mix(row, base, row_ids.shares)) for formula in formulas]
        total, counts, won = jnp.zeros((), values.dtype), None, None
        if "total" in wanted:
            total = sum((weight * mean.total for weight, mean in zip(weights, means, strict=True)), total)
            if with_winners and winners is not None:
                won = candidates.count_winners(winners, row.negative, count).astype(values.dtype)
        if "counts" in wanted:
            counts = jnp.stack([jax.lax.stop_gradient(mean.number).astype(values.dtype) for mean in means])
        return total, (counts, won)

    rows, columns, row_ids = batch.items, similarity.gather(batch.items, batch.axis_name), batch.ids._replace(keys=keys)
    column_ids, past = similarity.gather(Ids(row_ids.label, row_ids.position), batch.axis_name), batch.past
    if len(row_ids.label) == len(column_ids.label):
        columns = rows  # one device
    row_half = column_half = None
    if distance and isinstance(rows, Images) and isinstance(columns, Images):
        row_half, column_half = rows.half_square, columns.half_square
        if past is not None:
            column_half = jnp.concatenate([column_half, past.images.half_square])
    if past is not None:
        column_ids = _append_past(column_ids, past)
    size = batch.block_size or devices.block_sizes().loss_rows
    entries = len(row_ids.label) * len(column_ids.label)
    if batch.block_size is None and entries <= _MAX_STORED[mined]:
        rows, winners = compare(rows, columns, past)
        columns, row_ids = None, row_ids._replace(winners=winners)
        size = max(1, devices.block_sizes().loss_entries // len(column_ids.label))
    base, factors = None, jnp.ones(len(formulas), jax.tree.leaves(rows)[0].dtype)
    if batch.mixed is not None:
        base, row_ids = batch.mixed.value, row_ids._replace(shares=batch.mixed.shares)
        factors = jnp.concatenate([factors, batch.mixed.weight * factors])
    rows, columns = (rows, row_half, batch.own, base, extra), (columns, column_half)

    def add(wanted, rows, columns, weights):
        function = functools.partial(block, wanted)
        return similarity.sum_over_row_blocks(function, rows, (*columns, weights), row_ids, (column_ids, past), size)

    if len(factors) == 1:
        total, (counts, winners) = add(("total", "counts"), rows, columns, factors)
        loss = total * _invert(counts, batch.axis_name)[0]
    else:  # count first, so that one gradient has the weights of all means
        _, (counts, _) = add(("counts",), *jax.lax.stop_gradient((rows, columns)), factors)
        loss, (_, winners) = add(("total",), rows, columns, factors * _invert(counts, batch.axis_name))
    return loss if winners is None else (loss, winners / jnp.maximum(jnp.sum(winners), 1))


def mean(values: jax.Array, where: jax.Array) -> Mean:
    """The mean of the entries `where`; of mixed rows, of each entry times its weight, where that is above 0."""
    if where.dtype != bool:
        values, where = where * values, where > 0
    return Mean(jnp.sum(jnp.where(where, values, 0)), jnp.sum(where, dtype=values.dtype))


def mean_nonzero(values: jax.Array, where: jax.Array) -> Mean:
    """The mean of those entries `where` that are above 0."""
    return mean(values, where * (values > 0))


def log_sum_exp(exponents: jax.Array, where: jax.Array) -> jax.Array:
    """`similarity.log_sum_exp` of each row, (rows,). Weights of mixed rows multiply e^exponent."""
    if where.dtype != bool:
        exponents, where = exponents + jnp.log(jnp.where(where > 0, where, 1)), where > 0
    return similarity.log_sum_exp(exponents, where, axis=1)


def to_distance(closeness: jax.Array) -> jax.Array:
    """The distance of each entry, from its closeness. Rounding hides differences of distances below about 1e-3.

    That is for float32 and unit embeddings: the closeness comes from products of embeddings, not from their difference.
    """
    return similarity.root(-2 * closeness)


def _mix(row: Row, base: jax.Array, shares: jax.Array) -> Row:
    """The mixtures of each negative with `base` (rows,), by shares (rows, 2); those of Metrix."""
    as_positive, as_negative = shares[:, :1], shares[:, 1:]
    values = as_positive * base[:, None] + as_negative * row.values
    return row._replace(values=values, positive=row.negative * as_positive, negative=row.negative * as_negative)


def _append_past(ids: Ids, past: Past) -> Ids:
    """The columns of the batch and those of a queue. No row has the position of a column of a queue."""
    position = jnp.where(past.exists, _PAST, _EMPTY).astype(ids.position.dtype)
    return Ids(jnp.concatenate([ids.label, past.label]), jnp.concatenate([ids.position, position]))


def _invert(counts: jax.Array, axis_name: str | None) -> jax.Array:
    """1 / count, where counts are those of this device as a share of all: the mean of devices is the mean over all."""
    counts = counts if axis_name is None else jax.lax.pmean(counts, axis_name)
    return jnp.where(counts > 0, 1 / jnp.where(counts > 0, counts, 1), 0)


@jax.custom_vjp
def _square(x: jax.Array) -> jax.Array:
    """x @ x.T. Its gradient takes one product, because the result is symmetric."""
    return similarity.product(x, x)


_square.defvjp(lambda x: (_square(x), x), lambda x, gradient: (similarity.product(gradient + gradient.T, x.T),))
