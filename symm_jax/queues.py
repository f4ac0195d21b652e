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
    """
    zeros = jax.tree.map(lambda x: jnp.zeros((size, *x.shape), x.dtype), entry)
    return Queue(zeros, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def push(queue: Queue, new: Any, *, warm_up: int = 0) -> Queue:
    """Writes entries. Gradients do not pass.

    Args:
      queue: the queue.
      new: tree of arrays (k, ...), k entries. With more than `size` of them, the last `size` are kept.
      warm_up: the first calls of this number write nothing.
    """
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
