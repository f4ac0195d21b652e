"""Candidate pairs of points, block by block: their values, the winners, and what a winner's gradient is made of.

Arrays are blocks (rows, columns) of entries, one for each two classes; `gram` are the four Gram blocks of the
originals, gram[u][v] = u @ v.T with u the rows' and v the columns' anchor or positive. See mining.py.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

Pairs = tuple[tuple[int, int], ...]
Gram = tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]

KINDS = {
    "unordered": lambda points: itertools.combinations(range(points), 2),
    "ordered": lambda points: itertools.permutations(range(points), 2),
    "product": lambda points: itertools.product(range(points), repeat=2),
}
MAX_POINTS = 8  # two point numbers share a byte; programs of more than 64 candidates take minutes to compile


def lookup_pairs(kind: str, points: int) -> Pairs:
    """The pairs of `points` points that `kind` means, a key of KINDS."""
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"candidates must be one of {', '.join(KINDS)}; got {kind!r}")
    return tuple(KINDS[kind](points))


class Rule(NamedTuple):
    """Which points are compared, and how.

    The value of candidate (k, l) is x q[i, k] . q[j, l] + y q[i, l] . q[j, l] with (x, y) = `mix`; with `distance`
    it is -|q[i, k] - q[j, l]|^2 / 2, and `mix` must be (1, 0).
    """

    candidates: Pairs  # (k, l): point k of the row's class, point l of the column's
    mix: tuple[float, float] = (1.0, 0.0)
    distance: bool = False


class Side(NamedTuple):
    """What a comparison needs of the rows' or of the columns' classes, beside the Gram blocks."""

    coefficients: jax.Array  # (n, points - 2, 2), of the synthetic points
    offsets: jax.Array | None  # (n, points), -|q|^2 / 2; only for distances


def best(gram: Gram, rows: Side, columns: Side, rule: Rule) -> tuple[jax.Array, jax.Array]:
    """The largest value of each entry and the winner, 16 k + l as uint8; the first of equal ones wins."""
    (number, largest), *others = _values(gram, rows, columns, rule)
    winner = jnp.full(largest.shape, number, jnp.uint8)
    for number, value in others:
        winner = jnp.where(value > largest, jnp.uint8(number), winner)
        largest = jnp.maximum(largest, value)
    return largest, winner


def count_winners(winners: jax.Array, where: jax.Array, points: int) -> jax.Array:
    """How often each pair (k, l) won among the entries `where`: (points, points) int32."""
    counts = [[jnp.sum((winners == 16 * k + l) & where) for l in range(points)] for k in range(points)]
    return jnp.array(counts, jnp.int32)


def winning(
    winner: jax.Array, row_coefficients: jax.Array, column_coefficients: jax.Array, rule: Rule
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Coefficients (on the anchor, on the positive) of the rows' and of the columns' winning points, by entry.

    Coefficients are given with axes of rows and of columns first, either of length 1.
    """
    (x, y), (k, l) = rule.mix, _points_of(winner)
    row_points, column_points = _sides(rule)
    row = _pick(k, row_points, row_coefficients)
    if rule.mix != (1.0, 0.0):
        row = [x * r + y * o for r, o in zip(row, _pick(l, column_points, row_coefficients), strict=True)]
    return row, _pick(l, column_points, column_coefficients)


def row_shares(winner: jax.Array, rule: Rule, points: int, dtype: jnp.dtype) -> list[jax.Array | None]:
    """How much of the winning row vector each point is, by entry; None for a point that never wins."""
    (x, y), (k, l), (row_points, column_points) = rule.mix, _points_of(winner), _sides(rule)

    def share(point):
        parts = [(k, x)] if point in row_points else []
        parts += [(l, y)] if y and point in column_points else []
        return sum(jnp.where(number == point, dtype.type(part), 0) for number, part in parts) if parts else None

    return [share(point) for point in range(points)]


def column_shares(winner: jax.Array, rule: Rule, points: int, dtype: jnp.dtype) -> list[jax.Array | None]:
    """1 where a point of the column's class wins, else 0, by entry; None for a point that never wins."""
    (_, l), (_, column_points) = _points_of(winner), _sides(rule)
    return [jnp.where(l == s, dtype.type(1), 0) if s in column_points else None for s in range(points)]


def side_gradient(shares: list, on_originals: list[jax.Array], weight: jax.Array, axis: int, like: Side) -> Side:
    """The gradient of a `Side` from the shares of its points in the entries.

    Args:
      shares: of each point, (rows, columns) or None.
      on_originals: gradient by entry of the coefficient on the anchor and on the positive.
      weight: gradient by entry of the offset.
      axis: to sum over; the other one is the side's.
      like: the side.
    """

    def sums(shares, values, like):
        if like is None or not shares:
            return like
        zero = jnp.zeros(like.shape[:1], like.dtype)
        sums = [zero if share is None else jnp.sum(share * value, axis) for share in shares for value in values]
        return jnp.stack(sums, axis=1).reshape(like.shape)

    return Side(sums(shares[2:], on_originals, like.coefficients), sums(shares, [weight], like.offsets))


def _points_of(winner: jax.Array) -> tuple[jax.Array, jax.Array]:
    return winner >> 4, winner & 15


def _sides(rule: Rule) -> tuple[set[int], set[int]]:
    return {k for k, _ in rule.candidates}, {l for _, l in rule.candidates}


def _values(gram, rows: Side, columns: Side, rule: Rule) -> Iterator[tuple[int, jax.Array]]:
    """Yields (16 k + l, values) of each candidate; what candidates share is made once."""

    def against(k, column):
        """The rows' point k with a column point, from what the rows' originals give with it."""
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
            value = against(k, column)
            if rule.mix != (1.0, 0.0):
                value = x * value + y * against(l, column)
            if rule.distance:
                value = value + rows.offsets[:, k, None] + columns.offsets[None, :, l]
            yield 16 * k + l, value


def _pick(number: jax.Array, points: set[int], coefficients: jax.Array) -> list[jax.Array]:
    """The coefficients (on the anchor, on the positive) of the point that `number` names, entry by entry."""
    first, *others = sorted(points)
    originals = jnp.eye(2, dtype=coefficients.dtype)

    def of(point, u):
        return originals[point, u] if point < 2 else coefficients[..., point - 2, u]

    picked = [of(first, 0), of(first, 1)]
    for point in others:
        picked = [jnp.where(number == point, of(point, u), picked[u]) for u in (0, 1)]
    return picked
