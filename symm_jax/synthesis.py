"""Synthetic hard samples: from the two points of a class to coefficients of new ones.

Every synthetic point of the literature that is made from an anchor a and a positive p of one class lies in
their plane, q = x a + y p. A synthesis is therefore a pure function

    (anchor (n, dim), positive (n, dim)) -> coefficients (n, points, 2)

with coefficients[i, k] = (x, y) of the k-th point of class i. The losses work on the coefficients alone: all
similarities between points of any two classes follow from the products of the originals (mining.py), so the
points are never built there. `points` builds them, for figures and tests.

The first two points are the originals, (1, 0) and (0, 1), so that mining may choose them. `with_originals` puts them
before the points of a synthesis of your own:

    def halfway(anchor, positive):
        return with_originals(jnp.full((len(anchor), 1, 2), 0.5))
"""

import numbers

import jax
import jax.numpy as jnp

from symm_jax import similarity


def with_originals(coefficients: jax.Array) -> jax.Array:
    """Puts the anchor and the positive before synthetic points: (n, new, 2) -> (n, 2 + new, 2).

    The losses rely on it: they take the first two points for the originals, whatever the coefficients there.
    """
    originals = jnp.broadcast_to(jnp.eye(2, dtype=coefficients.dtype), (len(coefficients), 2, 2))
    return jnp.concatenate([originals, coefficients], axis=1)


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
    aa, ap, pp, _ = _products(anchor, positive)

    def mirror(axis_axis, point_point):
        """Coefficients (on the axis, on the mirrored point), each (n,)."""
        on_axis = norm_ratio * ratio * _divide(ap, axis_axis)
        on_point = jnp.full_like(ap, -norm_ratio)
        if rescale:
            square = on_axis**2 * axis_axis + 2 * on_axis * on_point * ap + on_point**2 * point_point
            factor = similarity.root(_divide(axis_axis, square))
            on_axis, on_point = factor * on_axis, factor * on_point
        return on_axis, on_point

    positive_about_anchor = jnp.stack(mirror(aa, pp), axis=-1)
    anchor_about_positive = jnp.stack(mirror(pp, aa)[::-1], axis=-1)
    return with_originals(jnp.stack([positive_about_anchor, anchor_about_positive], axis=1))


def interpolated(anchor: jax.Array, positive: jax.Array, *, num: int = 2, l2_normalize: bool = True) -> jax.Array:
    """Embedding Expansion: points that divide the segment from anchor to positive into equal parts.

    The k-th of `num` points is ((num + 1 - k) a + k p) / (num + 1), scaled to unit length if `l2_normalize` (Ko and
    Gu, CVPR 2020).

    Args:
      anchor: (n, dim) floating; of unit length where `l2_normalize` is set, else the points' lengths differ from
        the originals'.
      positive: (n, dim), same shape and dtype as `anchor`, same class row by row.
      num: how many points, 1 or more.
      l2_normalize: scale the points to unit length.

    Returns:
      Coefficients (n, 2 + num, 2) of: anchor, positive, the points from the anchor's side on. The middle of
      opposite points is 0 and stays 0, with finite gradients.

    Raises:
      ValueError: `num` is not a whole number above 0.

    Example:
      >>> import jax.numpy as jnp
      >>> a, p = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
      >>> print(points(interpolated(a, p, num=1), a, p)[0, 2].round(3))
      [0.707 0.707]
    """
    if isinstance(num, bool) or not isinstance(num, numbers.Integral) or num < 1:
        raise ValueError(f"num must be a whole number of points, 1 or more; got {num!r}")
    aa, ap, pp, scale = _products(anchor, positive)
    t = jnp.arange(1, num + 1, dtype=aa.dtype)[None, :] / (num + 1)
    new = jnp.stack([1 - t, t], axis=-1) * jnp.ones_like(aa)[:, None, None]
    if l2_normalize:
        square = (1 - t) ** 2 * aa[:, None] + 2 * t * (1 - t) * ap[:, None] + t**2 * pp[:, None]
        new = new * _divide(1 / scale, similarity.root(square))[..., None]
    return with_originals(new)


def points(coefficients: jax.Array, anchor: jax.Array, positive: jax.Array) -> jax.Array:
    """Builds the points: (n, points, 2), (n, dim), (n, dim) -> (n, points, dim)."""
    return coefficients[..., :1] * anchor[:, None, :] + coefficients[..., 1:] * positive[:, None, :]


SYNTHESES = {"symmetric": symmetric, "interpolated": interpolated}


def _products(anchor: jax.Array, positive: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """a.a, a.p and p.p of each pair (n,), in float32 at least, of vectors divided by the returned scale (n, 1).

    The scale keeps the squares of huge and tiny vectors within range; it is a constant for gradients.
    """
    dtype = jnp.promote_types(anchor.dtype, jnp.float32)
    a, p = anchor.astype(dtype), positive.astype(dtype)
    largest = jnp.maximum(jnp.max(jnp.abs(a), axis=-1), jnp.max(jnp.abs(p), axis=-1))
    scale = jax.lax.stop_gradient(jnp.where(largest > 0, largest, 1))[:, None]
    a, p = a / scale, p / scale
    return jnp.sum(a * a, axis=-1), jnp.sum(a * p, axis=-1), jnp.sum(p * p, axis=-1), scale


def _divide(x: jax.Array, y: jax.Array) -> jax.Array:
    """x / y, and 0 with gradient 0 where y is too small for a finite gradient, x / y^2."""
    ok = y > jnp.finfo(y.dtype).tiny ** 0.5
    return jnp.where(ok, x / jnp.where(ok, y, 1), 0)  # the inner `where` keeps NaN out of the gradient
