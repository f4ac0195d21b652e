"""Which checkpoint is chosen, and the table that says so."""

import json
import math

import numpy as np
import pytest

from symm_jax import errors
from symm_jax.evaluation.table import table
from symm_jax.run import best, checkpoints, paths


def rows(*recalls, validation=None):
    lines = [{"step": 10 * (i + 1), "recall@1": recall, "map@r": 0.5} for i, recall in enumerate(recalls)]
    for line, value in zip(lines, validation or [], strict=False):
        line["validation/recall@1"] = value
    return lines


def steps(chosen):
    return {how: row["step"] for how, row in chosen.items()}


def test_without_held_out_classes_the_test_classes_choose():
    assert steps(best.select(rows(0.5, 0.9, 0.9, 0.7))) == {"test": 20, "last": 40}
    assert best.select_best(rows(0.5, 0.9))[0] == "test"


def test_held_out_classes_choose_where_there_are_any():
    lines = rows(0.5, 0.9, 0.8, validation=(0.3, 0.4, 0.6))
    assert steps(best.select(lines)) == {"validation": 30, "test": 20, "last": 30}
    how, row = best.select_best(lines)
    assert (how, row["step"]) == ("validation", 30)


def test_a_figure_that_is_not_finite_is_never_best():
    lines = rows(0.9, math.nan, 0.7, validation=(math.nan, math.nan, math.nan))
    assert steps(best.select(lines)) == {"test": 10, "last": 30}
    assert best.select([]) == {} and best.select_best(rows(math.nan)) is None


def test_the_table_names_every_choice_and_which_is_optimistic():
    lines = rows(0.25, 0.5, 0.375, validation=(0.1, 0.2, 0.3))
    text = table(lines, ["recall@1", "map@r", "validation/recall@1"]).splitlines()
    assert text[0].split() == ["step", "recall@1", "map@r", "validation/recall@1"]
    assert text[2].split() == ["20", "50.00%", "50.00%", "20.00%"]
    assert len({len(line) for line in text[:4]}) == 1
    validation, test, last = text[-3:]
    assert "step 30" in validation and "37.50%" in validation and "held-out training classes" in validation
    assert "step 20" in test and "50.00%" in test and "optimistic" in test
    assert "step 30" in last and "optimistic" not in validation + last
    assert table([], ["recall@1"]) == "no checkpoint has been evaluated"


def test_the_best_is_replaced_as_a_whole(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with checkpoints.Writer(tmp_path, {}) as writer:
        for step in (10, 20):
            writer.save(step, {"w": np.float32([step])}, {"m": np.float32([0])})
    for row in rows(0.5, 0.9):
        best.keep(tmp_path, "test", row, "recall@1", np.full((3, 2), row["step"], np.float32))
    assert {key: value for key, value in best.read(tmp_path).items() if key != "embeddings_sha256"} == {
        "step": 20,
        "chosen_by": "test",
        "metric": "recall@1",
        "value": 0.9,
        "meaning": "best on the test classes",
    }
    folder = paths.best(tmp_path)
    assert {p.name for p in folder.iterdir()} == {"checkpoints", "config.json", "embeddings.npy", "choice.json"}
    assert {p.name for p in tmp_path.iterdir()} == {"best", "checkpoints", "config.json"}
    assert checkpoints.steps(folder) == [20]
    assert checkpoints.restore(folder, 20, params={"w": np.float32([0])})["params"]["w"] == 20
    np.testing.assert_array_equal(np.load(folder / "embeddings.npy"), np.full((3, 2), 20))
    assert json.loads((folder / "config.json").read_text()) == {}
    choice = paths.choice(tmp_path)
    whole = choice.read_text()
    choice.write_text(whole.replace("0.9", "0.8"))  # one bit: no digit of it may change unnoticed
    with pytest.raises(errors.InputError, match="choice.json is damaged .*SHA-256 differs.*evaluate again"):
        best.read(tmp_path)
    choice.write_text(whole)
    best.forget(tmp_path, 20)
    assert folder.exists()
    best.forget(tmp_path, 19)  # training goes on from there and makes step 20 again
    assert not folder.exists()
