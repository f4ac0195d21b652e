"""Evaluation: every checkpoint once, honestly, whatever happens to the files meanwhile."""

import json
import shutil
import signal
import threading
import time

import jax
import numpy as np
import photographs
import pytest

from symm_jax import errors, files, metrics
from symm_jax.data import datasets
from symm_jax.evaluation.evaluate import evaluate
from symm_jax.evaluation.protocol import create_protocol
from symm_jax.run import best, checkpoints, config_json, paths
from symm_jax.run import workdir as workdirs
from symm_jax.training.recipe import create_recipe
from symm_jax.training.step import create_state


@pytest.fixture
def quick(tiny, one_device):
    tiny.clustering = False
    return tiny


def write_run(config, workdir, *steps, change=lambda params, step: params):
    """A workdir with checkpoints of random weights, another seed a step."""
    recipe = create_recipe(config)
    workdir.mkdir(exist_ok=True)
    (workdir / "config.json").write_text(json.dumps(config_json.to_dict(config)))
    with checkpoints.Writer(workdir, {}) as writer:
        for step in steps:
            state = create_state(recipe._replace(key=jax.random.key(step)))
            writer.save(step, change(state.params, step), state.opt_state)
    return workdir


def diverged(params, step):
    return jax.tree.map(lambda x: x * np.float32(np.nan), params) if step == 2 else params


def metric_lines(workdir):
    return paths.metrics(workdir, "eval").read_text()


def test_results_are_those_of_all_images_and_nothing_is_done_twice(tiny, tmp_path, capsys):
    tiny.eval_batch_size = 2  # 9 test photographs on 8 devices: the last batch is filled up
    workdir = write_run(tiny, tmp_path / "run", 3)
    assert evaluate(tiny, [workdir]) == []
    (row,) = best.results(workdir)
    test = datasets.load(datasets.Source.from_section(tiny.data), "test", tiny.data.image_size)
    recipe = create_recipe(tiny)
    params = create_state(recipe._replace(key=jax.random.key(3))).params
    embeddings = recipe.model.apply({"params": params}, test.images)
    expected = metrics.retrieval(embeddings, test.labels, tiny.recall_ks) | metrics.clustering(embeddings, test.labels)
    assert row == pytest.approx({"step": 3} | expected)
    assert list(row)[1:] == create_protocol(tiny).columns
    np.testing.assert_allclose(np.load(workdir / "best/embeddings.npy"), embeddings, atol=1e-5)
    assert "9 images of 3 classes\n" in capsys.readouterr().out
    before = metric_lines(workdir)
    assert evaluate(tiny, [workdir]) == []
    assert metric_lines(workdir) == before
    assert "images of" not in capsys.readouterr().out  # nor were the images loaded
    tiny.recall_ks = (1, 3)
    evaluate(tiny, [workdir])
    assert "recall@3" in best.results(workdir)[0]
    assert evaluate(tiny, [workdir / "best"]) == []  # best/ is a workdir


def test_held_out_classes_choose_the_checkpoint(quick, tmp_path, capsys):
    quick.data.validation_classes, quick.batch_size = 2, 4
    workdir = write_run(quick, tmp_path / "run", 1, 2, 3)
    evaluate(quick, [workdir])
    rows = best.results(workdir)
    validation = datasets.load(datasets.Source.from_section(quick.data), "validation", quick.data.image_size)
    assert len(validation.labels) == 6
    how, row = best.select_best(rows)
    assert how == "validation"
    assert row["validation/recall@1"] == max(r["validation/recall@1"] for r in rows)
    kept = best.read(workdir)
    assert (kept["step"], kept["chosen_by"], kept["value"]) == (row["step"], "validation", row["validation/recall@1"])
    printed = capsys.readouterr().out
    assert "chosen on held-out training classes" in printed and "optimistic" in printed


def test_damaged_and_diverged_checkpoints_are_named_and_skipped(quick, tmp_path, capsys):
    workdir = write_run(quick, tmp_path / "run", 1, 2, 3, 4, change=diverged)
    shutil.rmtree(workdir / "checkpoints/3/params")
    faults = evaluate(quick, [workdir])
    assert len(faults) == 2
    assert "checkpoints/2: 9 of 9 embeddings contain NaN" in faults[0]
    assert "checkpoints/3 cannot be read" in faults[1]
    assert [row["step"] for row in best.results(workdir)] == [1, 4]
    assert capsys.readouterr().err.count("skipped: ") == 2


def test_a_checkpoint_that_is_deleted_meanwhile_is_no_error(quick, tmp_path, monkeypatch, capsys):
    workdir = write_run(quick, tmp_path / "run", 1, 2)
    restore = checkpoints.restore

    def delete_first(folder, step, **items):
        if step == 1:
            shutil.rmtree(paths.checkpoint(folder, "1"))
        return restore(folder, step, **items)

    monkeypatch.setattr(checkpoints, "restore", delete_first)
    assert evaluate(quick, [workdir]) == []
    assert [row["step"] for row in best.results(workdir)] == [2]
    assert "checkpoints/1 was deleted" in capsys.readouterr().out


def test_the_best_follows_what_is_left(quick, tmp_path):
    workdir = write_run(quick, tmp_path / "run", 1, 2, 3)
    evaluate(quick, [workdir])
    kept = best.read(workdir)["step"]
    shutil.rmtree(workdir / "best")  # an older run has none
    evaluate(quick, [workdir])
    assert best.read(workdir)["step"] == kept
    shutil.rmtree(workdir / f"checkpoints/{kept}")  # deleted, but kept in best/
    evaluate(quick, [workdir])
    assert best.read(workdir)["step"] == kept


def test_several_workdirs_may_differ_in_their_seed_alone(quick, tmp_path):
    folders = [write_run(quick, tmp_path / "a", 1)]
    quick.seed = 7
    folders.append(write_run(quick, tmp_path / "b", 2))
    evaluate(quick, folders)
    assert [[row["step"] for row in best.results(w)] for w in folders] == [[1], [2]]
    quick.model.dim = 16
    with pytest.raises(errors.InputError, match=r"a holds .* another config:\n  model.dim: 16, there 8\n"):
        evaluate(quick, folders)


def test_a_config_that_was_changed_after_the_checkpoints_is_refused(quick, tmp_path):
    workdir = write_run(quick, tmp_path / "run", 1)
    config = config_json.to_dict(quick)
    copy = paths.checkpoint(workdir, 1) / "config" / "metadata"
    copy.write_text(json.dumps(config | {"num_steps": 99, "seed": 5}))  # a longer run of another seed is the same
    quick.data.image_size = 17
    paths.config(workdir).write_text(json.dumps(config_json.to_dict(quick)))
    with pytest.raises(
        errors.InputError, match=r"(?s)config.json was changed after .*image_size: 17, there 16\nTo res.* cp"
    ):
        evaluate(quick, [workdir])


def test_what_cannot_be_measured_is_said_first(quick, tmp_path):
    with pytest.raises(errors.InputError, match="nothing holds no checkpoints"):
        evaluate(quick, [tmp_path / "nothing"])
    workdir = write_run(quick, tmp_path / "run", 1)
    quick.recall_ks = (1, 9)
    with pytest.raises(
        errors.InputError, match=r"recall_ks: \(1, 9\): a test image can be compared with only 8 others"
    ):
        evaluate(quick, [workdir])
    photographs.cars_original(tmp_path / "one", classes=(1, 2, 3, 100))
    quick.data.dir, quick.recall_ks = str(tmp_path / "one"), (1,)
    with pytest.raises(errors.InputError, match="3 images of 1 classes, and evaluation needs two classes"):
        evaluate(quick, [workdir])


def test_images_alone_in_their_class_are_reported(quick, tmp_path, capsys, cars):
    (cars / "cars_annos.mat").unlink()
    shutil.rmtree(cars / "car_ims")
    rows = photographs.cars_original(cars)
    photographs.write_annotations(cars, rows[:-2])
    workdir = write_run(quick, tmp_path / "run", 1)
    quick.recall_ks = (1,)
    evaluate(quick, [workdir])
    assert "7 images of 3 classes; 1 alone in their class are not used as queries" in capsys.readouterr().out


def test_a_second_evaluator_waits_for_the_first(quick, tmp_path, capsys):
    workdir = write_run(quick, tmp_path / "run", 1)
    with files.lock(workdir / "eval/.lock"):
        second = threading.Thread(target=evaluate, args=(quick, [workdir]))
        second.start()
        time.sleep(1)
        assert second.is_alive() and not best.results(workdir)
    second.join(60)
    assert len(best.results(workdir)) == 1
    assert "another process evaluates" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["no embeddings", "no choice", "half a choice"])
def test_a_damaged_best_is_selected_again(quick, tmp_path, damage, capsys):
    workdir = write_run(quick, tmp_path / "run", 1)
    evaluate(quick, [workdir])
    before = best.read(workdir)
    embeddings = np.load(workdir / "best/embeddings.npy")
    if damage == "no embeddings":
        (workdir / "best/embeddings.npy").unlink()
    else:
        (workdir / "best/choice.json").write_text("" if damage == "no choice" else '{"step": 1}')
    evaluate(quick, [workdir])
    assert best.read(workdir) == before
    np.testing.assert_array_equal(np.load(workdir / "best/embeddings.npy"), embeddings)
    assert ("selected again" in capsys.readouterr().err) == (damage != "no embeddings")


def test_watching_in_vain_is_a_fault(quick, tmp_path):
    (fault,) = evaluate(quick, [tmp_path / "run"], watch=True, watch_minutes=0.001)
    assert "no checkpoints came within 0.001 minutes" in fault


def test_watching_ends_with_training_or_with_its_time(quick, tmp_path):
    workdir = write_run(quick, tmp_path / "run", 1)
    start = time.monotonic()
    evaluate(quick, [workdir], watch=True, watch_minutes=0.01)
    assert time.monotonic() - start < 60
    watcher = threading.Thread(target=evaluate, args=(quick, [workdir]), kwargs={"watch": True})
    watcher.start()
    write_run(quick, workdir, 2, 3)
    workdirs.mark_finished(workdir, 3)
    watcher.join(60)
    assert not watcher.is_alive()
    assert [row["step"] for row in best.results(workdir)] == [1, 2, 3]


def test_an_evaluator_follows_a_run_from_the_command_line(quick, config_flag, tmp_path, launch):
    quick.num_steps, quick.checkpoint_every = 6, 2
    command = [config_flag(quick), f"--workdir={tmp_path / 'run'}"]
    run = tmp_path / "run"
    watcher = launch.start(*command, "--mode=eval", "--watch")
    training = launch.start(*command, "--mode=train")
    assert training.wait(240) == 0, training.output()
    assert watcher.wait(120) == 0, watcher.output()
    assert watcher.output().startswith("waiting   for checkpoints")
    assert [row["step"] for row in best.results(run)] == [2, 4, 6]

    (run / "finished").unlink()
    shutil.rmtree(run / "checkpoints/4/params")
    paths.metrics(run, "eval").unlink()
    watcher = launch.start(*command, "--mode=eval", "--watch")
    deadline = time.monotonic() + 120
    while len(best.results(run)) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    watcher.send_signal(signal.SIGINT)
    assert watcher.wait(60) == 130, watcher.output()
    assert "interrupted" in watcher.output() and "Traceback" not in watcher.output()

    again = launch(*command, "--mode=eval", devices=1)
    assert again.returncode == 1, again.stderr
    assert "error: could not be measured:\n  checkpoint" in again.stderr
    assert "checkpoints/4 cannot be read" in again.stderr
