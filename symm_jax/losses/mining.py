"""Hard negative mining over synthetic points: the hardest pair of points of every two classes.

The similarity of point k of class i with point l of class j is

    q[i, k] . q[j, l] = sum over u, v in {anchor, positive} of C[i, k, u] C[j, l, v] G[u][v][i, j]

with C the coefficients of a synthesis and G[u][v] = u @ v.T the Gram blocks of the originals: four products of
(n, dim) matrices however many points there are. The points themselves are never built.

The gradient is written by hand. Of the candidates of an entry only the winner's number is kept, one byte; the
rest is recomputed from the Gram blocks in one pass. Left to autodiff, XLA recomputes every candidate in every
reduction of the backward pass, and is slower than multiplying all points out.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from symm_jax import similarity
from symm_jax.losses import candidates
from symm_jax.losses.candidates import Gram, Rule, Side
from symm_jax.synthesis import with_originals

Synthesis = Callable[[jax.Array, jax.Array], jax.Array]

_ENTRIES = 2**17  # mined at a time: the dozen arrays of this size that a step needs stay in the caches


class PairPoints(NamedTuple):
    """The points of n classes: the originals, and how the synthetic ones follow from them."""

    anchor: jax.Array  # (n, dim)
    positive: jax.Array  # (n, dim)
    coefficients: jax.Array  # (n, points - 2, 2), of the synthetic points
    products: jax.Array  # (n, points, points), similarities within the class, synthetic points included


def create_points(anchor: jax.Array, positive: jax.Array, synthesis: Synthesis | None) -> PairPoints:
    """The points that `synthesis` makes, or the originals alone; ValueError when it returns no coefficients."""
    alone = with_originals(jnp.zeros((len(anchor), 0, 2), anchor.dtype))
    coefficients = alone if synthesis is None else synthesis(anchor, positive)
    shape = getattr(coefficients, "shape", ())
    if len(shape) != 3 or shape[::2] != (len(anchor), 2) or not 2 <= shape[1] <= candidates.MAX_POINTS:
        raise ValueError(
            f"synthesis must return coefficients of shape ({len(anchor)}, points, 2) for anchor {anchor.shape}, the "
            f"originals first and {candidates.MAX_POINTS} points at most; got {shape or type(coefficients).__name__}"
        )
    synthetic = coefficients[:, 2:].astype(anchor.dtype)
    c = with_originals(synthetic)
    aa, ap, pp = (jnp.sum(x * y, axis=1) for x, y in ((anchor, anchor), (anchor, positive), (positive, positive)))
    x, y = c[..., 0], c[..., 1]
    on_anchor, on_positive = (x * u[:, None] + y * v[:, None] for u, v in ((aa, ap), (ap, pp)))
    products = x[:, :, None] * on_anchor[:, None, :] + y[:, :, None] * on_positive[:, None, :]
    return PairPoints(anchor, positive, synthetic, products)


def hardest_within(points: PairPoints, pairs: Sequence[tuple[int, int]]) -> jax.Array:
    """The largest similarity over candidate pairs of points of one class: (n,)."""
    values = jnp.stack([points.products[:, k, l] for k, l in pairs], axis=1)
    # By number, not by value: mirror images tie with the originals here up to rounding, and XLA may round
    # differently each time that it recomputes a comparison.
    winner = jnp.argmax(jax.lax.stop_gradient(values), axis=1, keepdims=True)
    return jnp.take_along_axis(values, winner, axis=1)[:, 0]


def hardest(rows: PairPoints, columns: PairPoints, rule: Rule) -> tuple[jax.Array, jax.Array]:
    """The largest value over the candidate pairs of points, for every two classes.

    Args:
      rows: points of n classes.
      columns: points of N classes.
      rule: the candidates and what is compared.

    Returns:
      (n, N) largest values, and (n, N) uint8 winners, 16 k + l; the first of equal ones wins. For a class with
      itself use `hardest_within`.
    """
    return _hardest(_gram(rows, columns), _side(rows, rule), _side(columns, rule), rule)


def _side(points: PairPoints, rule: Rule) -> Side:
    offsets = -0.5 * jnp.diagonal(points.products, axis1=1, axis2=2) if rule.distance else None
    return Side(points.coefficients, offsets)


def _gram(rows: PairPoints, columns: PairPoints) -> Gram:
    return tuple(
        tuple(similarity.product(x, y) for y in (columns.anchor, columns.positive))
        for x in (rows.anchor, rows.positive)
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _hardest(gram, rows, columns, rule):
    def step(_, block):
        return None, candidates.best(*block, columns, rule)

    return _over_rows(step, None, (gram, rows))[1]


def _hardest_forward(gram, rows, columns, rule):
    largest, winner = _hardest(gram, rows, columns, rule)
    return (largest, winner), (gram, rows, columns, winner)


def _hardest_backward(rule, residuals, cotangents):
    gram, rows, columns, winner = residuals
    points = 2 + rows.coefficients.shape[1]

    def step(column_gradient, block):
        gram, rows, winner, weight = block
        row, column = candidates.winning(winner, rows.coefficients[:, None], columns.coefficients[None], rule)
        row_weight, column_weight = [weight * r for r in row], [weight * c for c in column]
        gram_gradient = tuple(tuple(w * c for c in column) for w in row_weight)
        of_rows = [column_weight[0] * g[0] + column_weight[1] * g[1] for g in gram]
        of_columns = [row_weight[0] * gram[0][v] + row_weight[1] * gram[1][v] for v in (0, 1)]
        row_shares = candidates.row_shares(winner, rule, points, weight.dtype)
        column_shares = candidates.column_shares(winner, rule, points, weight.dtype)
        row_gradient = candidates.side_gradient(row_shares, of_rows, weight, 1, rows)
        in_block = candidates.side_gradient(column_shares, of_columns, weight, 0, columns)
        return jax.tree.map(jnp.add, column_gradient, in_block), (gram_gradient, row_gradient)

    start = jax.tree.map(jnp.zeros_like, columns)
    column_gradient, (gram_gradient, row_gradient) = _over_rows(step, start, (gram, rows, winner, cotangents[0]))
    return gram_gradient, row_gradient, column_gradient


_hardest.defvjp(_hardest_forward, _hardest_backward)


def _over_rows(step: Callable, carry: Any, rows: Any) -> tuple[Any, Any]:
    """Scans `step` over a few rows at a time: (carry, outputs (n, ...)).

    A loop is also what makes XLA settle the winners once. Results of a loop are stored; anything else it may compute
    again for each use and round differently, and where mirror images tie two uses then see two winners.
    """
    gram, *_ = rows
    n, columns = jax.tree.leaves(gram)[0].shape
    blocks = max(2, -(-n * columns // _ENTRIES))  # a loop of one turn would be no loop
    size = -(-n // blocks)
    blocks = max(2, -(-n // size))

    def split(x):
        padded = jnp.pad(x, [(0, blocks * size - n)] + [(0, 0)] * (x.ndim - 1))
        return padded.reshape(blocks, size, *x.shape[1:])

    carry, out = jax.lax.scan(step, carry, jax.tree.map(split, rows))
    return carry, jax.tree.map(lambda x: x.reshape(blocks * size, *x.shape[2:])[:n], out)


def rows_at_a_time(n: int) -> int:
    """Into how many rows at a time `sum_over_square` can cut n, 0 if it had better not."""
    most = min(n // 2, _ENTRIES // n)
    rows = max((r for r in range(1, most + 1) if n % r == 0), default=0)
    return rows if rows >= min(8, most) else 0


def sum_over_square(
    row_loss: Callable[..., tuple[jax.Array, Any]], points: PairPoints, extra: Any, row_ids: Any, rule: Rule
) -> tuple[jax.Array, Any]:
    """Sums a loss of the hardest values over the rows, where rows and columns are the same classes.

    Symmetry saves five of the twelve products that value and gradient take when the rows are a part of the
    columns: p a' is a p' transposed, and what a class's points gain as a row's and as a column's is added up entry
    by entry before it meets the embeddings. In return arrays of all n x n entries are stored.

    Args:
      row_loss: (values (rows, n), winners (rows, n), extra, row_ids, ids of the columns) -> (scalar, tree of
        further sums without gradient). It may close over Python values only.
      points: of n classes, `rows_at_a_time(n)` not 0.
      extra: tree of floating arrays (n, ...) of the rows.
      row_ids: tree of integer arrays (n, ...).
      rule: the candidates and what is compared.

    Returns:
      What `row_loss` returns, summed over all rows.
    """
    return _square(points.anchor, points.positive, _side(points, rule), extra, row_ids, row_loss, rule)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _square(anchor, positive, side, extra, row_ids, row_loss, rule):
    def step(block):
        gram, rows, extra, block_ids = block
        return row_loss(*candidates.best(gram, rows, side, rule), extra, block_ids, row_ids)

    totals = _in_turns(step, (_square_gram(anchor, positive), side, extra, row_ids))
    return jax.tree.map(lambda x: jnp.sum(x, axis=0), totals)


def _square_forward(anchor, positive, side, extra, row_ids, row_loss, rule):
    gram = _square_gram(anchor, positive)
    with_gradient = jax.value_and_grad(row_loss, argnums=(0, 2), has_aux=True)

    def step(block):
        gram, rows, extra, block_ids = block
        values, winner = candidates.best(gram, rows, side, rule)
        total, gradients = with_gradient(values, winner, extra, block_ids, row_ids)
        return total, (winner, *gradients)

    totals, out = _in_turns(step, (gram, side, extra, row_ids))
    return jax.tree.map(lambda x: jnp.sum(x, axis=0), totals), (anchor, positive, side, gram, *_join(out))


def _square_backward(row_loss, rule, residuals, cotangents):
    anchor, positive, side, gram, winner, weight, extra_gradient = residuals
    points = 2 + side.coefficients.shape[1]

    def step(block):
        # An entry and its mirror image: the class as a row, and as a column.
        gram, own, (winner, weight), (winner_as_column, weight_as_column) = block
        mine, theirs = own.coefficients[:, None], side.coefficients[None]
        row, column = candidates.winning(winner, mine, theirs, rule)
        other_row, own_column = candidates.winning(winner_as_column, theirs, mine, rule)
        as_row = [weight * c for c in column]
        as_column = [weight_as_column * r for r in other_row]
        gram_gradient = tuple(tuple(row[u] * as_row[v] + own_column[u] * as_column[v] for v in (0, 1)) for u in (0, 1))

        def of_side(shares, weight, vector):
            on_originals = [vector[0] * g[0] + vector[1] * g[1] for g in gram]
            return candidates.side_gradient(shares, on_originals, weight, 1, own)

        row_shares = candidates.row_shares(winner, rule, points, weight.dtype)
        column_shares = candidates.column_shares(winner_as_column, rule, points, weight.dtype)
        of_row = of_side(row_shares, weight, as_row)
        of_column = of_side(column_shares, weight_as_column, as_column)
        return None, (gram_gradient, jax.tree.map(jnp.add, of_row, of_column))

    blocks = gram, side, (winner, weight), (winner.T, weight.T)
    gram_gradient, side_gradient = _join(_in_turns(step, blocks)[1])
    of_anchor, of_positive = (
        similarity.product(to_anchor, anchor.T) + similarity.product(to_positive, positive.T)
        for to_anchor, to_positive in gram_gradient
    )
    gradients = of_anchor, of_positive, side_gradient, extra_gradient
    return *jax.tree.map(lambda x: cotangents[0] * x, gradients), None


_square.defvjp(_square_forward, _square_backward)


def _square_gram(anchor: jax.Array, positive: jax.Array) -> Gram:
    anchor_positive = similarity.product(anchor, positive)
    return (
        (similarity.product(anchor, anchor), anchor_positive),
        (anchor_positive.T, similarity.product(positive, positive)),
    )


def _in_turns(step: Callable, rows: Any) -> Any:
    """Maps `step` over blocks of rows, in a loop for the reason in `_over_rows`; outputs are stacked."""
    n = len(jax.tree.leaves(rows)[0])
    size = rows_at_a_time(n)
    return jax.lax.map(step, jax.tree.map(lambda x: x.reshape(n // size, size, *x.shape[1:]), rows))


def _join(blocks: Any) -> Any:
    return jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), blocks)
