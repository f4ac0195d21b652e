"""Points in the plane of a pair: from the two points of a class to the coefficients of synthetic hard points.

Let a be the anchor and p the positive of one class. Every synthetic point of the literature that is made from them
lies in their plane, q = x a + y p. Such a synthesis is therefore a pure function

    (anchor (n, dim), positive (n, dim)) -> coefficients (n, points, 2)

where coefficients[i, k] = (x, y) of point k of class i. The losses use the coefficients only: all similarities between
the points of two classes follow from the products of the originals (losses/mining.py). The losses never build the
points. `points` builds them, for figures and tests.

The first two points are the originals, (1, 0) and (0, 1), because the miner selects among real and synthetic points.
`with_originals` puts them before the points of your own synthesis:

    def halfway(anchor, positive, *, at=0.5):
        return with_originals(jnp.tile(jnp.array([1 - at, at]), (len(anchor), 1, 1)))

Pass the function to a loss, `npair_loss(..., synthesis=halfway)`. For use in a config, `register` it.
"""

import math
import numbers
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from symm_jax import dtypes, signatures, similarity

Synthesis = Callable[[jax.Array, jax.Array], jax.Array]

MAX_POINTS = 8  # points of a class. A winner (k, l) is stored in one byte, and more than 64 pairs compile for minutes.


def with_originals(coefficients: Float[Array, "n new 2"]) -> Float[Array, "n points 2"]:
    """Puts the anchor and the positive before synthetic points.

    Args:
      coefficients: (n, new, 2) floating, of synthetic points.

    Returns:
      Coefficients (n, 2 + new, 2). The losses take the first two points for the originals, whatever the coefficients
      of these points are.
    """
    originals = jnp.broadcast_to(jnp.eye(2, dtype=coefficients.dtype), (len(coefficients), 2, 2))
    return jnp.concatenate([originals, coefficients], axis=1)


def symmetric(
    anchor: Float[ArrayLike, "n dim"],
    positive: Float[ArrayLike, "n dim"],
    *,
    ratio: float = 2.0,
    norm_ratio: float = 1.0,
    rescale: bool = False,
) -> Float[Array, "n 4 2"]:
    """The symmetrical synthesis: the mirror image of each point about the other point of its pair.

    The mirror image of p about the axis a is q = norm_ratio (ratio r - p), where r = (a.p / |a|^2) a is the
    projection of p on the line of a (Gu and Ko, AAAI 2020, equations 4 to 6). With ratio 2 and norm_ratio 1, q is the
    reflection of p: |q| = |p| and q.a = p.a.

    Args:
      anchor: (n, dim) floating.
      positive: (n, dim), same shape and dtype as `anchor`. Row i of both has the same class.
      ratio: how far the point moves through its projection. 2 gives the mirror image, 1 stops before it.
      norm_ratio: factor of the norm of the result.
      rescale: give the result the norm of its axis. `norm_ratio` then has no effect.

    Returns:
      Coefficients (n, 4, 2), float32 or float64, of: anchor, positive, mirror image of the positive about the anchor,
      mirror image of the anchor about the positive. An axis of norm 0 has no direction. The mirror image is then
      -norm_ratio p, with finite gradients; with `rescale` it is 0. So is, with `rescale`, a result that rounding makes
      0, which takes nearly parallel points and a `ratio` near 1.

    Raises:
      ValueError: anchor and positive are not both (n, dim), or a ratio is not a finite number.

    Example:
      >>> import jax.numpy as jnp
      >>> a, p = jnp.array([[1.0, 0.0]]), jnp.array([[0.6, 0.8]])
      >>> print(points(symmetric(a, p), a, p)[0, 2].round(3))
      [ 0.6 -0.8]
    """
    for name, value in ("ratio", ratio), ("norm_ratio", norm_ratio):
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise ValueError(f"{name} must be a finite Python number; got {value!r}")
    aa, ap, pp, _ = _products(anchor, positive)

    def mirror(axis_axis, point_point):
        """Returns the coefficients (on the axis, on the mirrored point), each (n,)."""
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


def interpolated(
    anchor: Float[ArrayLike, "n dim"],
    positive: Float[ArrayLike, "n dim"],
    *,
    num: int = 2,
    l2_normalize: bool = True,
) -> Float[Array, "n points 2"]:
    """Embedding Expansion: points that divide the segment from anchor to positive into equal parts.

    Point k of `num` is ((num + 1 - k) a + k p) / (num + 1), scaled to unit norm if `l2_normalize` (Ko and Gu, CVPR
    2020).

    Args:
      anchor: (n, dim) floating. With `l2_normalize`, give embeddings of unit norm; otherwise the norms of originals
        and synthetic points differ.
      positive: (n, dim), same shape and dtype as `anchor`. Row i of both has the same class.
      num: number of points, from 1 to 6 for the losses.
      l2_normalize: scale the points to unit norm.

    Returns:
      Coefficients (n, 2 + num, 2), float32 or float64, of: anchor, positive, then the points from anchor to positive.
      The midpoint of opposite points is 0. It is not scaled, and its gradients are finite.

    Raises:
      ValueError: `num` is not an integer above 0, or anchor and positive are not both (n, dim).

    Example:
      >>> import jax.numpy as jnp
      >>> a, p = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
      >>> print(points(interpolated(a, p, num=1), a, p)[0, 2].round(3))
      [0.707 0.707]
    """
    if isinstance(num, bool) or not isinstance(num, numbers.Integral) or num < 1:
        raise ValueError(f"num must be an integer number of points, 1 or more; got {num!r}")
    aa, ap, pp, scale = _products(anchor, positive)
    t = jnp.arange(1, num + 1, dtype=aa.dtype)[None, :] / (num + 1)
    new = jnp.stack([1 - t, t], axis=-1) * jnp.ones_like(aa)[:, None, None]
    if l2_normalize:
        square = (1 - t) ** 2 * aa[:, None] + 2 * t * (1 - t) * ap[:, None] + t**2 * pp[:, None]
        new = new * _divide(1 / scale, similarity.root(square))[..., None]
    return with_originals(new)


def points(
    coefficients: Float[Array, "n points 2"],
    anchor: Float[Array | np.ndarray, "n dim"],
    positive: Float[Array | np.ndarray, "n dim"],
) -> Float[Array, "n points dim"]:
    """Builds the points from their coefficients.

    Args:
      coefficients: (n, points, 2) floating, from a synthesis.
      anchor: (n, dim) floating, as given to the synthesis.
      positive: (n, dim), as given to the synthesis.

    Returns:
      (n, points, dim).
    """
    a, p = dtypes.to_device(anchor, "anchor"), dtypes.to_device(positive, "positive")
    return coefficients[..., :1] * a[:, None, :] + coefficients[..., 1:] * p[:, None, :]


def check(name: str, function: Callable[..., jax.Array]) -> None:
    """Checks the contract of a synthesis on a few pairs.

    - The function takes anchor and positive by position, and its options by keyword, each with a default.
    - The result is (n, points, 2), floating, with at most MAX_POINTS points.
    - The first two points are the originals, (1, 0) and (0, 1).
    - Coefficients and their gradients are finite, also for a pair of equal points.
    - Row i depends on row i of anchor and positive only, so that devices can share a batch.

    Raises:
      ValueError: the contract is broken. The message names the synthesis and says what to do.
    """
    what = f"synthesis {name!r}"
    signatures.check_signature(what, function, ("anchor", "positive"))
    anchor, positive = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32))
    positive = positive.at[3].set(anchor[3])
    try:
        coefficients = function(anchor, positive)
    except Exception as error:
        raise ValueError(
            f"{what} fails for anchor and positive of shape {anchor.shape}: {type(error).__name__}: {error}"
        ) from error
    shape, dtype = getattr(coefficients, "shape", ()), getattr(coefficients, "dtype", None)
    if len(shape) != 3 or shape[::2] != (4, 2) or not 2 <= shape[1] <= MAX_POINTS:
        raise ValueError(
            f"{what} must return coefficients of shape (4, points, 2) for anchor {anchor.shape}, with 2 to "
            f"{MAX_POINTS} points; got {shape or type(coefficients).__name__}"
        )
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"{what} must return floating coefficients, got {dtype}")
    if not (np.asarray(coefficients[:, :2]) == np.eye(2)).all():
        raise ValueError(
            f"{what} must return the originals first, coefficients (1, 0) and (0, 1); got "
            f"{np.asarray(coefficients[0, :2]).tolist()}. Return synthesis.with_originals(coefficients)."
        )
    gradients = jax.grad(lambda a, p: jnp.sum(function(a, p)), argnums=(0, 1))(anchor, positive)
    for kind, values in ("coefficients", (coefficients,)), ("gradients", gradients):
        bad = [i for i in range(4) if not all(bool(jnp.isfinite(x[i]).all()) for x in values)]
        if bad:
            pair = "equal points" if bad == [3] else "ordinary points"
            raise ValueError(f"{what} must have finite {kind}; they are not finite for a pair of {pair}")
    if not np.allclose(function(anchor[2:], positive[2:]), coefficients[2:], rtol=1e-4, atol=1e-5):
        raise ValueError(f"{what} must compute row i from row i of anchor and positive only, without the other rows")


def _products(anchor: ArrayLike, positive: ArrayLike) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Returns a.a, a.p and p.p of each pair (n,), float32 or float64, of vectors divided by the returned scale (n, 1).

    The scale keeps the squares of huge and tiny vectors within the range of the dtype. Gradients take it as constant.
    """
    anchor, positive = dtypes.to_device(anchor, "anchor"), dtypes.to_device(positive, "positive")
    if anchor.ndim != 2 or anchor.shape != positive.shape:
        raise ValueError(f"anchor and positive must both be (n, dim), got {anchor.shape} and {positive.shape}")
    dtype = jnp.promote_types(anchor.dtype, jnp.float32)
    a, p = anchor.astype(dtype), positive.astype(dtype)
    largest = jnp.maximum(jnp.max(jnp.abs(a), axis=-1), jnp.max(jnp.abs(p), axis=-1))
    scale = jax.lax.stop_gradient(jnp.where(largest > 0, largest, 1))[:, None]
    a, p = a / scale, p / scale
    return jnp.sum(a * a, axis=-1), jnp.sum(a * p, axis=-1), jnp.sum(p * p, axis=-1), scale


def _divide(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns x / y. Where y is too small for a finite gradient x / y^2, the result is 0 with gradient 0."""
    ok = y > jnp.finfo(y.dtype).tiny ** 0.5
    return jnp.where(ok, x / jnp.where(ok, y, 1), 0)  # the inner `where` avoids NaN in the gradient
