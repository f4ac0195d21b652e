"""Held-out classes and the sampling of pairs."""

import jax
import numpy as np
import pytest

from symm_jax import errors
from symm_jax.data import pairs

LABELS = np.repeat(np.arange(9), [1, 2, 3, 4, 5, 6, 7, 1, 9])
ALL = np.arange(len(LABELS))


def test_pairs_are_of_distinct_classes_and_different_images():
    table = pairs.class_table(LABELS, ALL)
    drawn = pairs.sample_steps(jax.random.key(3), 10, 200, table, 5)
    labels = LABELS[drawn]
    assert (labels[..., 0] == labels[..., 1]).all()
    assert (drawn[..., 0] != drawn[..., 1]).all()
    assert all(len(set(row)) == 5 for row in labels[..., 0])
    assert set(drawn.ravel()) == set(np.flatnonzero((LABELS != 0) & (LABELS != 7)))  # every image with a partner


def test_several_images_of_a_class_are_different_and_equally_likely():
    table = pairs.class_table(LABELS, ALL, 4)
    drawn = pairs.sample_steps(jax.random.key(3), 0, 1024, table, 8, 4).reshape(-1, 4, 4)  # step, class, image
    labels = LABELS[drawn]
    assert (labels == labels[..., :1]).all() and all(len(set(row)) == 4 for row in labels[..., 0])
    assert all(len(set(row)) == 4 for row in drawn.reshape(-1, 4))
    counts = np.bincount(drawn.ravel(), minlength=len(LABELS))
    assert not counts[np.isin(LABELS, [0, 1, 2, 7])].any()  # classes of 1, 2, 3 and 1 images
    of_nine = counts[LABELS == 8]
    np.testing.assert_allclose(of_nine, of_nine.mean(), rtol=0.2)  # 4 standard deviations


def test_pairs_are_a_function_of_key_and_step():
    table, key = pairs.class_table(LABELS, ALL), jax.random.key(3)
    steps = pairs.sample_steps(key, 0, 6, table, 5)
    np.testing.assert_array_equal(steps[4:], pairs.sample_steps(key, 4, 2, table, 5))
    assert not np.array_equal(steps[0], steps[1])
    assert not np.array_equal(steps, pairs.sample_steps(jax.random.key(4), 0, 6, table, 5))


def test_pairs_are_the_same_with_64_bits_enabled():
    table, key = pairs.class_table(LABELS, ALL), jax.random.key(3)
    expected = pairs.sample_steps(key, 0, 3, table, 5)
    with jax.enable_x64(True):
        found = pairs.sample_steps(key, 0, 3, table, 5)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, expected)


def test_an_epoch_has_every_image_once_and_the_next_another_order():
    table, key = pairs.class_table(LABELS, ALL, 1), jax.random.key(3)
    epochs = pairs.sample_steps(key, 0, 12, table, 3, 1).reshape(2, 36)  # 38 images: 6 batches of 6, and 2 are left
    for epoch in epochs:
        assert len(set(epoch)) == 36 and set(epoch) <= set(ALL)
    assert not np.array_equal(*epochs)
    whole = pairs.sample_steps(key, 0, 100, table, 19, 1).reshape(100, 38)  # one batch is an epoch
    assert all(set(epoch) == set(ALL) for epoch in whole)
    firsts = np.bincount(whole[:, 0], minlength=38)
    assert (firsts > 0).sum() > 25  # 35 expected


def test_a_step_of_an_epoch_is_a_function_of_key_and_step():
    table, key = pairs.class_table(LABELS, ALL, 1), jax.random.key(3)
    steps = pairs.sample_steps(key, 0, 20, table, 3, 1)
    np.testing.assert_array_equal(steps[4:15], pairs.sample_steps(key, 4, 11, table, 3, 1))
    on_device = jax.jit(lambda step: pairs.sample(key, step, table, 3, 1))
    for step in (0, 5, 6, 19):
        np.testing.assert_array_equal(steps[step], on_device(np.int32(step)))
    with jax.enable_x64(True):
        ours = pairs.sample_steps(key, 5, 2, table, 3, 1)
    assert ours.dtype == np.int32
    np.testing.assert_array_equal(steps[5:7], ours)
    assert not np.array_equal(steps, pairs.sample_steps(jax.random.key(4), 0, 20, table, 3, 1))


def test_a_batch_larger_than_the_training_set_is_refused():
    table = pairs.class_table(LABELS[:37], ALL[:37], 1)
    pairs.require_classes(table, 18, 1)
    with pytest.raises(errors.InputError, match="batch_size: 38 images, and the training set has 37. .* at most 36"):
        pairs.require_classes(table, 19, 1)


def test_too_few_classes_are_named():
    with pytest.raises(
        errors.InputError, match=r"batch_size: 16 images need 8 classes with 2 .* has 7. Lower it to at most 14"
    ):
        pairs.require_classes(pairs.class_table(LABELS, ALL), 8)


@pytest.mark.parametrize("seed", [-1, 0, 1])
def test_held_out_classes_are_never_drawn(seed):
    shuffled = np.random.default_rng(0).permutation(LABELS)
    kept, held_out = pairs.hold_out(shuffled, 3, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, held_out])), ALL)
    validation, training = set(shuffled[held_out]), set(shuffled[kept])
    assert len(validation) == 3 and not validation & training
    drawn = pairs.sample_steps(jax.random.key(3), 0, 100, pairs.class_table(shuffled, kept), 4)
    assert set(shuffled[drawn.ravel()]) == training - {0, 7}  # classes 0 and 7 have one image


def test_held_out_classes_are_the_last_or_drawn_with_the_seed():
    def classes(seed):
        return set(LABELS[pairs.hold_out(LABELS, 3, seed)[1]])

    assert classes(-1) == {6, 7, 8}
    np.testing.assert_array_equal(pairs.hold_out(LABELS, 3)[1], pairs.hold_out(LABELS, 3, -1)[1])
    drawn = [classes(seed) for seed in range(20)]
    assert drawn == [classes(seed) for seed in range(20)]
    assert len({tuple(sorted(c)) for c in drawn}) > 10
    assert set.union(*drawn) == set(range(9))


@pytest.mark.parametrize("seed", [-1, 0])
def test_no_class_or_too_many_are_held_out(seed):
    kept, held_out = pairs.hold_out(LABELS, 0, seed)
    assert len(kept) == len(LABELS) and not len(held_out)
    assert len(pairs.hold_out(LABELS, 7, seed)[0])
    with pytest.raises(errors.InputError, match="validation_classes: 8: the training set has 9 classes"):
        pairs.hold_out(LABELS, 8, seed)
