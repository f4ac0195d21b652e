"""Queries with many positives are sorted, not counted: the same ranks, in less time."""

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from slow_ranks import assert_ranks, slow_ranks

from symm_jax import metrics
from symm_jax.metrics import ranking, sorting

# Few distinct points, so that most cosines tie; a zero point; singleton, small and large classes.
POINTS = hnp.arrays(np.float32, (23, 3), elements=st.sampled_from([-1.0, 0.0, 1.0, 2.0]))
LABELS = st.lists(st.sampled_from([0, 0, 0, 0, 1, 1, 2, 3, 70]), min_size=23, max_size=23).map(np.array)


@pytest.fixture
def sort_above(monkeypatch):
    """sort_above(n): queries with more than n positives are sorted."""
    return lambda limit: monkeypatch.setattr(ranking, "_MOST_COUNTED", limit)


@hypothesis.given(POINTS, LABELS)
@hypothesis.settings(
    max_examples=8, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_ranks_equal_a_slow_sort(sort_above, points, labels):
    sort_above(0)
    assert_ranks(ranking.rank(points, labels, block_size=8), slow_ranks(points, labels))


def test_sorting_and_counting_give_the_same_bits(sort_above):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(24), [*[1, 2, 3, 4] * 5, 20, 30, 40, 50])
    points = (rng.normal(size=(24, 4))[labels] + rng.normal(size=(len(labels), 4))).astype(np.float32)
    points[::9] = points[5]
    sort_above(99)
    sides = points[::3], labels[::3], points, labels
    counted = ranking.rank(*sides, block_size=32)
    sort_above(8)  # some tiles are sorted, others are counted
    both = ranking.rank(*sides, block_size=32)
    with jax.enable_x64(True):
        wide = ranking.rank(*sides, block_size=32)
    for ranks in (both, wide):
        for ours, theirs in zip(ranks, counted, strict=True):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)


def test_the_order_of_keys_is_that_of_cosines_and_ties():
    tie = np.float32(ranking.tiles.TIE)
    cosines = np.array([-1.0000002, -0.5, -1e-40, -0.0, 0.0, tie, 0.5, 1.0, 1.0000002], np.float32)
    negative = np.asarray(sorting._encode(jax.numpy.asarray(cosines), jax.numpy.zeros(9, bool)))
    assert (negative % 2 == 1).all() and (negative > sorting._LOWEST).all()
    assert (np.diff(negative) > 0).tolist() == [True, True, False, False, True, True, True, True]
    positive = np.asarray(sorting._encode(jax.numpy.asarray(cosines), jax.numpy.ones(9, bool)))
    assert (positive % 2 == 0).all()
    assert positive[5] == negative[4] - 1  # a tie, to within TIE: the negative ranks before


def test_labels_of_all_64_bits(sort_above):
    """int64 and uint64 together would become float64, which cannot tell these classes apart."""
    far = np.array([2**62, 2**62 + 1, 2**62 + 2], np.int64)
    points = np.eye(3)
    both = {"gallery": points, "gallery_labels": far.astype(np.uint64)}
    assert metrics.recall_at_k(points, far, (1,), **both) == {1: 1.0}
    assert metrics.normalized_mutual_information(far, far.astype(np.uint64)) == pytest.approx(1)
