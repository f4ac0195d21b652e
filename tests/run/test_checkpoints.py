"""Checkpoints: what is listed is whole, what is damaged is refused."""

import gc
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from symm_jax import errors, files
from symm_jax.run import checkpoints, paths

PARAMS = {"w": jnp.linspace(-1, 1, 3000).reshape(50, 60), "b": jnp.zeros(4, jnp.bfloat16)}


def write(workdir, *steps):
    with checkpoints.Writer(workdir, {}) as writer:
        for step in steps:
            writer.save(step, PARAMS, {"count": jnp.asarray(step)})


def read(workdir, step):
    return checkpoints.restore(workdir, step, params=PARAMS)["params"]


def test_damaged_and_unfinished_checkpoints(tmp_path):
    write(tmp_path, 1, 2)
    (tmp_path / "checkpoints/7").mkdir()
    assert checkpoints.steps(tmp_path) == [1, 2]
    shutil.copytree(tmp_path / "checkpoints/2", tmp_path / "checkpoints/3.orbax-checkpoint-tmp")
    checkpoints.remove_unfinished(tmp_path)
    assert checkpoints.steps(tmp_path) == [1, 2]
    np.testing.assert_array_equal(read(tmp_path, 2)["w"], PARAMS["w"])
    shutil.rmtree(tmp_path / "checkpoints/2/params")
    with pytest.raises(errors.InputError, match="checkpoints/2 cannot be read"):
        read(tmp_path, 2)


# Orbax leaves reads behind that fail unheard when a file is damaged.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_flipped_bit_is_found_wherever_it_is(tmp_path):
    write(tmp_path, 1)
    files = [p for p in (tmp_path / "checkpoints/1/params").rglob("d/*") if p.is_file()]
    assert files
    for path in files:
        whole = path.read_bytes()
        for place in np.linspace(0, len(whole) - 1, 3).astype(int):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
            try:
                restored = read(tmp_path, 1)
            except errors.InputError as error:
                assert "checkpoints/1 cannot be read" in str(error)
            else:  # some bytes carry nothing
                for name, leaf in PARAMS.items():
                    np.testing.assert_array_equal(restored[name], leaf)
        path.write_bytes(whole)
    wrong = PARAMS | {"w": PARAMS["w"].astype(jnp.bfloat16)}
    with pytest.raises(errors.InputError, match=r"params\['w'\] is not what was saved"):
        checkpoints.restore(tmp_path, 1, params=wrong)
    gc.collect()  # or what was left behind fails another test


def test_a_deleted_step_is_told_from_a_damaged_one(tmp_path, monkeypatch):
    write(tmp_path, 1)
    digests = checkpoints._digests

    def delete_meanwhile(tree):
        shutil.rmtree(tmp_path / "checkpoints/1")
        raise KeyError("an item is gone")

    monkeypatch.setattr(checkpoints, "_digests", delete_meanwhile)
    with pytest.raises(FileNotFoundError, match="checkpoints/1 has been deleted"):
        read(tmp_path, 1)
    monkeypatch.setattr(checkpoints, "_digests", digests)
    with pytest.raises(FileNotFoundError):
        read(tmp_path, 1)


def test_the_newest_and_the_best_are_kept(tmp_path):
    with checkpoints.Writer(tmp_path, {}) as writer:
        for step in range(1, 6):
            writer.save(step, PARAMS, {"count": jnp.asarray(step)})
    checkpoints.delete_old(tmp_path, 2, 1)
    assert checkpoints.steps(tmp_path) == [1, 4, 5]
    assert {p.name for p in paths.checkpoints(tmp_path).iterdir()} == {"1", "4", "5"}
    checkpoints.delete_old(tmp_path, 9, None)
    assert checkpoints.steps(tmp_path) == [1, 4, 5]


def test_nothing_is_deleted_while_an_evaluator_reads(tmp_path):
    write(tmp_path, 1, 2, 3)
    with files.lock(paths.reading_lock(tmp_path)):
        checkpoints.delete_old(tmp_path, 1, None)
        assert checkpoints.steps(tmp_path) == [1, 2, 3]
    checkpoints.delete_old(tmp_path, 1, None)
    assert checkpoints.steps(tmp_path) == [3]


def test_a_writer_keeps_as_many_as_it_is_told(tmp_path):
    with checkpoints.Writer(tmp_path, {}, keep=2) as writer:
        for step in range(1, 5):
            writer.save(step, PARAMS, {"count": jnp.asarray(step)})
    assert checkpoints.steps(tmp_path) == [3, 4]
