"""Queues: the newest entries are kept, in a ring, and what is pushed in a warm-up is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symm_jax import queues

push = jax.jit(queues.push, static_argnames="warm_up")


def by_age(queue):
    """The entries that were written, the newest first."""
    ages = np.asarray(queues.ages(queue))
    return [int(queue.entries["x"][place, 0]) for age in range(len(ages)) for place in np.flatnonzero(ages == age)]


@pytest.mark.parametrize("k", [3, 12])
def test_the_newest_entries_are_kept_with_their_ages(k):
    queue = queues.create({"x": jax.ShapeDtypeStruct((2,), "int32"), "y": jax.ShapeDtypeStruct((), "float32")}, 5)
    assert by_age(queue) == []
    pushed = []
    for call in range(7):
        new = 100 * call + np.arange(k, dtype=np.int32)
        queue = push(queue, {"x": np.stack([new, -new], axis=1), "y": new.astype(np.float64)}, warm_up=2)
        pushed = [*reversed(new.tolist()), *pushed] if call >= 2 else []
        assert by_age(queue) == pushed[:5]
        assert int(queue.pushes) == call + 1 and int(queue.written) < 10
        np.testing.assert_array_equal(queue.entries["x"][:, 0], queue.entries["y"])
        np.testing.assert_array_equal(queue.entries["x"][:, 0], -queue.entries["x"][:, 1])
    assert [x.dtype for x in jax.tree.leaves(queue)] == ["int32", "float32", "int32", "int32"]


def test_no_gradient_passes_through_a_queue():
    queue = queues.create(jax.ShapeDtypeStruct((), "float32"), 3)
    gradient = jax.grad(lambda x: jnp.sum(queues.push(queue, x).entries))(jnp.ones(2))
    np.testing.assert_array_equal(gradient, [0, 0])
