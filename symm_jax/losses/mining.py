"""The miner: the hardest pair of points, real or synthetic, of every two classes.

The similarity of point k of class i with point l of class j is

    q[i, k] . q[j, l] = sum over u, v in {anchor, positive} of C[i, k, u] C[j, l, v] G[u][v][i, j]

where C are the coefficients of a synthesis, and G[u][v] = u @ v.T the Gram blocks of the originals. This takes four
products of (n, dim) matrices, for any number of points. The points themselves are never built.

The gradient is written by hand. The forward pass keeps one byte per entry, the number of the winner. The backward
pass recomputes the rest from the Gram blocks, in one pass. With automatic differentiation, XLA recomputes every
candidate in every reduction of the backward pass. That is slower than multiplying all points.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from symm_jax import devices, similarity
from symm_jax.losses import candidates
from symm_jax.losses.candidates import Gram, Rule, Side
from symm_jax.synthesis import MAX_POINTS, Synthesis, with_originals


class PairPoints(NamedTuple):
    """The points of n classes: the originals, and the coefficients of the synthetic points."""

    anchor: jax.Array  # (n, dim)
    positive: jax.Array  # (n, dim)
    coefficients: jax.Array  # (n, points - 2, 2), of the synthetic points
    products: jax.Array  # (n, points, points), similarities within the class, of originals and synthetic points


def create_points(anchor: jax.Array, positive: jax.Array, synthesis: Synthesis | None) -> PairPoints:
    """Creates the points of a synthesis. Without a synthesis the points are the originals.

    Raises:
      ValueError: `synthesis` does not return coefficients (n, points, 2).
    """
    originals = with_originals(jnp.zeros((len(anchor), 0, 2), anchor.dtype))
    coefficients = originals if synthesis is None else synthesis(anchor, positive)
    shape = getattr(coefficients, "shape", ())
    if len(shape) != 3 or shape[::2] != (len(anchor), 2) or not 2 <= shape[1] <= MAX_POINTS:
        raise ValueError(
            f"synthesis must return coefficients of shape ({len(anchor)}, points, 2) for anchor {anchor.shape}, with "
            f"the originals first and {MAX_POINTS} points at most; got {shape or type(coefficients).__name__}"
        )
    synthetic = coefficients[:, 2:].astype(anchor.dtype)
    c = with_originals(synthetic)
    aa, ap, pp = (jnp.sum(x * y, axis=1) for x, y in ((anchor, anchor), (anchor, positive), (positive, positive)))
    if not synthetic.shape[1]:  # XLA drops the products that a loss does not use
        return PairPoints(anchor, positive, synthetic, jnp.stack([aa, ap, ap, pp], axis=1).reshape(-1, 2, 2))
    x, y = c[..., 0], c[..., 1]
    on_anchor, on_positive = (x * u[:, None] + y * v[:, None] for u, v in ((aa, ap), (ap, pp)))
    products = x[:, :, None] * on_anchor[:, None, :] + y[:, :, None] * on_positive[:, None, :]
    return PairPoints(anchor, positive, synthetic, products)


def find_hardest_within(points: PairPoints, pairs: Sequence[tuple[int, int]]) -> jax.Array:
    """Finds the largest similarity over the candidate pairs of points of each class: (n,)."""
    if len(pairs) == 1:
        return points.products[:, pairs[0][0], pairs[0][1]]
    values = jnp.stack([points.products[:, k, l] for k, l in pairs], axis=1)
    # The winner is taken by its number. Here mirror images tie with the originals up to rounding, and XLA may round
    # differently each time it recomputes a comparison.
    winner = jnp.argmax(jax.lax.stop_gradient(values), axis=1, keepdims=True)
    return jnp.take_along_axis(values, winner, axis=1)[:, 0]


def find_hardest(rows: PairPoints, columns: PairPoints, rule: Rule) -> tuple[jax.Array, jax.Array]:
    """Finds the largest value over the candidate pairs of points, for every two classes.

    Args:
      rows: points of n classes.
      columns: points of N classes.
      rule: the candidates and the value.

    Returns:
      (n, N) largest values, and (n, N) uint8 winners, 16 k + l. The first of equal values wins. For the points
      within a class use `find_hardest_within`.
    """
    return _mine(_multiply(rows, columns), _create_side(rows, rule), _create_side(columns, rule), rule)


def _create_side(points: PairPoints, rule: Rule) -> Side:
    offsets = -0.5 * jnp.diagonal(points.products, axis1=1, axis2=2) if rule.distance else None
    return Side(points.coefficients, offsets)


def _multiply(rows: PairPoints, columns: PairPoints) -> Gram:
    """Computes the four Gram blocks."""

    def multiply(x):
        return similarity.product(x, columns.anchor), similarity.product(x, columns.positive)

    return multiply(rows.anchor), multiply(rows.positive)


def _take_largest(gram: Gram, rows: Side, columns: Side, rule: Rule) -> tuple[jax.Array, jax.Array]:
    def step(_, block):
        gram, rows = block
        return None, candidates.take_largest(gram, rows, columns, rule)

    return _scan_row_blocks(step, None, (gram, rows))[1]


_mine = jax.custom_vjp(_take_largest, nondiff_argnums=(3,))


def _mine_forward(gram, rows, columns, rule):
    largest, winner = _take_largest(gram, rows, columns, rule)
    return (largest, winner), (gram, rows, columns, winner)


def _mine_backward(rule, residuals, cotangents):
    gram, rows, columns, winner = residuals
    points = 2 + rows.coefficients.shape[1]

    def step(column_gradient, block):
        gram, rows, winner, weight = block
        row, column = candidates.winner_coefficients(
            winner, rows.coefficients[:, None], columns.coefficients[None], rule
        )
        row_weight, column_weight = [weight * r for r in row], [weight * c for c in column]
        gram_gradient = tuple(tuple(w * c for c in column) for w in row_weight)
        on_rows = [column_weight[0] * g[0] + column_weight[1] * g[1] for g in gram]
        on_columns = [row_weight[0] * gram[0][v] + row_weight[1] * gram[1][v] for v in (0, 1)]
        row_weights = candidates.row_weights(winner, rule, points, weight.dtype)
        column_weights = candidates.column_weights(winner, rule, points, weight.dtype)
        row_gradient = candidates.sum_side_gradient(row_weights, on_rows, weight, 1, rows)
        block_gradient = candidates.sum_side_gradient(column_weights, on_columns, weight, 0, columns)
        return jax.tree.map(jnp.add, column_gradient, block_gradient), (gram_gradient, row_gradient)

    start = jax.tree.map(jnp.zeros_like, columns)
    column_gradient, (gram_gradient, row_gradient) = _scan_row_blocks(step, start, (gram, rows, winner, cotangents[0]))
    return gram_gradient, row_gradient, column_gradient


_mine.defvjp(_mine_forward, _mine_backward)


def _scan_row_blocks(step: Callable, carry: Any, rows: Any) -> tuple[Any, Any]:
    """Scans `step` over blocks of rows. Returns (carry, outputs (n, ...)).

    The loop also makes XLA compute the winners once, because the results of a loop are stored. XLA may compute other
    results again for each use, and round differently. Where mirror images tie, two uses then have two winners.
    """
    gram, *_ = rows
    n, columns = jax.tree.leaves(gram)[0].shape
    blocks = max(2, -(-n * columns // devices.block_sizes().loss_entries))  # XLA removes a loop of one iteration
    size = -(-n // blocks)
    blocks = max(2, -(-n // size))

    def split(x):
        padded = jnp.pad(x, [(0, blocks * size - n)] + [(0, 0)] * (x.ndim - 1))
        return padded.reshape(blocks, size, *x.shape[1:])

    carry, out = jax.lax.scan(step, carry, jax.tree.map(split, rows))
    return carry, jax.tree.map(lambda x: x.reshape(blocks * size, *x.shape[2:])[:n], out)


def square_block_size(n: int) -> int:
    """The number of rows in a block of `sum_over_square`. It divides n. 0: n has no suitable divisor."""
    most = min(n // 2, devices.block_sizes().loss_entries // n)
    rows = max((r for r in range(1, most + 1) if n % r == 0), default=0)
    return rows if rows >= min(8, most) else 0


def sum_over_square(
    row_loss: Callable[..., tuple[jax.Array, Any]], points: PairPoints, extra: Any, row_ids: Any, rule: Rule
) -> tuple[jax.Array, Any]:
    """Sums a loss of the hardest values over the rows, where rows and columns are the same classes.

    When the rows are a part of the columns, value and gradient take twelve products. Symmetry saves five of them: p a'
    is a p' transposed, and the gradients of a class as a row and as a column are added entry by entry before they
    are multiplied by the embeddings. In return, arrays of all n x n entries are stored.

    Args:
      row_loss: (values (rows, n), winners (rows, n), extra, row_ids, ids of the columns) -> (scalar, tree of
        further sums without gradient). The function may close over Python values only, not over arrays.
      points: of n classes, where `square_block_size(n)` is not 0.
      extra: tree of floating arrays (n, ...) of the rows.
      row_ids: tree of integer arrays (n, ...).
      rule: the candidates and the value.

    Returns:
      The results of `row_loss`, summed over all rows.
    """
    return _square(points.anchor, points.positive, _create_side(points, rule), extra, row_ids, row_loss, rule)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _square(anchor, positive, side, extra, row_ids, row_loss, rule):
    def step(block):
        gram, rows, extra, block_ids = block
        return row_loss(*candidates.take_largest(gram, rows, side, rule), extra, block_ids, row_ids)

    totals = _map_row_blocks(step, (_multiply_square(anchor, positive), side, extra, row_ids))
    return jax.tree.map(lambda x: jnp.sum(x, axis=0), totals)


def _square_forward(anchor, positive, side, extra, row_ids, row_loss, rule):
    gram = _multiply_square(anchor, positive)
    with_gradient = jax.value_and_grad(row_loss, argnums=(0, 2), has_aux=True)

    def step(block):
        gram, rows, extra, block_ids = block
        values, winner = candidates.take_largest(gram, rows, side, rule)
        total, gradients = with_gradient(values, winner, extra, block_ids, row_ids)
        return total, (winner, *gradients)

    totals, out = _map_row_blocks(step, (gram, side, extra, row_ids))
    return jax.tree.map(lambda x: jnp.sum(x, axis=0), totals), (anchor, positive, side, gram, *_join_blocks(out))


def _square_backward(row_loss, rule, residuals, cotangents):
    anchor, positive, side, gram, winner, weight, extra_gradient = residuals
    points = 2 + side.coefficients.shape[1]

    def step(block):
        # An entry and the entry across the diagonal: the class as a row, and as a column.
        gram, own, (winner, weight), (winner_as_column, weight_as_column) = block
        mine, theirs = own.coefficients[:, None], side.coefficients[None]
        row, column = candidates.winner_coefficients(winner, mine, theirs, rule)
        other_row, own_column = candidates.winner_coefficients(winner_as_column, theirs, mine, rule)
        as_row = [weight * c for c in column]
        as_column = [weight_as_column * r for r in other_row]
        gram_gradient = [row[u] * as_row[v] + own_column[u] * as_column[v] for u, v in ((0, 0), (0, 1), (1, 1))]

        def sum_gradient(weights, weight, vector):
            on_originals = [vector[0] * g[0] + vector[1] * g[1] for g in gram]
            return candidates.sum_side_gradient(weights, on_originals, weight, 1, own)

        row_weights = candidates.row_weights(winner, rule, points, weight.dtype)
        column_weights = candidates.column_weights(winner_as_column, rule, points, weight.dtype)
        row_gradient = sum_gradient(row_weights, weight, as_row)
        column_gradient = sum_gradient(column_weights, weight_as_column, as_column)
        return None, (gram_gradient, jax.tree.map(jnp.add, row_gradient, column_gradient))

    blocks = gram, side, (winner, weight), (_transpose_bytes(winner), weight.T)
    (anchors, across, positives), side_gradient = _join_blocks(_map_row_blocks(step, blocks)[1])
    # The gradient of p a' is that of a p' transposed, as p a' itself is.
    anchor_gradient = similarity.product(anchors, anchor.T) + similarity.product(across, positive.T)
    positive_gradient = similarity.product(across.T, anchor.T) + similarity.product(positives, positive.T)
    gradients = anchor_gradient, positive_gradient, side_gradient, extra_gradient
    return *jax.tree.map(lambda x: cotangents[0] * x, gradients), None


_square.defvjp(_square_forward, _square_backward)


def _multiply_square(anchor: jax.Array, positive: jax.Array) -> Gram:
    anchor_positive = similarity.product(anchor, positive)
    return (
        (similarity.product(anchor, anchor), anchor_positive),
        (anchor_positive.T, similarity.product(positive, positive)),
    )


def _transpose_bytes(x: jax.Array) -> jax.Array:
    """Transposes x (n, n) uint8. On a CPU, XLA transposes words of four rows faster, but not bytes."""
    n = len(x)
    if n % 4 or devices.platform() != "cpu":
        return x.T
    words = jax.lax.bitcast_convert_type(jnp.swapaxes(x.reshape(n // 4, 4, n), 1, 2), jnp.uint32)  # (n / 4, n)
    return jax.lax.bitcast_convert_type(words.T, jnp.uint8).reshape(n, n)


def _map_row_blocks(step: Callable, rows: Any) -> Any:
    """Maps `step` over blocks of rows and stacks the outputs. It is a loop for the reason in `_scan_row_blocks`."""
    n = len(jax.tree.leaves(rows)[0])
    size = square_block_size(n)
    return jax.lax.map(step, jax.tree.map(lambda x: x.reshape(n // size, size, *x.shape[1:]), rows))


def _join_blocks(blocks: Any) -> Any:
    return jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), blocks)
