"""What the report shows of a test set: queries and neighbours, the map, the plane of synthetic points, the curves."""

import numpy as np
import pytest
from clusters import clusters

from symm_jax import metrics, synthesis
from symm_jax.report import curves, gallery, planes

LIMITS = gallery.Limits(all_of=50, mapped=50, failures=10, fair=5, walk=120, sample=40)


def test_open_images_have_all_their_true_neighbours():
    embeddings, labels = clusters(60, 10)
    shown = gallery.select(embeddings, labels, limits=LIMITS, also=[3, 4])
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    nearest = np.argsort(-similarity, axis=1)[:, :8]
    np.testing.assert_array_equal(shown.neighbours, nearest[shown.rows])
    np.testing.assert_array_equal(shown.open, np.isin(nearest[shown.rows], shown.rows).all(1))
    np.testing.assert_allclose(shown.similarity, np.take_along_axis(similarity, nearest, 1)[shown.rows], atol=1e-6)
    assert 0 < shown.open.sum() < len(shown.rows)
    assert len(shown.rows) <= LIMITS.walk + LIMITS.sample + 2
    assert {3, 4, *shown.starts, *shown.sample} <= set(shown.rows)
    assert len(shown.sample) == LIMITS.sample


def test_failures_come_hardest_first():
    embeddings, labels = clusters(60, 10, noise=1.0)
    shown = gallery.select(embeddings, labels, limits=LIMITS)
    ahead = dict(zip(shown.rows, shown.ahead, strict=True))
    counts = [ahead[row] for row in shown.starts]
    assert counts == sorted(counts, reverse=True)
    assert len(counts) == LIMITS.failures and counts[-1] > 0
    assert gallery.hardest(np.array([0, 3, -1, 9, 1]), 2).tolist() == [3, 1]
    assert gallery.hardest(np.array([0, 0, -1]), 2).tolist() == [0, 1]  # no failure: queries answered well


def test_small_test_sets_are_shown_whole():
    embeddings, labels = clusters(5, 10)
    shown = gallery.select(embeddings, labels, limits=LIMITS)
    assert len(shown.rows) == len(shown.sample) == 50 and shown.open.all()
    few = gallery.select(embeddings[:4], np.array([0, 0, 1, 2]))
    assert few.neighbours.shape == (4, 3) and few.open.all()
    assert few.ahead[2:].tolist() == [-1, -1] and few.queries == 2
    assert gallery.limits_for(32).all_of > gallery.limits_for(64).all_of > gallery.limits_for(96).all_of == 1500


def test_walk_takes_neighbours_all_or_not_at_all():
    def ring(rows):
        return (rows[:, None] + [1, 2]) % 100

    assert gallery.walk(np.array([0, 50]), ring, 7).tolist() == [0, 50, 1, 2, 51, 52, 3]
    assert gallery.walk(np.array([0]), ring, 4).tolist() == [0, 1, 2, 3]
    assert sorted(gallery.walk(np.array([0]), ring, 1000)) == list(range(100))


def test_counts_of_negatives_ahead():
    x = np.array([[1.0, 0.0], [0.9, 0.1], [0.8, 0.3], [0.0, 1.0], [1.0, 1.0]])
    labels = np.array([0, 0, 1, 1, 2])
    shown = gallery.select(x, labels)
    assert shown.ahead.tolist() == [0, 0, 3, 1, -1]
    assert (shown.failed, shown.queries, shown.against) == (2, 4, 4)


@pytest.mark.parametrize("classes", [5, 60])
def test_queries_start_and_the_gallery_answers(classes):
    embeddings, labels = clusters(classes, 10, noise=1.0)
    query = np.arange(len(labels)) % 10 < 4
    shown = gallery.select(embeddings, labels, query, limits=LIMITS)
    assert query[shown.starts].all() and not query[shown.neighbours].any()
    assert shown.queries == query.sum() and shown.against == np.sum(~query)
    recall = metrics.recall_at_k(
        embeddings[query], labels[query], (1,), gallery=embeddings[~query], gallery_labels=labels[~query]
    )
    assert 1 - shown.failed / shown.queries == pytest.approx(recall[1])


@pytest.mark.parametrize(
    ("embeddings", "method"),
    [
        (clusters(10, 6)[0], "t-SNE"),
        (clusters(4, 6)[0], "principal components"),
        (np.ones((60, 8), np.float32), "principal components"),
        (clusters(30, 2, dim=1)[0], "t-SNE"),
    ],
    ids=["many", "few", "collapsed", "one number each"],
)
def test_layout(embeddings, method):
    places, how = planes.lay_out(embeddings)
    assert how == method and places.shape == (len(embeddings), 2) and np.isfinite(places).all()
    np.testing.assert_array_equal(places, planes.lay_out(2 * embeddings).positions)


def test_synthetic_points_are_joined_to_their_axes():
    anchor, noise = np.random.default_rng(0).normal(size=(2, 4, 8)).astype(np.float32)
    places, axis = planes.synthesise(anchor, anchor + 0.3 * noise, synthesis.symmetric)
    assert places.shape == (4, 4, 2)
    assert axis.tolist() == [[0, 1]] * 4  # the mirror images of the positive about the anchor, and the other way


def test_charts_of_metric_lines():
    lines = [{"step": s, "loss": 10.0**-s, "learning_rate": 0.1} for s in (1, 2, 3)]
    lines.append({"step": 4, "loss": float("nan")})
    evaluated = [{"step": 2, "recall@10": 0.5, "recall@2": 0.3, "nmi": 0.4, "validation/recall@1": 0.2}]
    evaluated += [{"step": 2, "recall@10": 0.6, "recall@2": 0.3, "nmi": 0.4}]
    loss, rate, recall, other = curves.charts(lines, evaluated)
    assert loss.log and loss.series[0].steps == [1, 2, 3] and not rate.log
    assert [s.name for s in recall.series] == ["Recall@2", "Recall@10", "Recall@1, held-out classes"]
    assert recall.series[1].values == [0.6]  # the last line of a step counts
    assert [s.name for s in other.series] == ["NMI"]
    assert curves.charts([], []) == []
    long = curves.charts([{"step": s, "loss": 1.0} for s in range(1, 10_001)], [])[0].series[0].steps
    assert len(long) <= 2002 and (long[0], long[-1]) == (1, 10_000)
