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


QUEUE = queues.create((np.zeros(3, np.float32), np.zeros((), np.int32)), 4)
X, Y = np.zeros((2, 3), np.float32), np.zeros(2, np.int32)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: queues.create(X, 0), "1 or more; got 0"),
        (lambda: queues.create(X, "3"), "got '3'"),
        (lambda: queues.create((X[0], 0), 3), "must be a tree of arrays .*got int"),
        (lambda: queues.push((X, Y), (X, Y)), "takes a Queue, from queues.create; got tuple"),
        (lambda: queues.push(QUEUE, (X, Y), warm_up=-1), "warm_up must be .*got -1"),
        (lambda: queues.push(QUEUE, (X[0], Y[0])), r"k entries .*and new \(\(3,\), \(\)\)"),
        (lambda: queues.push(QUEUE, (Y, X)), "k entries"),
        (lambda: queues.push(QUEUE, (X, Y[:1])), "k entries"),
        (lambda: queues.push(QUEUE, X), "k entries"),
    ],
)
def test_wrong_arguments_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()
