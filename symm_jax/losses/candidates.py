"""Candidate pairs of points, in blocks: their values, the winners, and the parts of a winner's gradient.

A block is (rows, columns); an entry belongs to the class of its row and the class of its column. `gram` holds the four
Gram blocks of the originals: gram[u][v] = u @ v.T, where u is the rows' anchor or positive and v the columns'. See
mining.py.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Pairs = tuple[tuple[int, int], ...]
Gram = tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]

KINDS = {
    "unordered": lambda points: itertools.combinations(range(points), 2),
    "ordered": lambda points: itertools.permutations(range(points), 2),
    "product": lambda points: itertools.product(range(points), repeat=2),
}


def lookup_pairs(kind: str, points: int) -> Pairs:
    """Returns the candidate pairs of `points` points. `kind` is a key of KINDS."""
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"candidates must be one of {', '.join(KINDS)}; got {kind!r}")
    return tuple(KINDS[kind](points))


class Rule(NamedTuple):
    """The pairs of points to compare, and the value to compare.

    The value of candidate (k, l) is x q[i, k] . q[j, l] + y q[i, l] . q[j, l] with (x, y) = `mix`. With `distance`
    the value is -|q[i, k] - q[j, l]|^2 / 2, and `mix` must be (1, 0).
    """

    candidates: Pairs  # (k, l): point k of the row's class, point l of the column's class
    mix: tuple[float, float] = (1.0, 0.0)
    distance: bool = False


class Side(NamedTuple):
    """The data of the rows' classes, or of the columns' classes, that a comparison needs besides the Gram blocks."""

    coefficients: jax.Array  # (n, points - 2, 2), of the synthetic points
    offsets: jax.Array | None  # (n, points), -|q|^2 / 2; only for distances


def synthetic_share(winners: Float[Array, "points points"]) -> Float[Array, ""]:
    """Computes the fraction of the hardest negatives that include a synthetic point.

    `from_config` logs this fraction as "NAME/synthetic_share". Near 0, the synthesis has no effect on the loss.

    Args:
      winners: (points, points) floating, from a loss with `with_winners=True`: the fraction of each pair of points
        among the hardest pairs of different classes.

    Returns:
      Scalar in [0, 1], 0 if all classes are the same.

    Example:
      In a training loop, where `embed` maps parameters and images to (anchor, positive):

          def loss(params):
              return npair_loss(*embed(params, images), labels, synthesis=symmetric, with_winners=True)
          (value, winners), gradients = jax.value_and_grad(loss, has_aux=True)(params)
          print(f"synthetic winners: {synthetic_share(winners):.1%}")

      >>> import jax.numpy as jnp
      >>> print(synthetic_share(jnp.array([[0, 0.5, 0], [0, 0, 0.25], [0, 0.25, 0]])))
      0.5
    """
    return jnp.sum(winners) - jnp.sum(winners[:2, :2])


def take_largest(gram: Gram, rows: Side, columns: Side, rule: Rule) -> tuple[jax.Array, jax.Array]:
    """Returns the largest value of each entry, and its winner 16 k + l as uint8. The first of equal values wins."""
    (number, largest), *others = _compare_candidates(gram, rows, columns, rule)
    winner = jnp.full(largest.shape, number, jnp.uint8)
    for number, value in others:
        winner = jnp.where(value > largest, jnp.uint8(number), winner)
        largest = jnp.maximum(largest, value)
    return largest, winner


def count_winners(winners: jax.Array, mask: jax.Array, points: int) -> jax.Array:
    """Counts how often each pair (k, l) won among the entries where `mask` is true: (points, points) int32."""
    counts = [[jnp.sum((winners == 16 * k + l) & mask) for l in range(points)] for k in range(points)]
    return jnp.array(counts, jnp.int32)


def winner_coefficients(
    winner: jax.Array, row_coefficients: jax.Array, column_coefficients: jax.Array, rule: Rule
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Returns, for each entry, the coefficients of the winning row vector and of the winning column point.

    Args:
      winner: (rows, columns) uint8.
      row_coefficients: (rows or 1, columns or 1, points - 2, 2).
      column_coefficients: as `row_coefficients`.
      rule: the candidates and the value.

    Returns:
      [on the anchor, on the positive] of the rows and of the columns, each (rows, columns).
    """
    (x, y), (k, l) = rule.mix, _split_winner(winner)
    row_points, column_points = _split_candidates(rule)
    row = _select_coefficients(k, row_points, row_coefficients)
    if rule.mix != (1.0, 0.0):
        other = _select_coefficients(l, column_points, row_coefficients)
        row = [x * r + y * o for r, o in zip(row, other, strict=True)]
    return row, _select_coefficients(l, column_points, column_coefficients)


def row_weights(winner: jax.Array, rule: Rule, points: int, dtype: jnp.dtype) -> list[jax.Array | None]:
    """Returns the weight of each point in the winning row vector, by entry. None: the point never wins."""
    (x, y), (k, l), (row_points, column_points) = rule.mix, _split_winner(winner), _split_candidates(rule)

    def weigh(point: int) -> Any:
        parts = [(k, x)] if point in row_points else []
        parts += [(l, y)] if y and point in column_points else []
        return sum(jnp.where(number == point, dtype.type(part), 0) for number, part in parts) if parts else None

    return [weigh(point) for point in range(points)]


def column_weights(winner: jax.Array, rule: Rule, points: int, dtype: jnp.dtype) -> list[jax.Array | None]:
    """Returns 1 where a point of the column's class wins, else 0, by entry. None: the point never wins."""
    (_, l), (_, column_points) = _split_winner(winner), _split_candidates(rule)
    return [jnp.where(l == s, dtype.type(1), 0) if s in column_points else None for s in range(points)]


def sum_side_gradient(
    weights: Sequence[jax.Array | None], on_originals: Sequence[jax.Array], offset: jax.Array, axis: int, like: Side
) -> Side:
    """Sums the gradient of a `Side` over the entries.

    Args:
      weights: of each point, (rows, columns) or None.
      on_originals: by entry, the gradient of the coefficient on the anchor and on the positive.
      offset: by entry, the gradient of the offset.
      axis: the axis to sum over. The other axis is that of the side.
      like: the side.
    """

    def sum_points(weights, values, like):
        if like is None or not weights:
            return like
        zero = jnp.zeros(like.shape[:1], like.dtype)
        sums = [zero if weight is None else jnp.sum(weight * value, axis) for weight in weights for value in values]
        return jnp.stack(sums, axis=1).reshape(like.shape)

    return Side(sum_points(weights[2:], on_originals, like.coefficients), sum_points(weights, [offset], like.offsets))


def _split_winner(winner: jax.Array) -> tuple[jax.Array, jax.Array]:
    return winner >> 4, winner & 15


def _split_candidates(rule: Rule) -> tuple[set[int], set[int]]:
    return {k for k, _ in rule.candidates}, {l for _, l in rule.candidates}


def _compare_candidates(gram: Gram, rows: Side, columns: Side, rule: Rule) -> Iterator[tuple[int, jax.Array]]:
    """Yields (16 k + l, values) of each candidate. Terms that several candidates share are computed once."""

    def combine_rows(k, column):
        """The value of the rows' point k, from the values of the rows' originals."""
        if k < 2:
            return column[k]
        c = rows.coefficients[:, k - 2]
        return c[:, :1] * column[0] + c[:, 1:] * column[1]

    x, y = rule.mix
    for l in sorted({l for _, l in rule.candidates}):
        if l < 2:
            column = [g[l] for g in gram]
        else:
            c = columns.coefficients[None, :, l - 2]
            column = [c[..., 0] * g[0] + c[..., 1] * g[1] for g in gram]
        for k in [k for k, other in rule.candidates if other == l]:
            value = combine_rows(k, column)
            if rule.mix != (1.0, 0.0):
                value = x * value + y * combine_rows(l, column)
            if rows.offsets is not None and columns.offsets is not None:
                value = value + rows.offsets[:, k, None] + columns.offsets[None, :, l]
            yield 16 * k + l, value


def _select_coefficients(number: jax.Array, points: set[int], coefficients: jax.Array) -> list[jax.Array]:
    """Returns [on the anchor, on the positive] of the point `number`, entry by entry."""
    first, *others = sorted(points)
    originals = jnp.eye(2, dtype=coefficients.dtype)

    def read(point, u):
        return originals[point, u] if point < 2 else coefficients[..., point - 2, u]

    selected = [read(first, 0), read(first, 1)]
    for point in others:
        selected = [jnp.where(number == point, read(point, u), selected[u]) for u in (0, 1)]
    return selected
