"""Training: bit for bit the same after a resume, the same from images on the device, and safe when it ends early."""

import hashlib
import json
import os
import shutil
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import photographs
import pytest

from symm_jax import errors, files, report, synthesis
from symm_jax.evaluation.evaluate import evaluate
from symm_jax.run import checkpoints, config_json, metric_log, paths
from symm_jax.run import workdir as workdirs
from symm_jax.training import loop
from symm_jax.training.recipe import Pretrained, create_recipe
from symm_jax.training.step import create_state
from symm_jax.training.train import forget_later_results, load_backbone, train


def digest(workdir, step, config):
    recipe = create_recipe(config)
    state = create_state(recipe, restore_from=workdir)
    assert int(state.step) == step
    return [hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest() for leaf in jax.tree.leaves(state)]


def test_a_resumed_run_is_the_same_run(tiny, tmp_path, one_device, capsys):
    whole, parts = tmp_path / "whole,seed=[0]", tmp_path / "parts"
    train(tiny, whole)
    tiny.num_steps = 3
    train(tiny, parts)
    assert checkpoints.steps(parts) == [3]
    assert workdirs.finished(parts) == 3
    # Later checkpoints that are damaged: one has the digests of another step, and one is a stray folder.
    shutil.copytree(paths.checkpoint(parts, 3), paths.checkpoint(parts, 5))
    paths.checkpoint(parts, 9).mkdir()
    with open(paths.metrics(parts, "train"), "a") as log:
        log.write('{"step": 5, "loss": 1.0}\n')
    tiny.num_steps = 6
    train(tiny, parts)
    said = capsys.readouterr().err
    assert "checkpoints/9 cannot be read" in said and "checkpoints/5 cannot be read (its digests are of step 3)" in said
    assert "kept as" in said and (paths.checkpoints(parts) / "damaged-5/params").is_dir()
    assert workdirs.finished(parts) == 6
    assert checkpoints.steps(parts) == checkpoints.steps(whole) == [3, 6]
    assert digest(parts, 6, tiny) == digest(whole, 6, tiny)
    lines = [metric_log.read(paths.metrics(w, "train")) for w in (whole, parts)]
    for line in lines[0] + lines[1]:
        del line["images_per_second"]
    assert lines[0] == lines[1]
    assert [line["step"] for line in lines[0]] == [1, 2, 3, 4, 5, 6]


def test_images_on_the_device_make_the_same_run(tiny, config_flag, tmp_path, launch):
    fed, resident = tmp_path / "fed", tmp_path / "resident"
    tiny.num_steps, tiny.log_every, tiny.checkpoint_every = 5, 2, 3
    tiny.optimizer.eps = 1e-3  # or Adam makes steps of the rounding of gradients near 0
    for workdir, where in ((fed, "never"), (resident, "always")):
        command = [config_flag(tiny), f"--workdir={workdir}", f"--config.data.on_device={where}", "--mode=train"]
        training = launch.start(*command, optimised=True)
        assert training.wait(240) == 0, training.output()
    assert checkpoints.steps(resident) == [3, 5]
    lines = [metric_log.read(paths.metrics(w, "train")) for w in (fed, resident)]
    assert [line["step"] for line in lines[1]] == [2, 4, 5]  # the last step is always logged
    np.testing.assert_allclose(*([line["loss"] for line in some] for some in lines), rtol=1e-5)
    states = [create_state(create_recipe(tiny), restore_from=w) for w in (fed, resident)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), *states)


def test_a_run_keeps_its_newest_checkpoints(tiny, tmp_path, one_device):
    tiny.num_steps, tiny.checkpoint_every, tiny.keep_checkpoints, tiny.log_every = 5, 1, 2, 100
    train(tiny, tmp_path / "run")
    assert checkpoints.steps(tmp_path / "run") == [4, 5]
    (line,) = metric_log.read(paths.metrics(tmp_path / "run", "train"))
    assert line["step"] == 5  # the last step is logged, also of a run that is shorter than log_every
    tiny.num_steps = 6
    train(tiny, tmp_path / "run")
    assert checkpoints.steps(tmp_path / "run") == [5, 6]


def test_a_backbone_that_does_not_train_from_scratch_warns(capsys):
    assert load_backbone(Pretrained("resnet50", "", False)) is None
    assert "resnet50 has its batch norms folded" in capsys.readouterr().err
    load_backbone(Pretrained("resnet50", "", True))
    load_backbone(Pretrained("convnet", "", False))
    assert not capsys.readouterr().err


def test_another_configs_workdir_is_refused(tiny, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text(json.dumps(config_json.to_dict(tiny)))
    params = {"w": jnp.ones(2)}
    with checkpoints.Writer(tmp_path / "run", {}) as writer:
        writer.save(3, params, params)
    tiny.model.dim = 16
    tiny.num_steps = 99  # may change
    with pytest.raises(errors.InputError, match=r"another config:\n  model.dim: 16, there 8\n"):
        train(tiny, tmp_path / "run")


def test_a_busy_or_impossible_workdir_is_refused(tiny, tmp_path):
    with (
        files.lock(tmp_path / "run/.lock"),
        pytest.raises(errors.InputError, match=f"another process trains in .*process {os.getpid()}"),
    ):
        train(tiny, tmp_path / "run")
    (tmp_path / "file").touch()
    with pytest.raises(errors.InputError, match="workdir: .* cannot be written"):
        train(tiny, tmp_path / "file")


def test_a_corrupt_test_photograph_is_found_before_training(tiny, tmp_path, cars, one_device):
    path = cars / "car_ims/000024.jpg"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(errors.InputError, match="car_ims/000024.jpg cannot be decoded"):
        train(tiny, tmp_path / "run")
    assert checkpoints.steps(tmp_path / "run") == []


def test_what_evaluation_would_refuse_is_refused_before_training(tiny, tmp_path):
    tiny.recall_ks = (1, 9)
    with pytest.raises(
        errors.InputError, match=r"recall_ks: \(1, 9\): a test image can be compared with only 8 others"
    ):
        train(tiny, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_more_pairs_than_classes_are_refused(tiny, tmp_path):
    tiny.batch_size = 16
    with pytest.raises(errors.InputError, match="16 images need 8 classes .* has 5"):
        train(tiny, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")  # the learning rate is infinite in float32
def test_divergence_stops_the_run_and_saves_nothing(tiny, tmp_path, one_device):
    tiny.optimizer.learning_rate, tiny.num_steps = 1e39, 1  # the loss and gradient of step 1 are still finite
    with pytest.raises(FloatingPointError, match=r"diverged by step 1: params.* contain NaN or infinity"):
        train(tiny, tmp_path / "run")
    assert checkpoints.steps(tmp_path / "run") == [] and workdirs.finished(tmp_path / "run") is None
    with pytest.raises(FloatingPointError, match=r"diverged by step 2 \(seed 0\): loss = nan"):
        loop._require_finite({"loss": float("nan"), "gradient_norm": 1.0}, 2, 0)


def test_metric_lines_past_the_resumed_step_and_torn_ones_go(tmp_path):
    path = paths.metrics(tmp_path, "train")
    path.parent.mkdir()
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n{"step": 3, "lo')
    assert [line["step"] for line in metric_log.read(path)] == [1, 2]
    with metric_log.MetricLog(tmp_path, "train", last_step=1) as log:
        log.write(2, {"loss": 0.5})
    assert metric_log.read(path) == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 0.5}]
    path.write_text('{"step": 1, "loss": 2.0}\ngarbage\n')
    with pytest.raises(errors.InputError, match=r"metrics.jsonl, line 2 is damaged .*Move the line to another"):
        metric_log.read(path)


def test_a_resume_waits_for_a_measurement_before_it_forgets_later_ones(tmp_path, capsys):
    measuring = threading.Event()

    def measure():
        with files.lock(paths.reading_lock(tmp_path)), metric_log.MetricLog(tmp_path, "eval") as log:
            measuring.set()
            time.sleep(0.3)
            log.write(1, {"recall@1": 0.5})
            log.write(2, {"recall@1": 0.9})

    thread = threading.Thread(target=measure)
    thread.start()
    assert measuring.wait(10)
    forget_later_results(tmp_path, 1)
    thread.join()
    assert [line["step"] for line in metric_log.read(paths.metrics(tmp_path, "eval"))] == [1]
    assert "another process evaluates in" in capsys.readouterr().out


def test_points_are_drawn(tmp_path):
    rng = np.random.default_rng(0)
    report.draw_points(tmp_path / "p.png", *rng.normal(size=(2, 4, 8)).astype(np.float32), synthesis.symmetric)
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_sigterm_saves_and_the_run_goes_on(tiny, config_flag, tmp_path, launch):
    tiny.checkpoint_every = tiny.num_steps = 10**6
    training = launch.start(config_flag(tiny), f"--workdir={tmp_path / 'run'}", "--mode=train")
    path, deadline = paths.metrics(tmp_path / "run", "train"), time.monotonic() + 240
    while len(metric_log.read(path)) < 2 and training.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    training.send_signal(signal.SIGTERM)
    assert training.wait(60) == 143, training.output()
    (step,) = checkpoints.steps(tmp_path / "run")
    assert step == metric_log.read(path)[-1]["step"]
    assert f"stopped by SIGTERM at step {step}" in training.output()
    assert workdirs.finished(tmp_path / "run") is None


def test_a_run_does_not_go_on_with_other_data(tiny, one_device, tmp_path):
    tiny.num_steps, tiny.checkpoint_every = 2, 2
    train(tiny, tmp_path / "run")
    photographs.cars_original(tmp_path / "other", classes=(1, 2, 3, 4, 5, 98, 99, 100, 196))
    before = (tmp_path / "run/config.json").read_bytes()
    tiny.num_steps = 1  # it would be a config of another length beside the checkpoint of step 2
    with pytest.raises(errors.InputError, match=r"num_steps: 1, but .* holds a checkpoint of step 2\. Pass at least"):
        train(tiny, tmp_path / "run")
    assert (tmp_path / "run/config.json").read_bytes() == before
    tiny.data.dir, tiny.num_steps = str(tmp_path / "other"), 4
    with pytest.raises(errors.InputError, match="its train split was 15 images of 5 classes .* 18 images of 6"):
        train(tiny, tmp_path / "run")
    assert (tmp_path / "run/config.json").read_bytes() == before
    photographs.cars_original(tmp_path / "more", classes=(1, 2, 3, 4, 98, 99, 100, 101))
    tiny.data.dir = str(tmp_path / "more")
    with pytest.raises(errors.InputError, match="other data: its test split was"):
        evaluate(tiny, [tmp_path / "run"])


def test_another_picture_in_the_place_of_one_is_other_data(tiny, one_device, tmp_path, cars):
    run = tmp_path / "run"
    tiny.num_steps, tiny.clustering, before = 1, False, tiny.losses
    train(tiny, run)
    evaluate(tiny, [run])
    tiny.num_steps = 2
    photographs.photograph(cars / "car_ims/000024.jpg", 77)
    (run / "eval/metrics.jsonl").rename(run / "eval/before.jsonl")
    for refuse in (train, report.write, lambda config, workdir: evaluate(config, [workdir])):
        with pytest.raises(errors.InputError, match="other data: its test images' digest was"):
            refuse(tiny, run)
    tiny.losses = ({"name": "npair", "l2_normalize": True},)
    with pytest.raises(errors.InputError, match=r"(?s)checkpoints of another config:.*losses"):
        report.write(tiny, run)
    tiny.losses = before
    photographs.photograph(cars / "car_ims/000001.jpg", 77)
    with pytest.raises(errors.InputError, match="other data: its train images' digest was"):
        train(tiny, run)
