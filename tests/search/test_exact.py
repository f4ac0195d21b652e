"""Exact search against a brute force in float64; the graph of usearch."""

import json
import shutil
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symm_jax.errors import InputError
from symm_jax.search import Index, approximate, exact, index


def norm(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def brute_force(embeddings, queries, k):
    """The rule of `exact.nearest`: similarities in float64, rounded; of equal ones the smaller row first."""
    similarities = (queries.astype(np.float64) @ embeddings.astype(np.float64).T).astype(np.float32)
    rows = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(similarities, rows, 1), rows


def write(folder, embeddings, *, labels=(), images="/photos"):
    """An index of embeddings that were not made by a network."""
    folder.mkdir(exist_ok=True)
    labels = labels or [""] * len(embeddings)
    rows = [index.Row(f"{i:06d}.jpg", 1, 1, f"{i:064x}", label) for i, label in enumerate(labels)]
    about = {"images": images, "dim": embeddings.shape[1], "dtype": str(embeddings.dtype), "weights": {"sha256": "w"}}
    index.write(folder, about, rows, [embeddings])
    return Index(folder)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(0, 8), st.integers(1, 20), st.sampled_from(["f2", "f4"]),
    st.booleans(), st.data(),
)  # fmt: skip
def test_it_is_the_brute_force_with_its_ties(seed, m, n, dim, dtype, in_threads, data):
    """Coordinates are few integers, so many similarities are equal. Rows repeat across the borders of blocks."""
    k = data.draw(st.integers(1, m))
    rng = np.random.default_rng(seed)
    embeddings = rng.integers(-2, 3, (m, dim)) / (2.0 * np.sqrt(dim))
    embeddings = embeddings[rng.integers(0, max(1, m // 3), m)].astype(dtype)
    queries = norm(rng.standard_normal((n, dim)) + 1e-3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "_BLOCK", 7)
        patch.setattr(exact, "_QUERIES", 3)
        patch.setattr(exact, "_MIN_FOR_THREADS", 0 if in_threads else 2**40)
        patch.setattr(exact, "_threads", lambda: 2)
        values, rows = exact.nearest(embeddings, queries, k)
    expected = brute_force(embeddings, queries, k)[0]
    np.testing.assert_allclose(values, expected, atol=1e-7)
    assert values.dtype == np.float32 and rows.dtype == np.int64
    # BLAS in float64 may round another way than ours, so rows are compared by what they are: equal rows, smaller first.
    np.testing.assert_allclose(np.take_along_axis(queries @ embeddings.astype("f4").T, rows, 1), expected, atol=1e-6)
    for ours in rows:
        assert len({*ours}) == k
        for row in ours:  # each row before it with the same embedding is among the results too, and earlier
            same = np.flatnonzero((embeddings[:row] == embeddings[row]).all(axis=1))
            position = {r: i for i, r in enumerate(ours)}
            assert all(r in position and position[r] < position[row] for r in same)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_memory_map_of_near_equal_rows_in_every_batch_and_block(tmp_path, monkeypatch, dtype):
    """Rows that differ by less than float32 products resolve are ordered the same way however they are scanned."""
    rng = np.random.default_rng(0)
    base = norm(rng.standard_normal((40, 96)))
    noisy = base[rng.integers(0, 40, 5000)] + rng.choice([0, 1e-7, 1e-4], (5000, 1)) * rng.standard_normal((5000, 96))
    np.save(tmp_path / "e.npy", norm(noisy).astype(dtype))
    embeddings = np.load(tmp_path / "e.npy", mmap_mode="r")
    queries = np.concatenate([base, norm(rng.standard_normal((20, 96)))])
    values, rows = exact.nearest(embeddings, queries, 150)
    assert (np.diff(values, axis=1) <= 0).all()
    assert ((np.diff(values, axis=1) < 0) | (np.diff(rows, axis=1) > 0)).all()  # ties: the smaller row first
    exactly = np.einsum("nd,nkd->nk", queries.astype("f8"), embeddings[rows].astype("f8"))
    np.testing.assert_allclose(values, exactly, atol=1e-7)
    np.testing.assert_allclose(values, brute_force(embeddings, queries, 150)[0], atol=1e-7)
    for block, threads in ((64, 3), (999, 2), (5000, 1)):
        monkeypatch.setattr(exact, "_BLOCK", block)
        monkeypatch.setattr(exact, "_MIN_FOR_THREADS", 0)
        monkeypatch.setattr(exact, "_threads", lambda threads=threads: threads)
        for part in (slice(0, 60), slice(7, 8), slice(30, 47)):
            ours = exact.nearest(embeddings, queries[part], 150)
            np.testing.assert_array_equal(ours[0], values[part])
            np.testing.assert_array_equal(ours[1], rows[part])


def test_blas_has_its_threads_again_after_a_search(monkeypatch):
    monkeypatch.setattr(exact, "_MIN_FOR_THREADS", 0)
    before = [library["num_threads"] for library in exact._blas().info()]
    exact.nearest(np.eye(8, dtype=np.float32), np.eye(8, dtype=np.float32), 2)
    assert [library["num_threads"] for library in exact._blas().info()] == before


@pytest.mark.parametrize(
    ("queries", "k", "message"),
    [
        (np.ones((1, 3)), 1, r"queries must be \(n, 4\), got \(1, 3\)"),
        (np.ones(4), 1, r"got \(4,\)"),
        (np.ones((1, 4)), 5, "k: must be from 1 to 4, the number of embeddings, got 5"),
        (np.ones((1, 4)), 0, "k: must be from 1 to 4"),
        (np.full((1, 4), np.nan), 1, "queries must be finite"),
    ],
)
def test_misuse(queries, k, message):
    with pytest.raises(InputError, match=message):
        exact.nearest(np.eye(4, dtype=np.float16), queries, k)


def test_a_graph_is_made_once_and_again_for_other_embeddings(tmp_path):
    pytest.importorskip("usearch")
    rng = np.random.default_rng(0)
    embeddings = norm(rng.standard_normal((300, 16))).astype(np.float16)
    opened = write(tmp_path / "index", embeddings)
    first = approximate.Approximate(opened)
    assert first.is_new and first.k == 10 and 0.9 <= first.recall <= 1
    again = approximate.Approximate(Index(tmp_path / "index"))
    assert not again.is_new and again.recall == first.recall
    queries = norm(rng.standard_normal((5, 16)))
    values, rows = again.search(queries, 3)
    expected = opened.search(queries, 3)
    assert (rows == expected[1]).mean() > 0.8
    np.testing.assert_array_equal(values[rows == expected[1]], expected[0][rows == expected[1]])
    for found in (again.search(queries[:1], 300), again.search(queries[:0], 3)):
        assert found[1].shape[1] in (300, 3)
    graph = tmp_path / "index/usearch.index"
    graph.write_bytes(graph.read_bytes()[:-1])
    assert approximate.Approximate(opened).is_new
    changed = write(tmp_path / "index", embeddings[::-1])
    assert approximate.Approximate(changed).is_new and not approximate.Approximate(changed).is_new
    assert json.loads((tmp_path / "index/usearch.json").read_text())["recall"] > 0.9
    shutil.copy(graph, tmp_path / "kept")
    assert approximate.Approximate(write(tmp_path / "one", embeddings[:1])).recall == 1


def test_without_usearch_one_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    monkeypatch.setitem(sys.modules, "usearch", None)
    with pytest.raises(InputError, match="index_kind: it needs usearch.*pip install 'symm_jax.usearch.'"):
        approximate.Approximate(write(tmp_path / "index", np.eye(3, dtype=np.float16)))
