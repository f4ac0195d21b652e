"""The rendered data set: deterministic, without look-alikes, with test classes never seen in training."""

import io
import sys

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from symm_jax.data import glyphs


def _render(character="R", face="DejaVuSerif", side=24, seed=0):
    return glyphs.render_in_face(character, face, side, np.random.default_rng(seed))


def test_rendering_is_a_function_of_its_arguments():
    image = _render()
    assert image.shape == (24, 24, 3) and image.dtype == np.uint8
    np.testing.assert_array_equal(image, _render())
    for other in (_render(seed=1), _render("K"), _render(face="STIXGeneral")):
        assert (image != other).any()


def test_character_is_visible_in_every_face():
    for face in glyphs.faces_of("R"):
        assert _render(face=face).std() > 10


@pytest.mark.parametrize(
    "alike", ["A\u0391\u0410", "oO\u03bf\u043e0", "sS\u0455", "lI|\u0406", "xX\u00d7\u0445", "pP\u0440"]
)
def test_look_alikes_are_one_class_at_most(alike):
    assert len(set(alike) & set(glyphs.distinct_characters())) <= 1


def test_one_face_is_enough_to_be_alike():
    # Cyrillic em and Latin M are alike in upright faces, and differ in italics.
    assert "M" in glyphs.candidates() and "\u041c" in glyphs.candidates()
    assert "\u041c" not in glyphs.distinct_characters()


def test_candidates_are_many_and_not_decomposable():
    candidates = glyphs.candidates()
    assert len(candidates) > 2000 and len(set(candidates)) == len(candidates)
    assert not set("\u00e9\ufb01\u00b2\U0001d538") & set(candidates)  # accent, ligature, superscript, other style
    counts = [len(glyphs.faces_of(c)) for c in candidates]
    assert counts == sorted(counts, reverse=True) and counts[-1] >= 4
    assert len(glyphs.distinct_characters()) >= 500


def test_no_two_classes_render_alike():
    # Checks the definition for every pair of a sample.
    for face in ("DejaVuSans-Oblique", "STIXGeneral"):
        sample = [c for c in glyphs.sample_classes(400, 0) if face in glyphs.faces_of(c)][:60]
        shapes = [glyphs._normalised_shape(c, face) for c in sample]
        likeness = [np.corrcoef(a, b)[0, 1] for i, a in enumerate(shapes) for b in shapes[:i]]
        assert len(sample) > 30 and max(likeness) <= glyphs._LOOK_ALIKE + 1e-5


def test_classes_are_sampled_with_the_seed():
    sampled = glyphs.sample_classes(400, 0)
    assert len(set(sampled)) == 400
    assert sampled == glyphs.sample_classes(400, 0) != glyphs.sample_classes(400, 1)
    with pytest.raises(ValueError, match="num_classes = 100000"):
        glyphs.sample_classes(100_000, 0)


def _build(folder, seed=0):
    config = glyphs.GlyphsConfig(name="small", num_classes=6, images_per_class=3, side=20, seed=seed)
    builder = glyphs.Glyphs(data_dir=folder, config=config)
    builder.download_and_prepare(file_format="array_record")
    decoders = {"image": tfds.decode.SkipDecoding()}
    return {split: list(builder.as_data_source(split, decoders=decoders)) for split in ("train", "test")}


def test_builder_writes_disjoint_splits(tmp_path):
    splits = _build(tmp_path)
    assert {split: sorted(int(e["label"]) for e in rows) for split, rows in splits.items()} == {
        "train": [0, 0, 0, 1, 1, 1, 2, 2, 2],
        "test": [3, 3, 3, 4, 4, 4, 5, 5, 5],
    }
    names = {e["filename"].decode(): e for rows in splits.values() for e in rows}
    assert len(names) == 18
    classes = glyphs.sample_classes(6, 0)
    for name, example in names.items():
        assert name.split("/")[0] == f"U+{ord(classes[example['label']]):04X}"
        image = np.asarray(PIL.Image.open(io.BytesIO(example["image"])))
        index = int(name.split("/")[1].removesuffix(".png"))
        rng = np.random.default_rng([0, int(example["label"]), index])
        np.testing.assert_array_equal(image, glyphs.render(classes[example["label"]], 20, rng))
    assert "tensorflow" not in sys.modules


def test_seed_changes_the_images(tmp_path):
    first, other = (_build(tmp_path / str(seed), seed) for seed in (0, 1))
    assert {e["image"] for e in first["train"]}.isdisjoint(e["image"] for e in other["train"])
