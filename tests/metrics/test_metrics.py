"""Metrics compared with recorded values and a slow float64 loop: ties, singleton classes, In-Shop's sets, bad input."""

import hypothesis
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from slow_ranks import assert_ranks, slow_ranks

from symm_jax import devices, metrics
from symm_jax.metrics import ranking

RECORDED = np.load("tests/records/evaluation.npz")
CASES = ("balanced", "many_classes", "imbalanced")


@pytest.mark.parametrize("case", CASES)
def test_retrieval_equals_the_recorded(case):
    ks = (1, 2, 4, 8, 10, 100)
    ours = metrics.retrieval(RECORDED[f"{case}/embeddings"], RECORDED[f"{case}/labels"], ks)
    assert ours == {name: pytest.approx(float(RECORDED[f"{case}/{name}"]), abs=1e-9) for name in ours}
    assert list(ours) == [*(f"recall@{k}" for k in ks), "map@r", "r_precision"]


@pytest.mark.parametrize("case", CASES)
def test_clustering_metrics_equal_the_recorded_and_scikit_learns(case):
    labels, assignments = RECORDED[f"{case}/labels"], RECORDED[f"{case}/assignments"]
    nmi = metrics.normalized_mutual_information(labels, assignments)
    assert nmi == pytest.approx(float(RECORDED[f"{case}/nmi"]), abs=1e-9)
    assert nmi == pytest.approx(sklearn.metrics.normalized_mutual_info_score(labels, assignments), abs=1e-9)
    assert metrics.pairwise_f1(labels, assignments) == pytest.approx(float(RECORDED[f"{case}/f1"]), abs=1e-9)


# Few distinct points, so that most cosines tie; singleton classes; one class with most images.
POINTS = hnp.arrays(np.float32, (23, 3), elements=st.sampled_from([-1.0, 0.0, 1.0, 2.0]))
LABELS = st.lists(st.sampled_from([0, 0, 0, 0, 1, 1, 2, 3, 70]), min_size=23, max_size=23).map(np.array)


@hypothesis.given(POINTS, LABELS, st.sampled_from([4, 7, 64]))
@hypothesis.settings(max_examples=10, deadline=None)
def test_ranks_equal_a_slow_sort(points, labels, block_size):
    assert_ranks(ranking.rank(points, labels, block_size=block_size), slow_ranks(points, labels))
    gallery = points[11:], labels[11:]
    ours = ranking.rank(points[:11], labels[:11], *gallery, block_size=block_size)
    assert_ranks(ours, slow_ranks(points[:11], labels[:11], *gallery))


def test_the_nearest_positive_alone():
    rng = np.random.default_rng(0)
    points, labels = rng.normal(size=(300, 4)).astype(np.float32), rng.integers(0, 3, 300)
    nearest = ranking.rank(points, labels, nearest_only=True)
    np.testing.assert_array_equal(nearest.negatives_ahead, slow_ranks(points, labels)[1])
    assert np.isnan(nearest.average_precision).all()


def test_queries_and_gallery_apart():
    rng = np.random.default_rng(1)
    queries, gallery = rng.normal(size=(40, 6)), rng.normal(size=(70, 6))
    query_labels, gallery_labels = rng.integers(0, 9, 40), rng.integers(2, 30, 70)  # some queries have nothing to find
    apart = {"gallery": gallery, "gallery_labels": gallery_labels}
    positives, first, precision, average = slow_ranks(queries, query_labels, gallery, gallery_labels)
    assert 0 < (positives == 0).sum() < 40
    recall = metrics.recall_at_k(queries, query_labels, (1, 10, 70), **apart)
    assert recall == {k: pytest.approx(np.mean(first[positives > 0] < k)) for k in (1, 10, 70)}
    assert metrics.map_at_r(queries, query_labels, **apart) == pytest.approx(np.nanmean(average))
    assert metrics.r_precision(queries, query_labels, **apart) == pytest.approx(np.nanmean(precision))


@pytest.mark.parametrize("dim", [3, 64, 512, 2048])
def test_a_collapsed_network_scores_nothing(dim):
    rng = np.random.default_rng(dim)
    labels = rng.integers(0, 200, 2100)
    assert_nothing_found(ranking.rank(np.tile(rng.normal(size=dim), (2100, 1)), labels))


@pytest.mark.parametrize("block_size", [37, 256])
@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_a_network_collapsed_to_rounding_scores_nothing(platform, block_size):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 100, 700)
    equal = np.tile(rng.normal(size=64).astype(np.float32), (700, 1))
    noisy = np.where(rng.integers(0, 2, equal.shape), equal, np.nextafter(equal, np.float32(9)))
    with devices.traced_for(platform):
        assert_nothing_found(ranking.rank(equal, labels, block_size=block_size))
        assert np.mean(ranking.rank(noisy, labels, block_size=block_size).negatives_ahead == 0) == 0


def assert_nothing_found(ranks):
    others = len(ranks.positives) - 1 - ranks.positives
    np.testing.assert_array_equal(ranks.negatives_ahead, np.where(ranks.positives, others, -1))
    assert np.nanmax(ranks.average_precision) == 0


def test_the_form_for_a_gpu_gives_the_same_ranks():
    rng = np.random.default_rng(0)
    labels = np.sort(rng.integers(0, 60, 400))
    labels[:30] = 0  # a class that is sorted, among others that are counted
    points = (rng.normal(size=(61, 4))[labels] + rng.normal(size=(400, 4))).astype(np.float32)
    points[::9] = points[5]
    for sides, nearest_only in [((points, labels), False), ((points[::3], labels[::3], points, labels), True)]:
        expected = ranking.rank(*sides, nearest_only=nearest_only, block_size=64)
        with devices.traced_for("gpu"):
            actual = ranking.rank(*sides, nearest_only=nearest_only, block_size=64)
        assert_ranks(actual, expected)


def test_metrics_of_a_collapsed_network():
    collapsed, labels = np.ones((6, 3)), np.repeat([0, 1], 3)
    assert metrics.recall_at_k(collapsed, labels, (1, 2, 3, 4)) == {1: 0, 2: 0, 3: 0, 4: 1}
    assert metrics.map_at_r(collapsed, labels) == 0
    assert metrics.clustering(collapsed, labels) == {"nmi": 0, "f1": pytest.approx(12 / 21)}


def test_clustering_finds_separate_classes():
    labels = np.repeat(np.arange(5), 8)
    points = np.eye(5)[labels] + 0.01 * np.random.default_rng(0).normal(size=(40, 5))
    assert metrics.clustering(points, labels) == {"nmi": pytest.approx(1), "f1": 1}


def test_equal_partitions_without_pairs_or_entropy_score_one():
    assert metrics.pairwise_f1([0, 1, 2], [2, 0, 1]) == 1
    assert metrics.normalized_mutual_information([3, 3, 3], [0, 0, 0]) == 1
    assert metrics.normalized_mutual_information([3, 3, 3], [0, 1, 0]) == 0


def test_neighbours_equal_a_slow_sort():
    points = np.random.default_rng(2).normal(size=(30, 4)).astype(np.float32)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    images, cosines = ranking.find_neighbours(points, np.array([7, 0, 29]), 5, block_size=2)
    for row, found, cosine in zip((7, 0, 29), images, cosines, strict=True):
        expected = [j for j in np.argsort(-unit @ unit[row]) if j != row][:5]
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_allclose(cosine, unit[expected] @ unit[row], atol=1e-6)
    assert ranking.find_neighbours(points, np.arange(30), 99)[0].shape == (30, 29)
    assert ranking.find_neighbours(points, np.arange(0), 5)[0].shape == (0, 5)


def test_neighbours_come_from_the_possible_ones():
    points = np.random.default_rng(2).normal(size=(30, 4)).astype(np.float32)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    among = np.arange(30) % 3 > 0
    images, _ = ranking.find_neighbours(points, np.array([6, 7]), 99, among=among)
    assert images.shape == (2, 19)  # 7 is one of the 20, and not its own neighbour
    for row, found in zip((6, 7), images, strict=True):
        expected = [j for j in np.argsort(-unit @ unit[row]) if j != row and among[j]][:19]
        np.testing.assert_array_equal(found, expected)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("embeddings", "labels", "options", "message"),
    [
        (np.ones((3, 2)), np.array([0, 0, 1]), {"ks": 1}, r"ks must be a sequence .* got 1"),
        (np.ones((3, 2)), np.zeros(4, int), {}, r"embeddings must be .* \(3, 2\) and \(4,\)"),
        (np.array([[1, 2], [np.nan, 1], [np.inf, 0]]), np.arange(3), {}, "2 of 3 embeddings contain NaN .* number 1"),
        (np.array([[1, 2], [3, np.inf], [5, 0]], np.float16), np.arange(3), {}, "1 of 3 .* float16 has overflowed"),
        (np.array([[1, 2], [3, 1e39], [5, 0]]), np.arange(3), {}, "1 rows that float32 cannot hold.* row 1 is 1e"),
        (np.array([[1, 2], [1e-50, 0], [5, 0]]), np.arange(3), {}, "1 rows that float32 cannot hold.* row 1 is 1e"),
        (np.ones((3, 2), int), np.arange(3), {}, "embeddings must be floating, got int64"),
        (np.ones((3, 2)), np.array([0.0, 1.0, 1.0]), {}, "labels must be integers, got float64.* np.unique"),
        (np.ones((3, 2)), np.array([0, 1, 2**63], np.uint64), {}, "labels contain integers that int64 cannot hold"),
        (np.ones((3, 2)), np.arange(3), {}, "no query"),
        (np.ones((3, 2)), np.zeros(3, int), {}, "fewer than two classes"),
        (np.ones((3, 2)), np.arange(3), {"ks": (0,)}, "k = 0: .* 2 images"),
        (np.ones((3, 2)), np.arange(3), {"ks": (1.5,)}, "k = 1.5: .* integer"),
        (np.ones((3, 2)), np.arange(3), {"ks": (np.inf,)}, "k = inf: .* integer"),
        (np.ones((0, 2)), np.arange(0), {"gallery": np.ones((3, 2)), "gallery_labels": np.arange(3)}, "are empty"),
        (np.ones((3, 2)), np.arange(3), {"gallery_labels": [0]}, "without a gallery"),
        (np.ones((3, 2)), np.arange(3), {"ks": (1, 3)}, "k = 3: .* from 1 to 2"),
        (np.ones((3, 2)), np.arange(3), {"gallery": np.ones((2, 2)), "gallery_labels": [0]}, "gallery must be"),
        (np.ones((3, 2)), np.arange(3), {"gallery": np.ones((2, 4)), "gallery_labels": [0, 1]}, "2 dimensions"),
    ],
)
def test_bad_input_is_named(embeddings, labels, options, message):
    with pytest.raises(ValueError, match=message):
        metrics.recall_at_k(embeddings, labels, **{"ks": (1,)} | options)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("metric", [metrics.normalized_mutual_information, metrics.pairwise_f1])
def test_partitions_of_different_sets_are_refused(metric):
    with pytest.raises(ValueError, match=r"\(3,\) and \(2,\)"):
        metric([0, 1, 1], [0, 1])
