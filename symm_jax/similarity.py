"""Similarities between the (synthetic) points of every two classes of a batch, and the hardest of them.

The similarity of point k of class i with point l of class j is

    S[(i, k), (j, l)] = sum over u, v in {anchor, positive} of C[i, k, u] C[j, l, v] G_uv[i, j]

with C the coefficients of a synthesis and G_uv = u @ v.T the Gram blocks of the originals: four products
of (n, dim) matrices however many points there are, three where one is another's transpose.

Rows are this device's classes. With `axis_name` columns are the classes of all devices, so that a class meets
every negative of the global batch; nothing else in a loss knows about devices.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def gather(x: jax.Array, axis_name: str | None) -> jax.Array:
    """Rows of all devices in device order: (n, ...) -> (devices * n, ...); `x` itself when there is no axis."""
    return x if axis_name is None else jax.lax.all_gather(x, axis_name, tiled=True)


def product(x: jax.Array, y: jax.Array) -> jax.Array:
    """x @ y.T in full float32 (or float64): accelerators' shorter formats would reorder near neighbours."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    return jax.lax.dot_general(
        x, y, (((1,), (1,)), ((), ())), precision=jax.lax.Precision.HIGHEST, preferred_element_type=dtype
    )


def normalize(x: jax.Array) -> jax.Array:
    """Rows of unit L2 norm; a zero row stays zero, with gradient 0."""
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    ok = square > 0
    return jnp.where(ok, x * jax.lax.rsqrt(jnp.where(ok, square, 1)), 0)


def hardest(
    anchor: jax.Array,
    positive: jax.Array,
    coefficients: jax.Array,
    candidates: Sequence[tuple[int, int]],
    axis_name: str | None = None,
) -> jax.Array:
    """The largest similarity over candidate pairs of points, for every two classes.

    Args:
      anchor: (n, dim).
      positive: (n, dim).
      coefficients: (n, points, 2), see synthesis.py.
      candidates: pairs (k, l): point k of the row's class against point l of the column's.
      axis_name: the mapped axis over which the batch is split, if it is.

    Returns:
      (n, N) similarities, N = n x devices; the diagonal block, where both are of one class, is mined as well.
    """
    a, p, c = (gather(x, axis_name) for x in (anchor, positive, coefficients))
    anchor_positive = product(anchor, p)
    # On one device p a' is the transpose of a p': one product saved.
    positive_anchor = anchor_positive.T if axis_name is None else product(positive, a)
    blocks = ((product(anchor, a), anchor_positive), (positive_anchor, product(positive, p)))

    def candidate(k, l):
        terms = (coefficients[:, k, u, None] * c[None, :, l, v] * blocks[u][v] for u in (0, 1) for v in (0, 1))
        return sum(terms)

    first, *rest = candidates
    similarity = candidate(*first)
    for pair in rest:
        similarity = jnp.maximum(similarity, candidate(*pair))
    return similarity
