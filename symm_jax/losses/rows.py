"""The batch losses' common part: rows of similarities, split into positives and negatives, and means over them.

A batch loss is a function of rows. Row i holds the similarity of item i with every item of the whole batch, and says
which of them are positives and which are negatives. A loss is a formula over a few rows that returns a mean:

    def formula(row):
        loss = ...                                      # (rows,) or (rows, columns), from row.values
        return rows.mean(loss, row.positive)

`mean_over_rows` evaluates it over all rows, stored or in blocks, on one device or several.

Without a synthesis, the items are images. An image is neither a positive nor a negative of itself. With a synthesis,
the items are pairs. The value of two pairs is that of their hardest two points (mining.py), and the value of a pair
with itself is that of its two images, which is a positive. A synthesis changes nothing else.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Integer

from symm_jax import devices, dtypes, similarity
from symm_jax.losses import candidates, mining, pair_loss
from symm_jax.losses.candidates import Rule
from symm_jax.losses.mining import PairPoints
from symm_jax.synthesis import Synthesis

Embeddings = Float[ArrayLike, "n dim"] | Float[ArrayLike, "n 2 dim"]
Labels = Integer[ArrayLike, " n"] | None
Positives = Bool[ArrayLike, "n columns"] | None
Loss = Float[Array, ""]
Winners = Float[Array, "points points"]

_MAX_STORED = 2**24, 2**22  # with more entries, of images and of pairs with a synthesis, blocks are recomputed


class Row(NamedTuple):
    """Some rows of a batch, as a formula sees them. All three are (rows, columns)."""

    values: jax.Array  # similarity x . y; or the closeness -|x - y|^2 / 2, if the batch compares distances
    positive: jax.Array  # bool; the item itself is neither positive nor negative
    negative: jax.Array  # bool
    extra: Any  # what the loss gave to `mean_over_rows`, of these rows
    keys: Any


class Mean(NamedTuple):
    """A mean over entries or rows: their sum, and how many count. Both are summed over blocks and devices."""

    total: jax.Array
    number: jax.Array


class Images(NamedTuple):
    """Embeddings (n, dim), and |x|^2 / 2 (n,)."""

    embeddings: jax.Array
    half_square: jax.Array


class Ids(NamedTuple):
    """Integers (n,): labels, and positions in the whole batch. Rows also have what is theirs alone."""

    label: jax.Array
    position: jax.Array
    positives: jax.Array | None = None  # (n, N) bool
    keys: jax.Array | None = None  # (n, ...) key data
    winners: jax.Array | None = None  # (n, N) uint8, if the values are stored


class Batch(NamedTuple):
    """The checked arguments of a batch loss."""

    items: Images | PairPoints
    ids: Ids
    own: jax.Array | None  # (n,), the value of each pair with itself; None without a synthesis
    rule: Rule
    with_winners: bool
    block_size: int | None
    axis_name: str | None


def prepare(
    embeddings: ArrayLike,
    labels: ArrayLike | None,
    *,
    positives: ArrayLike | None,
    synthesis: Synthesis | None,
    l2_normalize: bool,
    candidates: str,
    with_winners: bool,
    block_size: int | None,
    axis_name: str | None,
    distance: bool = False,
) -> Batch:
    """Checks the arguments of a batch loss. With `distance`, values are closenesses -|x - y|^2 / 2.

    Raises:
      ValueError: shapes, dtypes or options do not fit.
    """
    pair_loss.check_options(synthesis, l2_normalize, with_winners, block_size)
    x = dtypes.to_device(embeddings, "embeddings")
    _check_embeddings(x, synthesis)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if l2_normalize:
        x = similarity.normalize(x)
    ids = _number_items(len(x), labels, positives, axis_name)
    if synthesis is not None:
        points = mining.create_points(x[:, 0], x[:, 1], synthesis)
        pairs = pair_loss.lookup_pairs(candidates, points.products.shape[1])
        own = -0.5 * pair_loss.squared_distance(points) if distance else points.products[:, 0, 1]
        return Batch(points, ids, own, Rule(pairs, distance=distance), with_winners, block_size, axis_name)
    if x.ndim == 3:
        x, ids = x.reshape(2 * len(x), -1), _split_pairs(ids)
    half_square = 0.5 * jnp.sum(x * x, axis=1)  # constant, if normalised
    items = Images(x, jax.lax.stop_gradient(half_square) if l2_normalize else half_square)
    pair_loss.lookup_pairs(candidates, 2)
    return Batch(items, ids, None, Rule((), distance=distance), with_winners, block_size, axis_name)


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

    def compare(rows, columns):
        if mined:
            return mining.find_hardest(rows, columns, rule)
        x, y = rows.embeddings, columns.embeddings
        return _square(x) if columns is rows else similarity.product(x, y), None

    def block(wanted, rows, columns, row_ids, column_ids):
        (items, row_half, own, extra), (columns, column_half, weights) = rows, columns
        values, winners = (items, row_ids.winners) if columns is None else compare(items, columns)
        itself = row_ids.position[:, None] == column_ids.position[None, :]
        same = row_ids.positives if row_ids.positives is not None else row_ids.label[:, None] == column_ids.label[None]
        if row_half is not None:
            values = values - row_half[:, None] - column_half[None, :]
        if mined:
            values, same, compared = jnp.where(itself, own[:, None], values), same | itself, True
        else:
            compared = ~itself
        row = Row(values, same & compared, ~same & compared, extra, row_ids.keys)
        means = [formula(row) for formula in formulas]
        total, counts, won = jnp.zeros((), values.dtype), None, None
        if "total" in wanted:
            total = sum((weight * mean.total for weight, mean in zip(weights, means, strict=True)), total)
            if with_winners and winners is not None:
                won = candidates.count_winners(winners, row.negative, count).astype(values.dtype)
        if "counts" in wanted:
            counts = jnp.stack([jax.lax.stop_gradient(mean.number).astype(values.dtype) for mean in means])
        return total, (counts, won)

    rows, columns, row_ids = batch.items, similarity.gather(batch.items, batch.axis_name), batch.ids._replace(keys=keys)
    column_ids = similarity.gather(Ids(row_ids.label, row_ids.position), batch.axis_name)
    if len(row_ids.label) == len(column_ids.label):
        columns = rows  # one device
    row_half = column_half = None
    if distance and isinstance(rows, Images) and isinstance(columns, Images):
        row_half, column_half = rows.half_square, columns.half_square
    size = batch.block_size or devices.block_sizes().loss_rows
    entries = len(row_ids.label) * len(column_ids.label)
    if batch.block_size is None and entries <= _MAX_STORED[mined]:
        rows, winners = compare(rows, columns)
        columns, row_ids = None, row_ids._replace(winners=winners)
        size = max(1, devices.block_sizes().loss_entries // len(column_ids.label))
    rows, columns = (rows, row_half, batch.own, extra), (columns, column_half)

    def add(wanted, rows, columns, weights):
        function = functools.partial(block, wanted)
        return similarity.sum_over_row_blocks(function, rows, (*columns, weights), row_ids, column_ids, size)

    weights = jnp.ones(len(formulas), jax.tree.leaves(rows)[0].dtype)
    if len(formulas) == 1:
        total, (counts, winners) = add(("total", "counts"), rows, columns, weights)
        loss = total * _invert(counts, batch.axis_name)[0]
    else:  # count first, so that one gradient has the weights of all means
        _, (counts, _) = add(("counts",), *jax.lax.stop_gradient((rows, columns)), weights)
        loss, (_, winners) = add(("total",), rows, columns, _invert(counts, batch.axis_name))
    return loss if winners is None else (loss, winners / jnp.maximum(jnp.sum(winners), 1))


def mean(values: jax.Array, where: jax.Array) -> Mean:
    """The mean of the entries `where`."""
    return Mean(jnp.sum(jnp.where(where, values, 0)), jnp.sum(where, dtype=values.dtype))


def mean_nonzero(values: jax.Array, where: jax.Array) -> Mean:
    """The mean of those entries `where` that are above 0."""
    return mean(values, where & (values > 0))


def log_sum_exp(exponents: jax.Array, where: jax.Array) -> jax.Array:
    """`similarity.log_sum_exp` of each row, (rows,)."""
    return similarity.log_sum_exp(exponents, where, axis=1)


def to_distance(closeness: jax.Array) -> jax.Array:
    """The distance of each entry, from its closeness."""
    return similarity.root(-2 * closeness)


def _invert(counts: jax.Array, axis_name: str | None) -> jax.Array:
    """1 / count, where counts are those of this device as a share of all: the mean of devices is the mean over all."""
    counts = counts if axis_name is None else jax.lax.pmean(counts, axis_name)
    return jnp.where(counts > 0, 1 / jnp.where(counts > 0, counts, 1), 0)


@jax.custom_vjp
def _square(x: jax.Array) -> jax.Array:
    """x @ x.T. Its gradient takes one product, because the result is symmetric."""
    return similarity.product(x, x)


_square.defvjp(lambda x: (_square(x), x), lambda x, gradient: (similarity.product(gradient + gradient.T, x.T),))


def _number_items(n: int, labels: Any, positives: Any, axis_name: str | None) -> Ids:
    first = 0 if axis_name is None else n * jax.lax.axis_index(axis_name)
    position = first + jnp.arange(n)
    if (labels is None) == (positives is None):
        raise ValueError("give either labels (n,), or labels=None and positives (n, n), the mask of the positives")
    if positives is None:
        labels = dtypes.to_device(labels, "labels")
        _check_labels(labels, n)
        return Ids(labels, position)
    _check_positives(positives, n, axis_name)
    return Ids(position, position, jnp.asarray(positives))


def _split_pairs(ids: Ids) -> Ids:
    """Numbers the images of pairs (n,) as images (2 n,)."""
    position = jnp.stack([2 * ids.position, 2 * ids.position + 1], axis=1).reshape(-1)
    if ids.positives is None:
        return Ids(jnp.repeat(ids.label, 2), position)
    itself = ids.position[:, None] == jnp.arange(ids.positives.shape[1])[None, :]
    return Ids(position, position, jnp.repeat(jnp.repeat(ids.positives | itself, 2, axis=0), 2, axis=1))


def _check_embeddings(x: jax.Array, synthesis: Synthesis | None) -> None:
    if not x.size or not (x.ndim == 2 or (x.ndim == 3 and x.shape[1] == 2)):
        raise ValueError(f"embeddings must be (n, dim), or (n, 2, dim) for pairs, and not empty; got {x.shape}")
    if synthesis is not None and x.ndim == 2:
        raise ValueError(
            f"a synthesis needs pairs: embeddings (n, 2, dim), the anchor and the positive of each pair, with labels "
            f"(n,); got {x.shape}"
        )
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"embeddings must have a floating dtype, got {x.dtype}")


def _check_labels(labels: jax.Array, n: int) -> None:
    if labels.shape != (n,):
        raise ValueError(f"labels must be (n,) = ({n},), one per image, or per pair; got {labels.shape}")
    pair_loss.check_integers(labels)


def _check_positives(positives: Any, n: int, axis_name: str | None) -> None:
    columns = n if axis_name is None else n * jax.lax.axis_size(axis_name)
    shape, dtype = getattr(positives, "shape", None), getattr(positives, "dtype", None)
    if shape != (n, columns) or dtype not in (bool, jnp.bool_):
        raise ValueError(
            f"positives must be ({n}, {columns}) bool, rows of this device against the whole batch; got "
            f"{shape or type(positives).__name__} {dtype or ''}".rstrip()
        )
    if axis_name is None and not isinstance(positives, Tracer):
        positives = np.asarray(positives)
        rows, others = np.nonzero(positives != positives.T)
        if len(rows):
            raise ValueError(
                f"positives must be symmetric; {len(rows)} entries are not, such as ({rows[0]}, {others[0]}): "
                f"{bool(positives[rows[0], others[0]])} and {bool(positives[others[0], rows[0]])}"
            )
