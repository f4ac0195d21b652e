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
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from symm_jax import similarity

Synthesis = Callable[[jax.Array, jax.Array], jax.Array]
Candidates = tuple[tuple[int, int], ...]

CANDIDATES = {
    "unordered": lambda points: itertools.combinations(range(points), 2),
    "ordered": lambda points: itertools.permutations(range(points), 2),
    "product": lambda points: itertools.product(range(points), repeat=2),
}

_MAX_POINTS = 16  # two point numbers share a byte
_ENTRIES = 2**17  # mined at a time: the dozen arrays of this size that a step needs stay in the caches


class Points(NamedTuple):
    """The points of n classes: the originals, and how the synthetic ones follow from them."""

    anchor: jax.Array  # (n, dim)
    positive: jax.Array  # (n, dim)
    coefficients: jax.Array  # (n, points - 2, 2), of the synthetic points
    products: jax.Array  # (n, points, points), similarities within the class, synthetic points included


class Rule(NamedTuple):
    """Which points are compared, and how.

    The value of candidate (k, l) is x q[i, k] . q[j, l] + y q[i, l] . q[j, l] with (x, y) = `mix`; with `distance`
    it is -|q[i, k] - q[j, l]|^2 / 2, and `mix` must be (1, 0).
    """

    candidates: Candidates  # (k, l): point k of the row's class, point l of the column's
    mix: tuple[float, float] = (1.0, 0.0)
    distance: bool = False


def create_points(anchor: jax.Array, positive: jax.Array, synthesis: Synthesis | None) -> Points:
    """The points that `synthesis` makes, or the originals alone; ValueError when it returns no coefficients."""
    originals = jnp.broadcast_to(jnp.eye(2, dtype=anchor.dtype), (len(anchor), 2, 2))
    coefficients = originals if synthesis is None else synthesis(anchor, positive)
    shape = getattr(coefficients, "shape", ())
    if len(shape) != 3 or shape[::2] != (len(anchor), 2) or not 2 <= shape[1] <= _MAX_POINTS:
        raise ValueError(
            f"synthesis must return coefficients of shape ({len(anchor)}, points, 2) for anchor {anchor.shape}, the "
            f"originals first and {_MAX_POINTS} points at most; got {shape or type(coefficients).__name__}"
        )
    synthetic = coefficients[:, 2:].astype(anchor.dtype)
    c = jnp.concatenate([originals, synthetic], axis=1)
    aa, ap, pp = (jnp.sum(x * y, axis=1) for x, y in ((anchor, anchor), (anchor, positive), (positive, positive)))
    x, y = c[..., 0], c[..., 1]
    on_anchor, on_positive = (x * u[:, None] + y * v[:, None] for u, v in ((aa, ap), (ap, pp)))
    products = x[:, :, None] * on_anchor[:, None, :] + y[:, :, None] * on_positive[:, None, :]
    return Points(anchor, positive, synthetic, products)


def choose_candidates(kind: str, points: int) -> Candidates:
    """The pairs of `points` points that `kind` means, a key of CANDIDATES."""
    if kind not in CANDIDATES:
        raise ValueError(f"candidates must be one of {', '.join(CANDIDATES)}; got {kind!r}")
    return tuple(CANDIDATES[kind](points))


def hardest_within(points: Points, candidates: Candidates) -> jax.Array:
    """The largest similarity over candidate pairs of points of one class: (n,)."""
    values = jnp.stack([points.products[:, k, l] for k, l in candidates], axis=1)
    # By number, not by value: mirror images tie with the originals here up to rounding, and XLA may round
    # differently each time that it recomputes a comparison.
    winner = jnp.argmax(jax.lax.stop_gradient(values), axis=1, keepdims=True)
    return jnp.take_along_axis(values, winner, axis=1)[:, 0]


def hardest(rows: Points, columns: Points, rule: Rule) -> tuple[jax.Array, jax.Array]:
    """The largest value over the candidate pairs of points, for every two classes.

    Args:
      rows: points of n classes.
      columns: points of N classes.
      rule: the candidates and what is compared.

    Returns:
      (n, N) largest values, and (n, N) uint8 winners, 16 k + l; the first of equal ones wins. For a class with
      itself use `hardest_within`.
    """
    gram = tuple(
        tuple(similarity.product(x, y) for y in (columns.anchor, columns.positive))
        for x in (rows.anchor, rows.positive)
    )
    return _hardest(gram, _side(rows, rule), _side(columns, rule), rule)


def count_winners(winners: jax.Array, where: jax.Array, points: int) -> jax.Array:
    """How often each pair (k, l) won among the entries `where`: (points, points) int32."""
    counts = [[jnp.sum((winners == 16 * k + l) & where) for l in range(points)] for k in range(points)]
    return jnp.array(counts, jnp.int32)


class _Side(NamedTuple):
    """What mining needs of the rows' or of the columns' classes, beside the Gram blocks."""

    coefficients: jax.Array  # (n, points - 2, 2)
    offsets: jax.Array | None  # (n, points), -|q|^2 / 2; only for distances


def _side(points: Points, rule: Rule) -> _Side:
    offsets = -0.5 * jnp.diagonal(points.products, axis1=1, axis2=2) if rule.distance else None
    return _Side(points.coefficients, offsets)


def _values(gram, rows: _Side, columns: _Side, rule: Rule) -> Iterator[tuple[int, jax.Array]]:
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _hardest(gram, rows, columns, rule):
    def step(_, block):
        (number, best), *others = _values(*block, columns, rule)
        winner = jnp.full(best.shape, number, jnp.uint8)
        for number, value in others:
            winner = jnp.where(value > best, jnp.uint8(number), winner)
            best = jnp.maximum(best, value)
        return None, (best, winner)

    return _over_rows(step, None, (gram, rows))[1]


def _hardest_forward(gram, rows, columns, rule):
    best, winner = _hardest(gram, rows, columns, rule)
    return (best, winner), (gram, rows, columns, winner)


def _hardest_backward(rule, residuals, cotangents):
    gram, rows, columns, winner = residuals
    x, y = rule.mix
    points = 2 + rows.coefficients.shape[1]
    row_points, column_points = ({pair[side] for pair in rule.candidates} for side in (0, 1))

    def step(column_gradient, block):
        gram, rows, winner, weight = block
        k, l = winner >> 4, winner & 15
        row = _winning(k, row_points, rows.coefficients[:, None])
        column = _winning(l, column_points, columns.coefficients[None])
        if rule.mix != (1.0, 0.0):
            other = _winning(l, column_points, rows.coefficients[:, None])
            row = [x * r + y * o for r, o in zip(row, other, strict=True)]
        row_weight, column_weight = [weight * r for r in row], [weight * c for c in column]
        gram_gradient = tuple(tuple(w * c for c in column) for w in row_weight)

        # How much of an entry's value each point is; None where a point never wins.
        parts = (k, x, row_points), (l, y, column_points)
        row_shares = [
            [jnp.where(number == s, weight.dtype.type(f), 0) for number, f, won in parts if f and s in won]
            for s in range(points)
        ]
        row_shares = [sum(share) if share else None for share in row_shares]
        column_shares = [
            jnp.where(l == s, weight.dtype.type(1), 0) if s in column_points else None for s in range(points)
        ]
        of_rows = [column_weight[0] * g[0] + column_weight[1] * g[1] for g in gram]
        of_columns = [row_weight[0] * gram[0][v] + row_weight[1] * gram[1][v] for v in (0, 1)]
        row_gradient = _Side(
            _sums(row_shares[2:], of_rows, 1, rows.coefficients), _sums(row_shares, [weight], 1, rows.offsets)
        )
        in_block = _Side(
            _sums(column_shares[2:], of_columns, 0, columns.coefficients),
            _sums(column_shares, [weight], 0, columns.offsets),
        )
        return jax.tree.map(jnp.add, column_gradient, in_block), (gram_gradient, row_gradient)

    start = jax.tree.map(jnp.zeros_like, columns)
    column_gradient, (gram_gradient, row_gradient) = _over_rows(step, start, (gram, rows, winner, cotangents[0]))
    return gram_gradient, row_gradient, column_gradient


_hardest.defvjp(_hardest_forward, _hardest_backward)


def _winning(number: jax.Array, points: set[int], coefficients: jax.Array) -> list[jax.Array]:
    """The coefficients (on the anchor, on the positive) of the point that `number` names, entry by entry."""
    first, *others = sorted(points)
    originals = jnp.eye(2, dtype=coefficients.dtype)

    def of(point, u):
        return originals[point, u] if point < 2 else coefficients[..., point - 2, u]

    picked = [of(first, 0), of(first, 1)]
    for point in others:
        picked = [jnp.where(number == point, of(point, u), picked[u]) for u in (0, 1)]
    return picked


def _sums(shares: list, values: list, axis: int, like: jax.Array | None) -> jax.Array | None:
    """Sums share * value, arrays (rows, columns), over `axis` for each share and value; shaped as `like`."""
    if like is None or not shares:
        return like
    zero = jnp.zeros(like.shape[:1], like.dtype)
    sums = [zero if share is None else jnp.sum(share * value, axis) for share in shares for value in values]
    return jnp.stack(sums, axis=1).reshape(like.shape)


def _over_rows(step: Callable, carry: Any, rows: Any) -> tuple[Any, Any]:
    """Scans `step` over a few rows at a time: (carry, outputs (n, ...)).

    A loop is also what makes XLA settle the winners once: results of a loop are stored, anything else may be
    computed again by each use, and round differently, so that two uses see two winners.
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
