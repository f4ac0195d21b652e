"""Similarities of embeddings: products in full precision, across devices, and row block by row block.

A loss of n pairs compares every row (a class of this device) with every column (a class of any device).
`sum_over_rows` visits a block of rows at a time, so that not all of those comparisons are held at once.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def gather(x: Any, axis_name: str | None) -> Any:
    """Rows of all devices in device order: leaves (n, ...) -> (devices * n, ...); `x` itself without an axis."""
    if axis_name is None:
        return x
    return jax.tree.map(lambda leaf: jax.lax.all_gather(leaf, axis_name, tiled=True), x)


def product(x: jax.Array, y: jax.Array) -> jax.Array:
    """x @ y.T in full float32 (or float64): accelerators' shorter formats would reorder near neighbours."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    return jax.lax.dot_general(
        x, y, (((1,), (1,)), ((), ())), precision=jax.lax.Precision.HIGHEST, preferred_element_type=dtype
    )


def normalize(x: jax.Array) -> jax.Array:
    """Rows of unit L2 norm, (n, dim) -> (n, dim); a zero row stays zero, with gradient 0."""
    # Scaling by the largest entry first keeps the squares of huge and tiny rows within range.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
    x = x / jnp.where(largest > 0, largest, 1)
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return jnp.where(largest > 0, x * jax.lax.rsqrt(jnp.where(largest > 0, square, 1)), 0)


def root(square: jax.Array) -> jax.Array:
    """Square root; 0 with gradient 0 where rounding or equal points leave nothing above 0."""
    ok = square > 0
    return jnp.where(ok, jnp.sqrt(jnp.where(ok, square, 1)), 0)


def sum_over_rows(
    function: Callable[..., tuple[jax.Array, Any]],
    rows: Any,
    columns: Any,
    row_ids: Any,
    column_ids: Any,
    block_size: int,
) -> tuple[jax.Array, Any]:
    """The sum of a function over blocks of rows, each against all columns, in memory for one block.

    The gradient of a block is taken together with its value and only its sums are kept, so that nothing of size
    rows x columns is ever stored and no product is made twice.

    Args:
      function: (rows, columns, row_ids, column_ids) -> (scalar, tree of further sums that have no gradient); of
        any number of rows. It may close over Python values only.
      rows: tree of floating arrays (n, ...).
      columns: tree of floating arrays (N, ...).
      row_ids: tree of integer arrays (n, ...).
      column_ids: tree of integer arrays (N, ...).
      block_size: rows at a time; n need not be a multiple.

    Returns:
      What `function` returns, summed over the blocks.
    """
    n = len(jax.tree.leaves(row_ids)[0])
    if n <= block_size:
        return function(rows, columns, row_ids, column_ids)
    rest = n % block_size

    def scan(step, start, rows):
        """Folds `step` over the full blocks, then over the rest; returns (carry, outputs of each row)."""
        blocks = jax.tree.map(lambda x: x[: n - rest].reshape(n // block_size, block_size, *x.shape[1:]), rows)
        carry, out = jax.lax.scan(step, start, blocks)
        out = jax.tree.map(lambda x: x.reshape(n - rest, *x.shape[2:]), out)
        if rest:
            carry, last = step(carry, jax.tree.map(lambda x: x[n - rest :], rows))
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
