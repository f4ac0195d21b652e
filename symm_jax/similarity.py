"""Similarities of embeddings: products in full precision, over several devices, in blocks of rows.

A loss of n pairs compares every row (a class of this device) with every column (a class of any device).
`sum_over_row_blocks` processes one block of rows after the other, so that memory holds the comparisons of one block.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

_NEVER = -1e30  # exponent of an entry that does not count. It is finite, so that an empty sum is finite.


def gather(x: Any, axis_name: str | None) -> Any:
    """Gathers the rows of all devices, in device order.

    Args:
      x: tree of arrays (n, ...).
      axis_name: the mapped axis of the devices. None returns `x`.

    Returns:
      Tree of arrays (devices * n, ...).
    """
    if axis_name is None:
        return x
    return jax.tree.map(lambda leaf: jax.lax.all_gather(leaf, axis_name, tiled=True), x)


def product(x: jax.Array, y: jax.Array) -> jax.Array:
    """Multiplies x (n, dim) by the transpose of y (m, dim), in full float32 (float64 for float64 input).

    The shorter formats of accelerators would change the order of near neighbours.
    """
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    return jax.lax.dot_general(
        x, y, (((1,), (1,)), ((), ())), precision=jax.lax.Precision.HIGHEST, preferred_element_type=dtype
    )


def normalize(x: jax.Array) -> jax.Array:
    """Scales the rows of x (n, dim) to unit L2 norm. A zero row, or one of denormals, gives zero, with gradient 0."""
    # A factor keeps the squares of huge and tiny rows within the range of the dtype. 4 / largest is itself within it.
    # A product takes half of the time of a division.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
    ok = largest > jnp.finfo(x.dtype).tiny
    x = x * (4 / jnp.where(ok, largest, 4))
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return jnp.where(ok, x * jax.lax.rsqrt(jnp.where(ok, square, 1)), 0)


def log_sum_exp(exponents: jax.Array, where: jax.Array, axis: int) -> jax.Array:
    """The logarithm of the sum of e^x over the entries `where` along an axis. That of no entry is about -1e30."""
    return jax.nn.logsumexp(jnp.where(where, exponents, _NEVER), axis=axis)


def root(square: jax.Array) -> jax.Array:
    """The square root. Entries that are not above 0, from equal points or from rounding, give 0 with gradient 0."""
    ok = square > 0
    return jnp.where(ok, jnp.sqrt(jnp.where(ok, square, 1)), 0)


def sum_over_row_blocks(
    function: Callable[..., tuple[jax.Array, Any]],
    rows: Any,
    columns: Any,
    row_ids: Any,
    column_ids: Any,
    block_size: int,
) -> tuple[jax.Array, Any]:
    """Sums a function over blocks of rows, each with all columns, in the memory of one block.

    The gradient of a block is computed together with its value. Only sums over blocks are kept. No array of size
    rows x columns is stored, and no product is computed twice.

    Args:
      function: (rows, columns, row_ids, column_ids) -> (scalar, tree of further sums without gradient), for any
        number of rows. The function may close over Python values only, not over arrays.
      rows: tree of floating arrays (n, ...).
      columns: tree of floating arrays (N, ...).
      row_ids: tree of arrays (n, ...), without gradient.
      column_ids: tree of arrays, without gradient.
      block_size: number of rows in a block. n need not be a multiple of it.

    Returns:
      The results of `function`, summed over the blocks.
    """
    n = len(jax.tree.leaves(row_ids)[0])
    if n <= block_size:
        return function(rows, columns, row_ids, column_ids)
    remainder = n % block_size

    def scan(step, start, rows):
        """Folds `step` over the full blocks, then over the remaining rows. Returns (carry, outputs per row)."""
        blocks = jax.tree.map(lambda x: x[: n - remainder].reshape(n // block_size, block_size, *x.shape[1:]), rows)
        carry, out = jax.lax.scan(step, start, blocks)
        out = jax.tree.map(lambda x: x.reshape(n - remainder, *x.shape[2:]), out)
        if remainder:
            carry, last = step(carry, jax.tree.map(lambda x: x[n - remainder :], rows))
            out = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), out, last)
        return carry, out

    def zeros_like_sum(rows, columns, row_ids, column_ids):
        shapes = jax.eval_shape(function, rows, columns, row_ids, column_ids)
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    @jax.custom_vjp
    def run(rows, columns, row_ids, column_ids):
        def step(total, block):
            return _add(total, function(block[0], columns, block[1], column_ids)), None

        return scan(step, zeros_like_sum(rows, columns, row_ids, column_ids), (rows, row_ids))[0]

    def forward(rows, columns, row_ids, column_ids):
        with_gradient = jax.value_and_grad(function, argnums=(0, 1), has_aux=True)

        def step(carry, block):
            value, (row_gradient, column_gradient) = with_gradient(block[0], columns, block[1], column_ids)
            return _add(carry, (value, column_gradient)), row_gradient

        start = zeros_like_sum(rows, columns, row_ids, column_ids), jax.tree.map(jnp.zeros_like, columns)
        (total, column_gradient), row_gradient = scan(step, start, (rows, row_ids))
        return total, (row_gradient, column_gradient)

    def backward(gradients, cotangents):
        return *jax.tree.map(lambda x: cotangents[0] * x, gradients), None, None

    run.defvjp(forward, backward)
    return run(rows, columns, row_ids, column_ids)


def _add(x: Any, y: Any) -> Any:
    return jax.tree.map(jnp.add, x, y)
