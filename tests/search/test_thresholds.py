"""Thresholds against all pairs in float64, and what calibration keeps in the index."""

import itertools
import json

import hypothesis
import hypothesis.strategies as st
import numpy as np
import PIL.Image
import pytest

from symm_jax.app.calibrate import calibrate
from symm_jax.app.use_flags import Use
from symm_jax.errors import InputError
from symm_jax.search import Index, index, thresholds

NETWORK = {"network": {"name": "convnet"}, "preprocessing": {"image_size": 16}}


def make(folder, embeddings, labels, sha256="a", **about):
    """An index of `embeddings`, which are not normalised."""
    folder.mkdir(exist_ok=True)
    rows = [index.Row(f"{label}/{i}.jpg", 1, 1, f"{i:064x}", label) for i, label in enumerate(labels)]
    about = {"images": "/photos", "dim": embeddings.shape[1], "dtype": str(embeddings.dtype), **NETWORK, **about}
    index.write(folder, {**about, "weights": {"sha256": sha256}}, rows, [embeddings])
    return Index(folder)


def pairs(embeddings, labels):
    """Similarities of the pairs of one class and of different classes."""
    x = embeddings.astype(float)
    all_pairs = [(float(x[i] @ x[j]), labels[i] == labels[j]) for i, j in itertools.combinations(range(len(x)), 2)]
    return [np.array([s for s, same in all_pairs if same is wanted]) for wanted in (True, False)]


@st.composite
def labelled_embeddings(draw):
    """Multiples of 1/4, so that products are exact in float32 and many are equal."""
    n = draw(st.integers(18, 60))
    quarters = st.lists(st.integers(-2, 2), min_size=4, max_size=4)
    x = np.array(draw(st.lists(quarters, min_size=n, max_size=n))) / 4
    return x, [str(i % draw(st.integers(2, 5))) for i in range(n)]


@hypothesis.given(labelled_embeddings(), st.sampled_from(["float16", "float32"]), st.integers(7, 70))
@hypothesis.settings(max_examples=20, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
def test_thresholds_are_those_of_all_pairs(tmp_path, monkeypatch, drawn, dtype, tile):
    monkeypatch.setattr(thresholds, "_TILE", tile)
    monkeypatch.setattr(thresholds, "SCALE", 2**10)
    x, labels = drawn
    same, different = pairs(x, labels)
    hypothesis.assume(len(same) and len(different) >= 100)
    found = thresholds.measure(make(tmp_path / "index", x.astype(dtype), labels))
    assert (found.counts.same.sum(), found.counts.different.sum()) == (len(same), len(different))
    for name, one_in in thresholds.LEVELS.items():
        level = found.at[name]
        if len(different) < one_in:
            assert level is None
            continue
        assert level.fmr == np.mean(different >= level.similarity) <= 1 / one_in
        assert np.mean(different >= level.similarity - 2**-10) > 1 / one_in  # ties pass or fail together
        assert level.fnmr == pytest.approx(np.mean(same < level.similarity), abs=1e-12)
    edges = np.unique(np.concatenate([same, different, [-1, 1.1]]))
    gaps = [(abs((f := np.mean(different >= t)) - (n := np.mean(same < t))), (f + n) / 2) for t in edges]
    assert any(found.equal_error_rate == pytest.approx(mean) for gap, mean in gaps if gap <= min(gaps)[0] + 1e-12)


def test_similarities_that_rounding_puts_outside_are_counted():
    x = np.full((20, 3), 0.57735035, np.float32)  # the product is just above 1
    x[10:] *= -1
    counts = thresholds.count_pairs(x, np.arange(20), np.arange(20) % 2)
    assert counts.same.sum() + counts.different.sum() == 190
    assert counts.different[-1] == 50 and counts.different[0] == 50


def spread(count, classes, seed=0):
    """Unit vectors of float32 around a centre per class, and class names."""
    rng = np.random.default_rng(seed)
    labels = [f"class {i % classes}" for i in range(count)]
    x = rng.normal(size=(classes, 8))[np.arange(count) % classes] + 0.6 * rng.normal(size=(count, 8))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), labels


def test_what_is_kept_in_the_index(tmp_path, capsys):
    x, labels = spread(60, 4)
    opened = make(tmp_path / "index", x, ["", *labels[1:]])
    assert thresholds.read(opened) is None
    assert calibrate(Use(index=opened.folder)) == []
    out = capsys.readouterr().out
    assert "59 of 4 classes" in out and "1 pictures that are in no class folder" in out and "0.1 %" in out
    content = json.loads((opened.folder / "calibration.json").read_text())
    assert content["pairs_of_one_class"] + content["pairs_of_different_classes"] == 59 * 58 // 2
    found = thresholds.read(opened)
    assert found.at == {name: content["at"][name]["similarity"] for name in ("0.01", "0.001")}
    assert found.at["0.01"] < found.at["0.001"] and (found.pictures, found.classes) == (59, 4)
    assert found.is_match(found.at["0.01"]) and not found.is_match(found.at["0.01"] - 1e-6)
    with PIL.Image.open(opened.folder / "calibration.png") as figure:
        assert figure.size[0] > figure.size[1] > 300 and len(np.unique(np.asarray(figure.convert("L")))) > 20
    updated = make(tmp_path / "index", x[:30], labels[:30])
    assert thresholds.read(updated) == found  # more or fewer pictures, the same network
    assert capsys.readouterr().err == ""


def test_what_is_not_of_this_network_is_ignored(tmp_path, capsys):
    x, labels = spread(40, 4)
    opened = make(tmp_path / "index", x, labels)
    thresholds.write(opened, thresholds.measure(opened))
    assert "0.001" not in thresholds.read(opened).at  # 600 pairs are too few
    other = make(tmp_path / "index", x, labels, sha256="b")
    assert thresholds.read(other) is None
    err = capsys.readouterr().err
    assert "SHA-256 a, and b here" in err and f"--mode=calibrate --index={other.folder}" in err
    assert thresholds.read(make(tmp_path / "index", x, labels, preprocessing={"image_size": 32})) is None
    assert "another network" in capsys.readouterr().err
    for damage in ("{", "{}", '{"version": 1, "at": {"0.01": null, "0.001": null}, "network": {}}', "[1]"):
        (opened.folder / "calibration.json").write_text(damage)
        assert thresholds.read(opened) is None
    assert capsys.readouterr().err.count("is damaged") == 4


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([""] * 30, "none of its pictures is in a class folder"),
        (["a"] * 30, "all of one class"),
        ([f"{i}" for i in range(30)], "each of its 30 classes has a single picture"),
        (["a", "b"] * 5, "has 25 pairs of different classes, and a false match rate of 1 % needs 100"),
    ],
)
def test_an_index_without_pairs_is_refused(tmp_path, labels, message):
    opened = make(tmp_path / "index", spread(len(labels), 2)[0], labels)
    before = sorted(opened.folder.iterdir())
    with pytest.raises(InputError, match=f"cannot be calibrated: .*{message}.*(two or more classes|Add pictures)"):
        calibrate(Use(index=opened.folder))
    assert sorted(opened.folder.iterdir()) == before


def test_of_more_pictures_a_fixed_sample_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(thresholds, "MAX_PICTURES", 40)
    opened = make(tmp_path / "index", *spread(90, 3))
    first, second = thresholds.measure(opened), thresholds.measure(opened)
    assert (first.pictures, first.labelled) == (40, 90) and first.at == second.at
    assert first.counts.same.sum() + first.counts.different.sum() == 40 * 39 // 2
