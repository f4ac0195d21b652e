"""Queues of past entries, as pure data: part of the state of training, saved and resumed with it.

A queue holds the newest `size` entries that were pushed. An entry is one row of a tree of arrays, such as an image's
embedding and label. Entries are kept where they were written, and a new one takes the place of the oldest.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Queue(NamedTuple):
    """A queue.

    entries: tree of arrays (size, ...). Places that were never written hold zeros.
    pushes: int32 scalar, how often `push` was called.
    written: int32 scalar, how many entries were written. Once the queue is full, it stays below 2 `size`: only the
      remainder by `size` counts.
    """

    entries: Any
    pushes: jax.Array
    written: jax.Array


def create(entry: Any, size: int) -> Queue:
    """An empty queue.

    Args:
      entry: tree of arrays or shapes (`jax.ShapeDtypeStruct`): one entry.
      size: number of entries.

    Raises:
      ValueError: `size` is not an integer above 0, or an entry is not an array.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f"size of a queue must be an integer number of entries, 1 or more; got {size!r}")
    if bad := [x for x in jax.tree.leaves(entry) if not hasattr(x, "shape")]:
        raise ValueError(f"an entry must be a tree of arrays or of jax.ShapeDtypeStruct; got {type(bad[0]).__name__}")
    zeros = jax.tree.map(lambda x: jnp.zeros((size, *x.shape), x.dtype), entry)
    return Queue(zeros, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def push(queue: Queue, new: Any, *, warm_up: int = 0) -> Queue:
    """Writes entries. Gradients do not pass.

    Args:
      queue: the queue.
      new: tree of arrays (k, ...), k entries. With more than `size` of them, the last `size` are kept.
      warm_up: the first calls of this number write nothing.

    Raises:
      ValueError: `new` does not fit the queue's entries, or `warm_up` is not an integer, 0 or more.
    """
    _check(queue, new, warm_up)
    size, k = len(jax.tree.leaves(queue.entries)[0]), len(jax.tree.leaves(new)[0])
    places = (queue.written + jnp.arange(k)[-size:]) % size
    open_ = queue.pushes >= warm_up

    def write(old, x):
        x = jax.lax.stop_gradient(x[-size:]).astype(old.dtype)
        return old.at[places].set(jnp.where(open_, x, old[places]))

    written = queue.written + jnp.where(open_, k, 0).astype(jnp.int32)
    written = jnp.where(written < size, written, size + written % size)  # or it would exceed int32
    return Queue(jax.tree.map(write, queue.entries, new), queue.pushes + 1, written)


def ages(queue: Queue) -> jax.Array:
    """How many entries were written after the one at each place, (size,) int32; -1 where none was written."""
    size = len(jax.tree.leaves(queue.entries)[0])
    age = (queue.written - 1 - jnp.arange(size, dtype=jnp.int32)) % size
    return jnp.where(age < queue.written, age, -1)


def take(queue: Queue, age: jax.Array) -> tuple[Any, jax.Array]:
    """Reads entries. Gradients do not pass.

    Args:
      queue: the queue.
      age: (k,) integer, how many entries were written after each, from 0 to `size` - 1.

    Returns:
      Tree of arrays (k, ...), and (k,) bool: whether the entry exists.
    """
    size = len(jax.tree.leaves(queue.entries)[0])
    places = (queue.written - 1 - age) % size
    return jax.tree.map(lambda x: jax.lax.stop_gradient(x[places]), queue.entries), age < queue.written


def _check(queue: Any, new: Any, warm_up: Any) -> None:
    if not isinstance(queue, Queue):
        raise ValueError(f"push takes a Queue, from queues.create; got {type(queue).__name__}")
    if isinstance(warm_up, bool) or not isinstance(warm_up, int) or warm_up < 0:
        raise ValueError(f"warm_up must be an integer number of calls, 0 or more; got {warm_up!r}")
    kept, given = (jax.tree.map(jnp.shape, tree) for tree in (queue.entries, new))
    pairs = list(zip(jax.tree.leaves(queue.entries), jax.tree.leaves(new), strict=False))
    fits = jax.tree.structure(queue.entries) == jax.tree.structure(new)
    fits = fits and all(x.shape[1:] == jnp.shape(y)[1:] and x.ndim == jnp.ndim(y) for x, y in pairs)
    if not fits or len({jnp.shape(y)[0] for _, y in pairs}) != 1:
        raise ValueError(
            "push takes k entries as a tree of arrays (k, ...), like those of the queue, (size, ...); the queue has "
            f"{kept}, and new {given}"
        )
