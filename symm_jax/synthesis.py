"""Synthetic hard samples: from the two points of a class to coefficients of new ones.

Every synthetic point of the literature that is made from an anchor a and a positive p of one class lies in
their plane, q = x a + y p. A synthesis is therefore a pure function

    (anchor (n, dim), positive (n, dim)) -> coefficients (n, points, 2)

with coefficients[i, k] = (x, y) of the k-th point of class i. The losses work on the coefficients alone: all
similarities between points of any two classes follow from the products of the originals (similarity.py), so
the points are never built there. `points` builds them, for figures and tests.

The first two points are the originals, (1, 0) and (0, 1), so that mining may choose them.
"""

import jax
import jax.numpy as jnp


def symmetric(
    anchor: jax.Array, positive: jax.Array, *, ratio: float = 2.0, norm_ratio: float = 1.0, rescale: bool = False
) -> jax.Array:
    """The symmetrical synthesis: each point of a pair mirrored about the other.

    The mirror image of p about the axis a is q = norm_ratio (ratio r - p), where r = (a.p / |a|^2) a is the
    projection of p on the line of a (Gu and Ko, AAAI 2020, equations 4 to 6). With ratio 2 and norm_ratio 1 it
    is a reflection: |q| = |p| and q.a = p.a.

    Args:
      anchor: (n, dim) floating.
      positive: (n, dim), same shape and dtype as `anchor`, same class row by row.
      ratio: how far the point moves through its projection; 2 is the mirror image, 1 falls short of it.
      norm_ratio: length factor of the result.
      rescale: give the result the norm of its axis instead.

    Returns:
      Coefficients (n, 4, 2) of: anchor, positive, mirror of positive about anchor, mirror of anchor about
      positive. An axis of length zero has no direction: its mirror image is then -norm_ratio p, with finite
      gradients.

    Example:
      >>> import jax.numpy as jnp
      >>> a, p = jnp.array([[1.0, 0.0]]), jnp.array([[0.6, 0.8]])
      >>> print(points(symmetric(a, p), a, p)[0, 2].round(3))
      [ 0.6 -0.8]
    """
    aa, ap, pp = (jnp.sum(x * y, axis=-1) for x, y in ((anchor, anchor), (anchor, positive), (positive, positive)))
    one, zero = jnp.ones_like(aa), jnp.zeros_like(aa)

    def mirror(axis_axis, point_point):
        """Coefficients (on the axis, on the mirrored point), each (n,)."""
        on_axis = norm_ratio * ratio * _divide(ap, axis_axis)
        on_point = -norm_ratio * one
        if rescale:
            square = on_axis**2 * axis_axis + 2 * on_axis * on_point * ap + on_point**2 * point_point
            factor = _sqrt(_divide(axis_axis, square))
            on_axis, on_point = factor * on_axis, factor * on_point
        return on_axis, on_point

    positive_about_anchor = mirror(aa, pp)
    anchor_about_positive = mirror(pp, aa)[::-1]
    rows = [(one, zero), (zero, one), positive_about_anchor, anchor_about_positive]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def points(coefficients: jax.Array, anchor: jax.Array, positive: jax.Array) -> jax.Array:
    """Builds the points: (n, points, 2), (n, dim), (n, dim) -> (n, points, dim)."""
    return coefficients[..., :1] * anchor[:, None, :] + coefficients[..., 1:] * positive[:, None, :]


SYNTHESES = {"symmetric": symmetric}


def _divide(x: jax.Array, y: jax.Array) -> jax.Array:
    """x / y, and 0 with gradient 0 where y is not positive (the inner `where` keeps NaN out of the gradient)."""
    ok = y > 0
    return jnp.where(ok, x / jnp.where(ok, y, 1), 0)


def _sqrt(x: jax.Array) -> jax.Array:
    """Square root with gradient 0 at 0."""
    ok = x > 0
    return jnp.where(ok, jnp.sqrt(jnp.where(ok, x, 1)), 0)
